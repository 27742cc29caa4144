"""Methods on plain arrays: the default recipe as training runs it, the baselines, and the paper's network.

Each takes a cohort and settings and returns what it predicts of every test slide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from simulated.nature import Cohort

from mclstexp.config import ModelConfig, Normalisation, recipe
from mclstexp.metrics import PooledCorrelation, mean_or_none, score_genes, squared_error
from mclstexp.model.space.training_data import SlideArrays, folds
from mclstexp.panel import GenePanel
from mclstexp.types import FloatArray

if TYPE_CHECKING:
    from mclstexp.model.space.base import Space
    from mclstexp.predict.predictor import Predicted
    from mclstexp.slide import Slide

SCALE = Normalisation(target_sum=1e4, total="panel", log="natural")
"""Scale of the simulated expression: log(1 + counts / total x 10,000)."""

NEIGHBOURS = 200
PENALTIES = np.geomspace(1e-4, 1e2, 13)
"""Of the probe, in units of the mean variance of a standardised feature times the number of features."""


@dataclass(frozen=True, eq=False)
class Answer:
    """Predicted expression ``(n, G)`` of every test slide, effective neighbours a spot, and what was chosen."""

    means: list[FloatArray]
    n_effective: float | None = None
    chosen: dict[str, Any] = field(default_factory=dict)


def panel_of(cohort: Cohort) -> GenePanel:
    """Name the cohort's genes."""
    return GenePanel(tuple(f"G{i:05d}" for i in range(cohort.train[0].expression.shape[1])))


def default_config(cohort: Cohort) -> ModelConfig:
    """Return the default recipe's settings for as many fields of view as the features have."""
    config = recipe("default")
    n_scales = cohort.layout.n_scales
    if n_scales == len(config.encoder.scales):
        return config
    encoder = dataclasses.replace(config.encoder, scales=config.encoder.scales[:n_scales])
    return dataclasses.replace(
        config, encoder=encoder, shared=dataclasses.replace(config.shared, context_scales=(n_scales - 1,))
    )


def default(cohort: Cohort, config: ModelConfig) -> Answer:
    """Choose settings and fit as `mst train` does, then predict as a query does."""
    from mclstexp.predict.memory import MemoryReference, embed_patches
    from mclstexp.predict.predictor import Predictor, Query

    panel = panel_of(cohort)
    config, space, chosen = fitted(cohort, config, panel)
    reference = MemoryReference.of(cohort.train, space, config.key_mix, panel, config.normalisation)
    predictor = Predictor(space, config, panel)
    answers = [
        predictor.predict(
            reference,
            Query(embed_patches(space, slide), slide.features, panel, config.normalisation, config.retrieval),
        )
        for slide in cohort.test
    ]
    return _answer(answers, chosen)


def fitted(cohort: Cohort, config: ModelConfig, panel: GenePanel) -> tuple[ModelConfig, Any, dict[str, Any]]:
    """Return the settings that training arrives at, its space, and what it says of them."""
    if find_spec("mclstexp.choose") is not None:
        from mclstexp.choose import choose  # type: ignore[import-not-found]

        chosen = choose(cohort.train, cohort.layout, config, panel)
        return chosen.config, chosen.space, chosen.record
    from mclstexp.model.space.fit import fit_shared_space

    space = fit_shared_space(cohort.train, cohort.layout, config.shared, seed=config.seed)
    return config, space, space.report


def paper(cohort: Cohort, config: ModelConfig) -> Answer:
    """Train the paper's network on the same features, and predict by its own rule."""
    from mclstexp.device import resolve_device
    from mclstexp.model.network.fit import NetworkRun, fit_heads
    from mclstexp.model.network.space import NetworkSpace
    from mclstexp.predict.predictor import Predictor, Query

    panel = panel_of(cohort)
    slides = [_slide(arrays, panel) for arrays in cohort.train]
    run = NetworkRun(config, panel, resolve_device("auto"))
    history, network = fit_heads(slides, [arrays.features for arrays in cohort.train], run)
    space = NetworkSpace(network)
    reference = _network_reference(space, cohort.train, slides, panel, run)
    predictor = Predictor(space, config, panel)
    answers = []
    for arrays in cohort.test:
        embedding = space.embed_images(arrays.features, _slide(arrays, panel))
        query = Query(embedding, arrays.features, panel, SCALE, config.retrieval)
        answers.append(predictor.predict(reference, query))
    return _answer(answers, {"epochs": len(history)})


