"""How sure a model's predictions are: each gene's expected reliability, intervals, and strangeness of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import FormatError
from mclstexp.model.image.distance import ARRAYS as DISTANCE_ARRAYS
from mclstexp.model.image.distance import FeatureDistance
from mclstexp.types import FloatArray

MAX_WIDENING = 10.0

STRANGE = 0.95
"""Quantile of the held-out patches' feature distances beyond which intervals widen."""

ARRAYS = ("reliability", "quantile", "floor", "nearness", "factor", "strangeness")


@dataclass(frozen=True, eq=False)
class Calibration:
    """What cross-validation on the training side says of predictions to come; immutable.

    Attributes
    ----------
    level
        Nominal coverage of the intervals.
    folds, n_folds, n_slides
        What was held out together (``patient``, ``slide``, or ``block``: quarters of the one slide), how many times,
        and the number of slides predicted that way.
    reliability
        ``(G,)`` mean over held-out slides of the gene's PCC; NaN where it did not vary on any.
    quantile, floor
        ``(G,)`` half-width of an interval in units of ``sd + floor``; NaN for a gene never scored.
    nearness, factor
        ``(b,)`` ascending mean similarities of the 20 nearest neighbours, and how wide an interval is there.
    strangeness
        Sorted feature distances of held-out training patches.
    distance
        Measures feature distances.
    """

    level: float
    folds: str
    n_folds: int
    n_slides: int
    reliability: FloatArray
    quantile: FloatArray
    floor: FloatArray
    nearness: FloatArray
    factor: FloatArray
    strangeness: FloatArray
    distance: FeatureDistance

    def interval(
        self,
        mean: FloatArray,
        sd: FloatArray,
        columns: NDArray[np.int64],
        *,
        nearness: FloatArray,
        distance: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the lower (never below 0) and upper ends, ``(n, g)`` float32.

        Parameters
        ----------
        mean, sd
            ``(n, g)`` prediction and spread of the neighbours.
        columns
            ``(g,)`` each gene's place in the panel; -1 for a gene outside, which has no interval (NaN).
        nearness, distance
            ``(n,)`` mean similarity of the 20 nearest neighbours, and feature distance of the patch.
        """
        known = columns >= 0
        quantile = np.where(known, self.quantile[columns], np.float32(np.nan))
        wide = self.widening(nearness, distance)[:, None] * (sd + self.floor[columns]) * quantile
        lower = np.maximum(mean - wide, 0.0).astype(np.float32)
        return lower, np.asarray(mean + wide, dtype=np.float32)

    def widening(self, nearness: FloatArray, distance: FloatArray) -> FloatArray:
        """Return ``(n,)`` how much wider than usual an interval is: far neighbours and strange features widen it."""
        return widening_of(self.nearness, self.factor, self.strangeness, nearness, distance)

    def familiarity(self, distance: FloatArray) -> FloatArray:
        """Return ``(n,)`` percentile: the share of held-out training patches at least as far out as this one."""
        rank = len(self.strangeness) - np.searchsorted(self.strangeness, distance, side="left")
        return np.asarray(100.0 * rank / max(len(self.strangeness), 1), dtype=np.float32)

    def summary(self) -> str:
        """Say in one line what users may expect."""
        what = {"patient": "slides of other patients", "slide": "held-out slides"}.get(self.folds, "held-out quarters")
        known = self.reliability[~np.isnan(self.reliability)]
        median = f"{np.median(known):.2f}" if len(known) else "unknown"
        on = f"{self.n_slides} slides" if self.folds != "block" else "quarters of one slide: other slides are harder"
        return f"expected reliability: median PCC {median} on {what}; {self.level:.0%} intervals calibrated on {on}"

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays and the facts that rebuild it."""
        arrays = {f"calibration.{name}": getattr(self, name) for name in ARRAYS}
        arrays |= {f"calibration.distance.{name}": values for name, values in self.distance.state().items()}
        facts = {"level": self.level, "folds": self.folds, "n_folds": self.n_folds, "n_slides": self.n_slides}
        return arrays, {"calibration": facts}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> Calibration | None:
        """Rebuild a calibration, or None where the model has none.

        Raises
        ------
        FormatError
            When an array is missing.
        """
        if "calibration" not in facts:
            return None
        names = [*ARRAYS, *(f"distance.{name}" for name in DISTANCE_ARRAYS)]
        missing = [name for name in names if f"calibration.{name}" not in arrays]
        if missing:
            raise FormatError(f"The model lacks {missing[0]} of its calibration; train it anew.")
        distance = {name: np.asarray(arrays[f"calibration.distance.{name}"]) for name in DISTANCE_ARRAYS}
        own: dict[str, Any] = {name: np.asarray(arrays[f"calibration.{name}"]) for name in ARRAYS}
        return cls(distance=FeatureDistance(**distance), **own, **facts["calibration"])


def smaller_percentile(first: FloatArray, second: FloatArray) -> FloatArray:
    """Combine two familiarity percentiles ``(n,)`` into that of the smaller; a NaN leaves the other alone.

    The smaller of two ranks is low more often than one is; ``1 - (1 - p)^2`` is its own rank when they are
    independent, so that the reference's own patches are spread over 0 to 100 again.
    """
    share = np.minimum(first, second) / 100.0
    both = 100.0 * (1.0 - (1.0 - share) ** 2)
    return np.asarray(np.where(np.isnan(both), np.fmin(first, second), both), dtype=np.float32)


def widening_of(
    knots: FloatArray, factor: FloatArray, strangeness: FloatArray, nearness: FloatArray, distance: FloatArray
) -> FloatArray:
    """Return `Calibration.widening` from its parts, which the calibration needs before it is whole."""
    base = np.interp(nearness, knots, factor)
    reach = knots[-1] - knots[0] if knots[-1] - knots[0] > 1e-6 else max(1.0 - knots[0], 1e-3)
    below = 1.0 + np.maximum(knots[0] - nearness, 0.0) / reach
    middle, far = np.quantile(strangeness, [0.5, STRANGE])
    outside = 1.0 + np.maximum(distance - far, 0.0) / max(far - middle, 1e-3)
    return np.asarray(base * np.minimum(below * outside, MAX_WIDENING), dtype=np.float32)
