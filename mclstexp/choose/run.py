"""Choosing settings on the training side, and fitting with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mclstexp.choose.excerpt import excerpts
from mclstexp.choose.figures import Figures, figures
from mclstexp.choose.ladder import LEAST_GAIN, Step, applied, climb, described, steps, views
from mclstexp.choose.rehearsal import MAX_FOLDS, MAX_LANDMARKS, MIN_SPOTS, Rehearsal, splits
from mclstexp.config import ModelConfig
from mclstexp.model.space.fit import fit_shared_space, held_out_share
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import FeatureLayout, Layout, SlideArrays, folds
from mclstexp.notes import inform
from mclstexp.panel import GenePanel
from mclstexp.predict.baselines.mean import MeanExpression
from mclstexp.predict.baselines.neighbours import FeatureNeighbours
from mclstexp.predict.baselines.probe import RidgeProbe
from mclstexp.types import FloatArray, Progress

FIRST_QUERIES, LAST_QUERIES = 1500, 6000
"""Held-out spots that candidates are scored on, and the chosen one beside the baselines."""

VIEW_COMPONENTS, VIEW_RANK = 40, 384
"""Bounds of the many small fits that compare views of the tissue."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """What training ends with.

    Attributes
    ----------
    config
        Settings with the chosen ones in their place.
    space
        The shared space that was fitted with them to all slides.
    record
        What was tried and found, as plain JSON values; empty where nothing was left to choose.
    """

    config: ModelConfig
    space: SharedSpace
    record: dict[str, Any]


def choose(
    slides: Sequence[SlideArrays],
    layout: FeatureLayout,
    config: ModelConfig,
    panel: GenePanel,
    *,
    on_progress: Progress | None = None,
) -> Chosen:
    """Choose the settings that ``config.choose`` names, then fit to all slides.

    Patients are held out where there are four, else slides, else quarters of the one slide; every candidate predicts
    them through `Predictor`. The same slides and settings give the same result.

    Parameters
    ----------
    slides
        The training slides.
    layout
        Which of their image features belong together.
    panel
        The genes of their expression.
    on_progress
        Called with "choosing settings", how many steps are done, and how many there are.

    Raises
    ------
    InputError, MismatchError
        As `fit_shared_space`.
    """
    reduction = Reduction.fit(slides, layout, seed=config.seed)
    small = [reduction(slide) for slide in slides]
    record: dict[str, Any] = {}
    sizes = np.bincount(np.concatenate(folds(small)[1]))
    if config.choose and any(size and sizes.sum() - size >= MIN_SPOTS for size in sizes):
        choice = _Choice(config, excerpts(small, seed=config.seed), reduction.layout, panel, on_progress)
        config, record = choice.run(excerpts(slides, seed=config.seed), layout)
    space = fit_shared_space(small, reduction.layout, config.shared, seed=config.seed)
    return Chosen(dataclasses.replace(config, choose=()), reduction.lift(space), record)


class _Choice:
    """The walk from the recipe's settings to the chosen ones."""

    def __init__(
        self,
        config: ModelConfig,
        slides: list[SlideArrays],
        layout: Layout,
        panel: GenePanel,
        on_progress: Progress | None,
    ) -> None:
        self._config, self._slides, self._layout, self._panel = config, slides, layout, panel
        self._on_progress, self._done = on_progress, 0
        self._curves: list[dict[str, Any]] = []

    def run(self, raw: Sequence[SlideArrays], layout: FeatureLayout) -> tuple[ModelConfig, dict[str, Any]]:
        """Take one step after the other, each from where the last one led."""
        kind, divided = splits(self._slides)
        rehearsal = Rehearsal(divided, self._layout, self._panel)
        n_spots = min(sum(len(slide.features) for slide in split.rest) for split in divided)
        of_views = views(self._config)
        later = steps(
            self._config, n_components=rehearsal.n_components, n_spots=n_spots, patients=kind == "patient"
        )
        self._total = len(of_views) + len(later) + 1
        for step in of_views:
            self._look(step)
        plain = rehearsal.plain(FIRST_QUERIES)
        for step in later:
            self._climb(step, rehearsal, plain)
        last = rehearsal.plain(LAST_QUERIES)
        own = rehearsal.figures(self._config, queries=LAST_QUERIES, plain=last)
        baselines = _baselines(raw, layout, rehearsal, last)
        self._said(f"choosing settings: held-out {kind}s, score {own.score:.3f}")
        verdict = _verdict(own, baselines)
        inform(verdict)
        settings = {name: _value(self._config, name) for curve in self._curves for name in curve["settings"]}
        return self._config, {
            "held_out": kind,
            "n_folds": len(divided),
            "n_spots": sum(len(slide.features) for slide in self._slides),
            "settings": settings,
            "curves": self._curves,
            "recipe": own.record(),
            "baselines": {name: one.record() for name, one in baselines.items()},
            "verdict": verdict,
        }

    def _look(self, step: Step) -> None:
        """Choose a view of the tissue by the variance that it predicts."""
        shared = dataclasses.replace(
            self._config.shared, components=VIEW_COMPONENTS, max_rank=VIEW_RANK, max_landmarks=MAX_LANDMARKS
        )
        config = dataclasses.replace(self._config, shared=shared)
        shares = [
            held_out_share(self._slides, self._layout, applied(config, candidate).shared, seed=config.seed)
            for candidate in step.candidates
        ]
        own = next((i for i, one in enumerate(step.candidates) if applied(config, one) == config), 0)
        best = max(range(len(shares)), key=lambda i: (shares[i], -i))
        place = best if shares[best] > shares[own] * (1 + LEAST_GAIN) else own
        self._curves.append(
            {
                "setting": step.name,
                "settings": [step.name],
                "values": [value for ((_, value),) in step.candidates],
                "score": [round(share, 4) for share in shares],
                "measure": "share of the variance within slides that is predicted",
                "chosen": place,
            }
        )
        self._take(step, place)

    def _climb(self, step: Step, rehearsal: Rehearsal, plain: Sequence[float]) -> None:
        """Choose how neighbours become a prediction by the score of what is predicted."""

        def score(config: ModelConfig) -> Figures:
            return rehearsal.figures(config, queries=FIRST_QUERIES, plain=plain)

        place, tried = climb(step, self._config, score)
        records = [one.record() for one in tried]
        names = [name for name, _ in step.candidates[0]]
        curve: dict[str, Any] = {
            "setting": step.name,
            "settings": names,
            "values": [values[0][1] if len(values) == 1 else [v for _, v in values] for values in step.candidates],
        }
        curve |= {name: [record[name] for record in records] for name in records[0]}
        self._curves.append({**curve, "chosen": place})
        self._take(step, place)

    def _take(self, step: Step, place: int) -> None:
        self._config = applied(self._config, step.candidates[place])
        self._said(f"chosen of {len(step.candidates)}: {described(step.candidates[place])}")

    def _said(self, text: str) -> None:
        self._done += 1
        inform(text)
        if self._on_progress is not None:
            self._on_progress("choosing settings", self._done, self._total)