def _network_reference(
    space: Space, slides: Sequence[SlideArrays], read: Sequence[Slide], panel: GenePanel, run: Any
) -> Any:
    """Return a reference in memory whose keys are the network's spot embeddings."""
    from mclstexp.predict.memory import MemoryReference

    keys = [
        space.embed_spots(run.expression(slide), arrays.measured, slide)
        for arrays, slide in zip(slides, read, strict=True)
    ]
    return MemoryReference(
        embedding=np.concatenate(keys),
        values=np.concatenate([arrays.expression for arrays in slides]).astype(np.float16),
        owner=np.repeat(np.arange(len(slides)), [len(key) for key in keys]),
        known=np.stack([arrays.measured for arrays in slides]),
        counts=np.concatenate([_depth(arrays) for arrays in slides]),
        panel=panel,
        rule=SCALE,
    )


def _slide(arrays: SlideArrays, panel: GenePanel) -> Slide:
    """Turn arrays back into a slide of counts."""
    from scipy import sparse

    from mclstexp.slide import Slide, SpotTable

    counts = np.rint(np.expm1(arrays.expression.astype(np.float64)) * (_depth(arrays)[:, None] / 1e4))
    pitch = np.diff(np.unique(arrays.xy_um[:, 0])).min() if len(arrays.xy_um) > 1 else 1.0
    column, row = np.rint(arrays.xy_um / pitch).astype(np.int64).T
    names = np.array([f"{c}x{r}" for c, r in zip(column, row, strict=True)])
    spots = SpotTable(names, arrays.xy_um, row, column, sparse.csr_matrix(counts), panel)
    return Slide(arrays.slide_id, arrays.patient, "simulated", spots, mpp=1.0, mpp_source="given")


def _depth(arrays: SlideArrays) -> NDArray[np.float64]:
    return np.ones(len(arrays.features)) if arrays.depth is None else arrays.depth


def _answer(answers: Sequence[Predicted], chosen: dict[str, Any]) -> Answer:
    effective = float(np.mean(np.concatenate([answer.n_effective for answer in answers])))
    return Answer([answer.mean for answer in answers], effective, chosen)


def training_mean(cohort: Cohort, config: ModelConfig) -> Answer:
    """Give every spot the mean of all training spots."""
    total = sum(slide.expression.sum(axis=0, dtype=np.float64) for slide in cohort.train)
    mean = np.asarray(total / sum(len(slide.features) for slide in cohort.train), dtype=np.float32)
    return Answer([np.tile(mean, (len(slide.features), 1)) for slide in cohort.test])


@dataclass(frozen=True, eq=False)
class _Scaler:
    mean: FloatArray
    scale: FloatArray

    @classmethod
    def of(cls, slides: Sequence[SlideArrays]) -> _Scaler:
        n = sum(len(slide.features) for slide in slides)
        mean = sum(slide.features.sum(axis=0, dtype=np.float64) for slide in slides) / n
        square = sum(np.square(slide.features - mean).sum(axis=0, dtype=np.float64) for slide in slides) / n
        scale = np.where(square > 1e-12, 1 / np.sqrt(np.maximum(square, 1e-12)), 0.0)
        return cls(np.asarray(mean, dtype=np.float32), np.asarray(scale, dtype=np.float32))

    def __call__(self, features: FloatArray) -> FloatArray:
        return (features - self.mean) * self.scale


def image_retrieval(cohort: Cohort, config: ModelConfig) -> Answer:
    """Give every spot the mean of the training spots whose standardised features are nearest by cosine."""
    scaler = _Scaler.of(cohort.train)
    keys = np.concatenate([_unit(scaler(slide.features)) for slide in cohort.train])
    values = np.concatenate([slide.expression for slide in cohort.train])
    k = min(NEIGHBOURS, len(keys))
    means = []
    for slide in cohort.test:
        similarity = _unit(scaler(slide.features)) @ keys.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        means.append(np.stack([values[rows].mean(axis=0) for rows in nearest]))
    return Answer(means, float(k))


def _unit(values: FloatArray) -> FloatArray:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def linear_probe(cohort: Cohort, config: ModelConfig) -> Answer:
    """Ridge regression on the recipe's own features, its penalty the one of least squared error on folds held out."""
    scaler, (_, fold_of) = _Scaler.of(cohort.train), folds(cohort.train)
    sums = _Sums.by_fold(cohort.train, fold_of, scaler)
    whole = _Sums.total(sums)
    errors = np.sum([(whole - part).solved().errors(part) for part in sums], axis=0)
    best = int(np.argmin(errors))
    weights, offset = whole.solved().weights(PENALTIES[best])
    means = [np.asarray(scaler(slide.features) @ weights + offset, dtype=np.float32) for slide in cohort.test]
    return Answer(means, chosen={"penalty": float(PENALTIES[best])})


