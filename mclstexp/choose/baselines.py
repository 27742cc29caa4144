"""What the recipe has to beat, scored on the same held-out spots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mclstexp.choose.figures import Figures, figures
from mclstexp.choose.rehearsal import Rehearsal
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays, folds
from mclstexp.predict.baselines.mean import MeanExpression
from mclstexp.predict.baselines.neighbours import FeatureNeighbours
from mclstexp.predict.baselines.probe import RidgeProbe
from mclstexp.predict.linear import feature_variance, measured_expression
from mclstexp.types import FloatArray, IdArray

OWN_PROBE = "linear probe, own features"


class _Baseline(Protocol):
    """A baseline on plain arrays, as `mclstexp.predict.baselines` has them."""

    def fit(
        self, features: Sequence[FloatArray], expression: Sequence[FloatArray], fold_of: Sequence[IdArray]
    ) -> object:
        """Learn, with and without each fold."""
        ...

    def cross_predict(
        self, features: Sequence[FloatArray], fold_of: Sequence[IdArray], rows: Sequence[IdArray] | None = None
    ) -> list[FloatArray]:
        """Predict training spots without their fold."""
        ...


@dataclass(frozen=True, eq=False)
class HeldOutBaselines:
    """Baselines' predictions ``(n, G)`` of the rehearsal's held-out spots, a slide each, and their figures, by name."""

    predicted: dict[str, list[FloatArray]]
    figures: dict[str, Figures]


def held_out_baselines(
    slides: Sequence[SlideArrays],
    raw: Sequence[SlideArrays],
    layout: FeatureLayout,
    rehearsal: Rehearsal,
    *,
    queries: int,
    seed: int,
) -> HeldOutBaselines:
    """Fit the baselines and predict what a rehearsal holds out.

    Parameters
    ----------
    slides, raw
        The rehearsal's slides, with reduced features and with the encoder's own.
    layout
        Of the encoder's own.
    queries
        Held-out spots to score, as in `Rehearsal.figures`.
    """
    _, fold_of = folds(slides)
    order = [
        (place, split.fold)
        for split in rehearsal.divided
        for place, member in enumerate(fold_of)
        if (member == split.fold).any()
    ]
    chosen = zip(order, rehearsal.rows(queries), strict=True)
    rows = [(place, np.flatnonzero(fold_of[place] == fold)[some]) for (place, fold), some in chosen]
    expression = measured_expression(slides)
    truth = [expression[place][some] for place, some in rows]
    plain = rehearsal.plain(queries)
    own = [slide.features for slide in slides]
    predicted: dict[str, list[FloatArray]] = {}

    def run(name: str, method: _Baseline, features: Sequence[FloatArray]) -> None:
        method.fit(features, expression, fold_of)
        predicted[name] = [method.cross_predict([features[place]], [fold_of[place]], [some])[0] for place, some in rows]

    variance = feature_variance(slides)
    run("training mean", MeanExpression(), own)
    run("image retrieval, own features", FeatureNeighbours(weights=variance, seed=seed), own)
    run(OWN_PROBE, RidgeProbe(weights=variance, seed=seed), own)
    last = last_layer(layout)
    if last.any():
        features = [slide.features[:, last] for slide in raw]
        run("image retrieval", FeatureNeighbours(seed=seed), features)
        run("linear probe", RidgeProbe(seed=seed), features)
    return HeldOutBaselines(predicted, {name: figures(truth, said, plain) for name, said in predicted.items()})


def last_layer(layout: FeatureLayout) -> NDArray[np.bool_]:
    """Return which columns are the last layer's at the middle field of view."""
    middle = (layout.n_scales - 1) // 2
    return np.concatenate([np.full(part.width, part.group == "last" and part.scale == middle) for part in layout.parts])
