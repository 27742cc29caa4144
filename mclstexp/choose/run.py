"""Choosing settings on the training side, and fitting with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mclstexp.choose.baselines import OWN_PROBE, held_out_baselines
from mclstexp.choose.contrast import try_contrast, worth_trying
from mclstexp.choose.figures import Figures, figures
from mclstexp.choose.ladder import LEAST_GAIN, Step, applied, climb, described, steps, views
from mclstexp.choose.rehearsal import MAX_LANDMARKS, Rehearsal
from mclstexp.config import ModelConfig
from mclstexp.model.space.fit import held_out_share
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import FeatureLayout, Layout, SlideArrays
from mclstexp.notes import inform
from mclstexp.panel import GenePanel
from mclstexp.predict.fit import fit_space
from mclstexp.predict.splits import excerpts, splits
from mclstexp.types import FloatArray, Progress

FIRST_QUERIES, LAST_QUERIES = 1500, 6000
"""Held-out spots that candidates are scored on, and the chosen one beside the baselines."""

BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAST_BLEND = 0.001
"""Of the score: what a larger share of the linear probe has to gain."""

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
    reduction
        Of the features, that the space was fitted to.
    """

    config: ModelConfig
    space: SharedSpace
    record: dict[str, Any]
    reduction: Reduction


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
    if config.choose and splits(small)[1]:
        choice = _Choice(config, excerpts(small, seed=config.seed), reduction.layout, panel, on_progress)
        config, record = choice.run(excerpts(slides, seed=config.seed), layout)
    space = fit_space(small, reduction.layout, config, on_progress=on_progress)
    return Chosen(dataclasses.replace(config, choose=()), reduction.lift(space), record, reduction)


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
        later = steps(self._config, n_components=rehearsal.n_components, n_spots=n_spots, patients=kind == "patient")
        self._total = len(of_views) + len(later) + 1 + worth_trying(rehearsal, self._config)
        for step in of_views:
            self._look(step)
        plain = rehearsal.plain(FIRST_QUERIES)
        for step in later:
            self._climb(step, rehearsal, plain)
        baselines = held_out_baselines(
            self._slides, raw, layout, rehearsal, queries=LAST_QUERIES, seed=self._config.seed
        )
        own = self._blend(rehearsal, baselines.predicted[OWN_PROBE])
        contrast = self._contrast(rehearsal)
        verdict = _verdict(own, baselines.figures, contrast.get("contrast"))
        self._said(verdict)
        settings = {name: _value(self._config, name) for curve in self._curves for name in curve["settings"]}
        return self._config, {
            "held_out": kind,
            "n_folds": len(divided),
            "n_spots": sum(len(slide.features) for slide in self._slides),
            "settings": settings,
            "curves": self._curves,
            "recipe": own.record(),
            "baselines": {name: one.record() for name, one in baselines.figures.items()},
            "verdict": verdict,
            **contrast,
        }

    def _blend(self, rehearsal: Rehearsal, probe: Sequence[FloatArray]) -> Figures:
        """Choose how much of the prediction a linear probe says, and return the figures of the whole."""
        rows, plain = rehearsal.rows(LAST_QUERIES), rehearsal.plain(LAST_QUERIES)
        truth = [values[some] for values, some in zip(rehearsal.truth, rows, strict=True)]
        predicted = rehearsal.predict(dataclasses.replace(self._config, blend=0.0), rows)
        effective = float(np.median(np.concatenate([one.n_effective for one in predicted])))

        def mixed(share: float) -> Figures:
            pairs = zip(predicted, probe, strict=True)
            both = [(1 - share) * one.mean + share * np.where(np.isnan(said), one.mean, said) for one, said in pairs]
            return figures(truth, [np.maximum(values, 0) for values in both], plain, n_effective=effective)

        wanted = "blend" in self._config.choose
        tried = [mixed(share) for share in (BLENDS if wanted else (self._config.blend,))]
        # A retrieval that explains as much as a mixture is the better evidence.
        best = max(one.score for one in tried)
        place = next(i for i, one in enumerate(tried) if one.score >= best - LEAST_BLEND)
        if wanted:
            self._record("blend", ["blend"], list(BLENDS), tried, place)
            self._config = dataclasses.replace(self._config, blend=BLENDS[place])
        return tried[place]

    def _contrast(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Let a network that is trained by contrast try to beat the closed form; return what it came to."""
        if not worth_trying(rehearsal, self._config):
            return {}
        trial = try_contrast(rehearsal, self._config, on_progress=self._on_progress)
        self._curves.append(trial.curve)
        self._config = dataclasses.replace(self._config, contrast_epochs=trial.epochs)
        self._said(trial.said)
        return {"contrast": trial.record}

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
        names = [name for name, _ in step.candidates[0]]
        values = [one[0][1] if len(one) == 1 else [value for _, value in one] for one in step.candidates]
        self._record(step.name, names, values, tried, place)
        self._take(step, place)

    def _record(self, name: str, names: list[str], values: list[Any], tried: Sequence[Figures], place: int) -> None:
        records = [one.record() for one in tried]
        curve: dict[str, Any] = {"setting": name, "settings": names, "values": values}
        curve |= {key: [record[key] for record in records] for key in records[0]}
        self._curves.append({**curve, "chosen": place})

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


def _verdict(own: Figures, baselines: dict[str, Figures], contrast: dict[str, Any] | None) -> str:
    """Say how the recipe stands to the best baseline; its figures are of the closed form, without the network."""
    best = max(baselines, key=lambda name: baselines[name].score)
    ahead = own.score - baselines[best].score
    word = "ahead of" if ahead >= 0 else "BEHIND"
    network = f", to which its network adds {contrast['gain']:.3f}" if contrast and contrast["kept"] else ""
    return (
        f"on slides held out the recipe's score is {own.score:.3f}{network}, {word} the best baseline's "
        f"({best}, {baselines[best].score:.3f}); score: mean of PCC within slides, PCC over slides and explained error"
    )