@dataclass(frozen=True, eq=False)
class _Sums:
    """Number of spots, sums and products of features and expression: all that a ridge regression needs."""

    n: float
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    xx: NDArray[np.float64]
    xy: NDArray[np.float64]
    yy: float

    @classmethod
    def by_fold(
        cls, slides: Sequence[SlideArrays], fold_of: Sequence[NDArray[np.int64]], scaler: _Scaler
    ) -> list[_Sums]:
        parts: dict[int, _Sums] = {}
        for slide, fold in zip(slides, fold_of, strict=True):
            for number in np.unique(fold).tolist():
                new = cls.of(scaler(slide.features[fold == number]), slide.expression[fold == number])
                parts[number] = parts[number] + new if number in parts else new
        return list(parts.values())

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> _Sums:
        wide = y.astype(np.float64)
        return cls(len(x), x.sum(axis=0, dtype=np.float64), wide.sum(axis=0), x.T @ x, x.T @ y, float((wide**2).sum()))

    @classmethod
    def total(cls, parts: Sequence[_Sums]) -> _Sums:
        whole = parts[0]
        for part in parts[1:]:
            whole = whole + part
        return whole

    def _merged(self, other: _Sums, sign: float) -> _Sums:
        names = [one.name for one in dataclasses.fields(self)]
        return _Sums(*(np.add(getattr(self, name), sign * getattr(other, name), dtype=np.float64) for name in names))

    def __add__(self, other: _Sums) -> _Sums:
        return self._merged(other, 1.0)

    def __sub__(self, other: _Sums) -> _Sums:
        return self._merged(other, -1.0)

    def solved(self) -> _Ridge:
        mean_x, mean_y = self.x / self.n, self.y / self.n
        values, vectors = np.linalg.eigh(self.xx - self.n * np.outer(mean_x, mean_x))
        cross = vectors.T @ (self.xy - self.n * np.outer(mean_x, mean_y))
        return _Ridge(self.n, mean_x, mean_y, np.maximum(values, 0), vectors, cross)


@dataclass(frozen=True, eq=False)
class _Ridge:
    """A ridge regression for any penalty, from one decomposition."""

    n: float
    mean_x: NDArray[np.float64]
    mean_y: NDArray[np.float64]
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    cross: NDArray[np.float64]

    def _rotated(self, penalty: float) -> NDArray[np.float64]:
        return np.asarray(self.cross / (self.values[:, None] + penalty * self.n * len(self.values)))

    def weights(self, penalty: float) -> tuple[FloatArray, FloatArray]:
        weights = self.vectors @ self._rotated(penalty)
        return weights.astype(np.float32), (self.mean_y - self.mean_x @ weights).astype(np.float32)

    def errors(self, held: _Sums) -> NDArray[np.float64]:
        """Return the sum of squared errors on what was held out, for every penalty."""
        x, y = self.mean_x, self.mean_y
        gram = held.xx - np.outer(held.x, x) - np.outer(x, held.x) + held.n * np.outer(x, x)
        cross = held.xy - np.outer(held.x, y) - np.outer(x, held.y) + held.n * np.outer(x, y)
        square = held.yy - 2 * held.y @ y + held.n * y @ y
        gram, cross = self.vectors.T @ gram @ self.vectors, self.vectors.T @ cross
        errors = []
        for penalty in PENALTIES:
            beta = self._rotated(penalty)
            errors.append(square - 2 * (beta * cross).sum() + (beta * (gram @ beta)).sum())
        return np.asarray(errors)


METHODS: dict[str, Callable[[Cohort, ModelConfig], Answer]] = {
    "training mean": training_mean,
    "image retrieval": image_retrieval,
    "linear probe": linear_probe,
    "paper": paper,
    "default": default,
}


def scores(cohort: Cohort, answer: Answer) -> dict[str, float | None]:
    """Return PCC within slides, PCC over the spots of all slides, squared error, and effective neighbours."""
    pooled = PooledCorrelation()
    within, errors = [], []
    names = panel_of(cohort).symbols
    for slide, mean in zip(cohort.test, answer.means, strict=True):
        truth = slide.expression
        pooled.add(names, truth, mean)
        within.append(mean_or_none(score_genes(truth, mean).pcc))
        errors.append(squared_error(truth, mean))
    return {
        "pcc": _mean(within),
        "pcc_pooled": mean_or_none(pooled.by_gene()[1]),
        "mse": _mean(errors),
        "n_effective": answer.n_effective,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
