"""How sure a prediction is: each gene's expected reliability, intervals, and strangeness of the image.

The training side is predicted by models that have not seen it: patients (or slides, or quarters of the one slide) are
held out in turn. Their errors, in units of the neighbours' spread, give the intervals (split conformal prediction:
Vovk, Gammerman and Shafer 2005). Spots of one slide are not exchangeable with those of another, so slides weigh the
same and each gene takes the wider of the quantile of the pooled slides and the mean of the slides' own quantiles (two
layers: Dunn, Wasserman and Ramdas 2022). With a handful of slides no finite interval is guaranteed to cover a new one;
the figures of docs/accuracy.md are measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import ModelConfig
from mclstexp.errors import InputError
from mclstexp.metrics import score_genes
from mclstexp.model.calibration import Calibration, widening_of
from mclstexp.model.image.distance import FeatureDistance
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.panel import GenePanel
from mclstexp.predict.fit import fit_space
from mclstexp.predict.memory import MemoryReference, embed_patches
from mclstexp.predict.predictor import Predictor, Query
from mclstexp.predict.source import NEAREST
from mclstexp.predict.splits import Split, excerpts, splits
from mclstexp.sampling import evenly
from mclstexp.types import FloatArray

MAX_SPOTS = 30_000

MAX_QUERIES = 8192

MAX_RANK = 512

MAX_LANDMARKS = 2048
"""Bounds of the cross-validation: whatever the training set's size, it costs no more than a few small fits."""

MAX_WORK = 240_000
"""Spots times epochs that a network is refined with, in each fold."""

BINS = 5

SPOTS_PER_BIN = 20

MIN_FLOOR = 1e-3


def reason_not_to_calibrate(slides: Sequence[SlideArrays]) -> str:
    """Say why these slides cannot be calibrated on, or ""."""
    _, divided = splits(slides)
    if not divided:
        return f"the {sum(len(slide.features) for slide in slides)} training spots are too few to hold some of them out"
    return ""


