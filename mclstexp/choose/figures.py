"""Three figures of predictions: within slides, pooled over slides, and squared error; and one score of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mclstexp.metrics import pearson_by_gene
from mclstexp.types import FloatArray

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Figures:
    """What predictions of held-out slides are worth.

    Attributes
    ----------
    pcc, pooled, mse
        Mean PCC by gene within slides, mean PCC by gene over all spots together, and mean squared error by slide.
    score
        Mean of ``pcc``, ``pooled``, and the share of the training mean's squared error that is gone.
    by_slide
        ``(slides,)`` mean of the first and the last, a slide each, for its noise.
    n_effective
        Median effective number of neighbours; None where there are none.
    """

    pcc: float
    pooled: float
    mse: float
    score: float
    by_slide: Values
    n_effective: float | None = None

    def record(self) -> dict[str, float]:
        """Return plain rounded numbers."""
        values = {"pcc": self.pcc, "pcc_pooled": self.pooled, "mse": self.mse, "score": self.score}
        if self.n_effective is not None:
            values["n_effective"] = self.n_effective
        return {name: round(float(value), 4) for name, value in values.items()}


def figures(
    truth: Sequence[FloatArray],
    predicted: Sequence[FloatArray],
    plain: Sequence[float],
    *,
    n_effective: float | None = None,
) -> Figures:
    """Score predictions of held-out slides.

    Parameters
    ----------
    truth, predicted
        ``(n, G)`` of each slide; NaN where not measured.
    plain
        Squared error of the training mean on each slide.
    """
    within = [_mean_pcc(t, p) for t, p in zip(truth, predicted, strict=True)]
    errors = [float(np.nanmean((t - p) ** 2)) for t, p in zip(truth, predicted, strict=True)]
    gone = [1 - error / max(base, 1e-12) for error, base in zip(errors, plain, strict=True)]
    pooled = _mean_pcc(np.concatenate(truth), np.concatenate(predicted))
    pcc, mse = float(np.mean(within)), float(np.mean(errors))
    return Figures(
        pcc=pcc,
        pooled=pooled,
        mse=mse,
        score=(pcc + pooled + 1 - mse / max(float(np.mean(plain)), 1e-12)) / 3,
        by_slide=(np.asarray(within) + np.asarray(gone)) / 2,
        n_effective=n_effective,
    )


def noise(one: Figures, other: Figures) -> float:
    """Return the standard error of the difference between two, over the slides; infinite for a single slide."""
    if len(one.by_slide) < 2:
        return float("inf")
    difference = one.by_slide - other.by_slide
    return float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _mean_pcc(truth: FloatArray, predicted: FloatArray) -> float:
    """Return the mean PCC over genes; a gene that does not vary has none, and 0 where none has one."""
    known = np.isfinite(truth).all(axis=0) & np.isfinite(predicted).all(axis=0)
    if not known.any():
        return 0.0
    by_gene = pearson_by_gene(truth[:, known].astype(np.float64), predicted[:, known].astype(np.float64))
    return float(np.nanmean(by_gene)) if np.isfinite(by_gene).any() else 0.0
