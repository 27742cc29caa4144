"""What is tried of each setting, in which order, and which candidate is taken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mclstexp.choose.figures import Figures, noise
from mclstexp.config import ModelConfig
from mclstexp.settings import with_settings
from mclstexp.text import some

COMPONENTS = (1, 2, 3, 4, 6, 9, 14, 20, 30, 45, 65, 100, 150, 220)
NEIGHBOURS = ((25, 0.02), (50, 0.05), (100, 0.1), (200, 0.1), (400, 0.1))
"""Numbers of neighbours and temperatures; the recipe's own come last."""

CORRECTIONS = (0.0, 0.5, 1.0)
MIXES = (0.0, 0.5, 1.0)
CONTEXTS_UM = (0.0, 100.0, 200.0, 400.0)
STAGES = ("all", "early", "late", "with last")
SHRINKAGES = (10.0, 100.0)

MAX_LOSS = 0.001
"""Of the score: what fewer effective neighbours may cost at most, however large the noise."""

LEAST_STEP = 0.002
"""Of the score: what another value than the recipe's has to gain; benchmarks/choices.py found less to be noise."""

LEAST_GAIN = 0.02
"""Share of the held-out variance that another view of the tissue has to gain, lest noise decides."""

LEAST_MIX = 0.003
"""Of the score: what keys of one side alone have to gain. Training slides all have images, a reference's may not."""

Settings = tuple[tuple[str, Any], ...]
"""Dotted names and values that are tried together."""


@dataclass(frozen=True)
class Step:
    """Candidates of one setting, or of some together.

    Attributes
    ----------
    local
        Whether fewer effective neighbours are preferred within noise.
    least
        What another candidate than the recipe's own has to gain of the score.
    """

    name: str
    candidates: tuple[Settings, ...]
    local: bool = False
    least: float = 0.0


def views(config: ModelConfig) -> list[Step]:
    """Return the steps that decide what of the image is looked at."""
    n_scales = len(config.encoder.scales)
    every = tuple(range(n_scales))
    fields: list[tuple[int, ...] | None] = [None, *((*every[:i], *every[i + 1 :]) for i in every)]
    return _wanted(
        config,
        [
            _step("shared.context_um", CONTEXTS_UM),
            _step("shared.scales", fields if n_scales > 1 else [None]),
            _step("shared.stages", STAGES if config.encoder.appends_last else STAGES[:-1]),
        ],
    )


def steps(config: ModelConfig, *, n_components: int, n_spots: int, patients: bool) -> list[Step]:
    """Return the steps that decide how neighbours become a prediction.

    Parameters
    ----------
    n_components, n_spots
        Directions at most, and spots of the smallest training side.
    patients
        Whether patients are held out; else nothing can show what transfers to another.
    """
    components = [c for c in COMPONENTS if c <= n_components]
    own = (config.retrieval.k, config.retrieval.temperature)
    nearest = dict.fromkeys([*(pair for pair in NEIGHBOURS if pair[0] <= n_spots), own])
    chosen = [
        _step("shared.components", components, LEAST_STEP),
        Step(
            "retrieval.k",
            tuple((("retrieval.k", k), ("retrieval.temperature", temperature)) for k, temperature in nearest),
            local=True,
        ),
        _step("correction", CORRECTIONS, LEAST_STEP),
        _step("key_mix", MIXES, LEAST_MIX),
    ]
    if patients:
        chosen.append(_step("shared.shrink_spots", SHRINKAGES, LEAST_STEP))
    return _wanted(config, chosen)


def _step(name: str, values: Sequence[Any], least: float = 0.0) -> Step:
    return Step(name, tuple(((name, value),) for value in values), least=least)


def _wanted(config: ModelConfig, chosen: list[Step]) -> list[Step]:
    """Leave out what was set by hand: of neighbours and temperature, each alone if need be."""
    wanted = []
    for step in chosen:
        kept = dict.fromkeys(
            tuple((name, value) for name, value in candidate if name in config.choose) for candidate in step.candidates
        )
        if len(kept) > 1:
            candidates = tuple(kept)
            # Where k is set by hand, the step is the temperature's, and the record has to say so.
            wanted.append(dataclasses.replace(step, name=candidates[0][0][0], candidates=candidates))
    return wanted


def applied(config: ModelConfig, candidate: Settings) -> ModelConfig:
    """Return the settings with a candidate's."""
    return with_settings(config, [f"{name}={_text(value)}" for name, value in candidate])


def _text(value: Any) -> str:
    return json.dumps(value)


def climb(step: Step, config: ModelConfig, score: Callable[[ModelConfig], Figures]) -> tuple[int, list[Figures]]:
    """Score every candidate of a step; return the place of the one to take, and all figures."""
    tried = [score(applied(config, candidate)) for candidate in step.candidates]
    best = max(range(len(tried)), key=lambda i: (tried[i].score, -i))
    own = [i for i, one in enumerate(step.candidates) if applied(config, one) == config]
    if step.least and own and tried[best].score < tried[own[0]].score + step.least:
        return own[0], tried
    if not step.local:
        return best, tried
    near = [i for i in range(len(tried)) if _within_noise(tried[i], tried[best])]
    return min(near, key=lambda i: (tried[i].n_effective or 0.0, i)), tried


def _within_noise(one: Figures, best: Figures) -> bool:
    return best.score - one.score <= min(noise(one, best), MAX_LOSS)


def described(candidate: Settings) -> str:
    """Return a candidate's values in words."""
    return some([f"{name.rpartition('.')[2]} {_text(value)}" for name, value in candidate])
