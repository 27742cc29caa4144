"""Methods on plain arrays: the default recipe as training runs it, the baselines, and the paper's network.

Each takes a cohort and settings and returns what it predicts of every test slide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    from mclstexp.predict.baselines.mean import MeanExpression
    from mclstexp.predict.baselines.neighbours import FeatureNeighbours
    from mclstexp.predict.baselines.probe import RidgeProbe
    from mclstexp.predict.predictor import Predicted
    from mclstexp.slide import Slide

SCALE = Normalisation(target_sum=1e4, total="panel", log="natural")
"""Scale of the simulated expression: log(1 + counts / total x 10,000)."""

NEIGHBOURS = 200
"""Of image retrieval, as in `mst evaluate`."""


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
    from mclstexp.choose.run import choose

    chosen = choose(cohort.train, cohort.layout, config, panel)
    return chosen.config, chosen.space, chosen.record


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
    from mclstexp.predict.baselines.mean import MeanExpression

    return _baseline(cohort, MeanExpression())


def image_retrieval(cohort: Cohort, config: ModelConfig) -> Answer:
    """Give every spot the mean of the training spots whose features are nearest by cosine."""
    from mclstexp.predict.baselines.neighbours import FeatureNeighbours

    method = FeatureNeighbours(NEIGHBOURS, weights=cohort.layout.column_weights(), seed=config.seed)
    k = min(NEIGHBOURS, sum(len(slide.features) for slide in cohort.train))
    return dataclasses.replace(_baseline(cohort, method), n_effective=float(k))


def linear_probe(cohort: Cohort, config: ModelConfig) -> Answer:
    """Ridge regression on the recipe's own features, every block of them brought to the same variance."""
    from mclstexp.predict.baselines.probe import RidgeProbe

    method = RidgeProbe(weights=cohort.layout.column_weights(), seed=config.seed)
    answer = _baseline(cohort, method)
    return dataclasses.replace(answer, chosen={"strength": method.strength, "slope": method.slope})


def _baseline(cohort: Cohort, method: MeanExpression | FeatureNeighbours | RidgeProbe) -> Answer:
    train = cohort.train
    expression = [np.where(slide.measured, slide.expression, np.float32(np.nan)) for slide in train]
    method.fit([slide.features for slide in train], expression, folds(train)[1])
    return Answer([method.predict(slide.features) for slide in cohort.test])


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