def _value(config: ModelConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def _baselines(
    slides: Sequence[SlideArrays], layout: FeatureLayout, rehearsal: Rehearsal, plain: Sequence[float]
) -> dict[str, Figures]:
    """Score what the recipe has to beat on the same held-out spots."""
    _, fold_of = folds(slides)
    order = [
        (place, fold)
        for fold in range(MAX_FOLDS)
        for place, member in enumerate(fold_of)
        if fold < len(rehearsal.divided) and (member == fold).any()
    ]
    chosen = rehearsal.rows(LAST_QUERIES)
    rows = {pair: np.flatnonzero(fold_of[pair[0]] == pair[1])[some] for pair, some in zip(order, chosen, strict=True)}
    expression = [np.where(slide.measured, slide.expression, np.float32(np.nan)) for slide in slides]
    truth = [expression[place][rows[place, fold]] for place, fold in order]
    found = {}
    for name, (method, columns) in _methods(layout).items():
        features: list[FloatArray] = [slide.features[:, columns] for slide in slides]
        method.fit(features, expression, fold_of)
        predicted = [
            method.cross_predict([features[place]], [fold_of[place]], [rows[place, fold]])[0] for place, fold in order
        ]
        found[name] = figures(truth, predicted, plain)
    return found


def _methods(layout: FeatureLayout) -> dict[str, tuple[Any, Any]]:
    """Return the baselines by name, each with the columns of the features that it sees."""
    weights, everything = layout.column_weights(), slice(None)
    methods: dict[str, tuple[Any, Any]] = {
        "training mean": (MeanExpression(), everything),
        "image retrieval, own features": (FeatureNeighbours(weights=weights), everything),
        "linear probe, own features": (RidgeProbe(weights=weights), everything),
    }
    last = _last_layer(layout)
    if last.any():
        methods["image retrieval"] = (FeatureNeighbours(), last)
        methods["linear probe"] = (RidgeProbe(), last)
    return methods


def _last_layer(layout: FeatureLayout) -> np.ndarray:
    """Return which columns are the last layer's at the middle field of view."""
    middle = (layout.n_scales - 1) // 2
    return np.concatenate(
        [np.full(part.width, part.group == "last" and part.scale == middle) for part in layout.parts]
    )


def _verdict(own: Figures, baselines: dict[str, Figures]) -> str:
    best = max(baselines, key=lambda name: baselines[name].score)
    ahead = own.score - baselines[best].score
    word = "ahead of" if ahead >= 0 else "BEHIND"
    return (
        f"on slides held out the recipe's score is {own.score:.3f}, {word} the best baseline's "
        f"({best}, {baselines[best].score:.3f}); score: mean of PCC within slides, PCC over slides and explained error"
    )