def calibrate(
    slides: Sequence[SlideArrays],
    layout: FeatureLayout,
    config: ModelConfig,
    panel: GenePanel,
    reduction: Reduction | None = None,
) -> Calibration:
    """Predict the training side by models that have not seen it, through `Predictor`, and learn from the errors.

    Parameters
    ----------
    slides
        The training slides.
    layout
        Which of their image features belong together.
    config
        Settings of the model, ``interval_level`` among them.
    panel
        The genes of the slides' expression.
    reduction
        Of their features, as the model's space was fitted; None finds one.

    Raises
    ------
    InputError
        When `reason_not_to_calibrate` has one.
    """
    reason = reason_not_to_calibrate(slides)
    if reason:
        raise InputError(f"Intervals cannot be calibrated: {reason}; train with --set calibrate=false.")
    reduction = reduction or Reduction.fit(slides, layout, seed=config.seed)
    slides = excerpts(slides, max_spots=MAX_SPOTS, seed=config.seed)
    kind, divided = splits(slides)
    held = [one for split in divided for one in _hold_out(split, layout, config, panel, reduction)]
    quota = max(50, MAX_QUERIES // len(held))
    held = [one.take(evenly(len(one.truth), quota)) for one in held]
    n_slides = 1 if kind == "block" else len(held)
    n_independent = len({slide.patient for slide in slides}) if kind == "patient" else n_slides
    pcc = np.stack([score_genes(one.truth, one.mean).pcc for one in held])
    return Calibration(
        level=config.interval_level,
        folds=kind,
        n_folds=len(divided),
        n_slides=n_slides,
        reliability=_mean_of_known(pcc),
        distance=FeatureDistance.fit(slides, layout),
        **_conform(held, cautious(config.interval_level, n_independent)),
    )


def cautious(level: float, n: int) -> float:
    """Return the coverage to aim at on the training side so that a new slide sees about ``level``.

    What is exchangeable are the ``n`` patients (slides, where no patients were held out), and they are few. The share
    left outside is taken down by ``n / (n + 1)``: a convention, milder than conformal prediction's own rule, which
    would give infinite intervals below nine.
    """
    return 1.0 - (1.0 - level) * n / (n + 1)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One held-out slide: ``(n, G)`` truth (NaN: not measured), mean and spread; ``(n,)`` nearness and distance."""

    truth: FloatArray
    mean: FloatArray
    sd: FloatArray
    nearness: FloatArray
    distance: FloatArray

    def take(self, rows: NDArray[np.int64]) -> HeldOut:
        """Return some of the spots."""
        return HeldOut(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def _hold_out(
    split: Split, layout: FeatureLayout, config: ModelConfig, panel: GenePanel, reduction: Reduction
) -> list[HeldOut]:
    """Fit to everything but one fold, and predict the fold."""
    small = dataclasses.replace(
        config.shared,
        max_rank=min(config.shared.max_rank, MAX_RANK),
        max_landmarks=min(config.shared.max_landmarks, MAX_LANDMARKS),
    )
    rest = [reduction(slide) for slide in split.rest]
    space = fit_space(rest, reduction.layout, dataclasses.replace(config, shared=small), work=MAX_WORK)
    distance = FeatureDistance.fit(split.rest, layout)
    reference = MemoryReference.of(rest, space, config.key_mix, panel, config.normalisation)
    predictor = Predictor(space, config, panel)
    predictions = []
    for slide in split.held:
        reduced = reduction(slide)
        query = Query(embed_patches(space, reduced), reduced.features, panel, config.normalisation, config.retrieval)
        predicted = predictor.predict(reference, query)
        truth = np.where(slide.measured, slide.expression, np.float32(np.nan))
        nearness = predicted.neighbours.first(NEAREST).mean_similarity()
        held = HeldOut(truth, predicted.mean, predicted.spread, nearness, distance(slide.features))
        predictions.append(held)
    return predictions


def _conform(held: Sequence[HeldOut], level: float) -> dict[str, FloatArray]:
    """Return the quantiles and what they are relative to, by name of `Calibration`."""
    residual = np.concatenate([np.abs(one.truth - one.mean) for one in held])
    sd = np.concatenate([one.sd for one in held])
    owner = np.repeat(np.arange(len(held)), [len(one.truth) for one in held])
    nearness = np.concatenate([one.nearness for one in held])
    distance = np.concatenate([one.distance for one in held])
    typical = np.stack([_mean_of_known(residual[owner == i] ** 2) for i in range(len(held))])
    floor = np.nan_to_num(np.sqrt(_mean_of_known(typical))).clip(MIN_FLOOR).astype(np.float32)
    score: FloatArray = (residual / (sd + floor)).astype(np.float32)
    strangeness = np.sort(distance)[evenly(len(distance), 1024)]
    knots, factor = _factors(score / _quantiles(score, owner, level), nearness, level)
    score /= widening_of(knots, factor, strangeness, nearness, distance)[:, None]
    return {
        "quantile": _quantiles(score, owner, level),
        "floor": floor,
        "nearness": knots,
        "factor": factor,
        "strangeness": strangeness,
    }


def _quantiles(score: FloatArray, owner: NDArray[np.int64], level: float) -> FloatArray:
    """Per gene the wider of the pooled slides' quantile, every slide weighing the same, and the slides' mean one."""
    known = ~np.isnan(score)
    weight = known / np.maximum(np.stack([known[owner == i].sum(axis=0) for i in range(owner.max() + 1)]), 1)[owner]
    order = np.argsort(score, axis=0, kind="stable")  # NaN last
    total = np.cumsum(np.take_along_axis(weight, order, axis=0), axis=0)
    # The spot to come may lie anywhere: n + 1 in place of n.
    n = np.maximum(known.sum(axis=0), 1)
    wanted = total[-1] * np.minimum(1.0, level * (1 + 1 / n))
    at = np.minimum((total < wanted - 1e-9).sum(axis=0), n - 1)
    pooled = np.take_along_axis(score, np.take_along_axis(order, at[None], axis=0), axis=0)[0]
    own = [_quantile_of_known(score[owner == i], level) for i in range(owner.max() + 1)]
    widest = np.fmax(pooled, _mean_of_known(np.stack(own)))
    return np.asarray(np.where(known.any(axis=0), np.maximum(widest, 1e-6), np.nan), dtype=np.float32)


def _factors(ratio: FloatArray, nearness: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Bins of nearness, and the factor that gives each its coverage, never larger for nearer patches."""
    from sklearn.isotonic import isotonic_regression

    n_bins = int(np.clip(len(nearness) // SPOTS_PER_BIN, 1, BINS))
    bins = np.array_split(np.argsort(nearness, kind="stable"), n_bins)
    knots = np.array([np.median(nearness[rows]) for rows in bins], dtype=np.float32)
    factor = np.array([np.nanquantile(ratio[rows], level) for rows in bins])
    return knots, np.asarray(isotonic_regression(factor, increasing=False), dtype=np.float32).clip(0.1)


def _quantile_of_known(values: FloatArray, level: float) -> FloatArray:
    out = np.full(values.shape[1], np.nan, dtype=np.float32)
    known = ~np.isnan(values).all(axis=0)
    out[known] = np.nanquantile(values[:, known], level, axis=0)
    return out


def _mean_of_known(values: NDArray[np.floating]) -> FloatArray:
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan), dtype=np.float32)
