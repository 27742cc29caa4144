"""The network as a contender: kept where it beats the closed form on held-out patients that did not choose it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from mclstexp.choose.figures import Figures, noise
from mclstexp.choose.rehearsal import Rehearsal
from mclstexp.config import ModelConfig
from mclstexp.model.space.contrast import Refinement, refine
from mclstexp.model.space.shared import SharedSpace
from mclstexp.predict.fit import contrasted
from mclstexp.predict.linear import with_linear
from mclstexp.types import Progress

SETTING = "contrast_epochs"

LEAST_SPOTS = 500
"""Training spots from which on a network is tried: docs/experiments.md has it kept from 700 on, never at 350."""

LEAST_GAIN = 0.002
"""Of the score: what the network has to gain at least, beyond the noise."""

MAX_EPOCHS = 40

QUERIES = 3000
"""Held-out spots that each space is scored on."""

JUDGES = (1, 2)
"""Divisions that the network is judged on; the first says how long to train it, so it is biased in its favour."""


@dataclass(frozen=True)
class Trial:
    """What the network came to.

    Attributes
    ----------
    epochs
        How long to train it; 0 where it does not pay.
    curve, record
        For the record of the choice: the score by epoch on the first division, and the gain on the others.
    said
        The same in words.
    """

    epochs: int
    curve: dict[str, Any]
    record: dict[str, Any]
    said: str


def worth_trying(rehearsal: Rehearsal, config: ModelConfig) -> bool:
    """Return whether a network is asked for, could change anything, and has enough to learn from and be judged on."""
    judges = [rehearsal.divided[i] for i in JUDGES if i < len(rehearsal.divided)]
    if SETTING not in config.choose or config.blend == 1 or sum(len(split.held) for split in judges) < 2:
        return False
    return min(sum(len(slide.features) for slide in split.rest) for split in rehearsal.divided) >= LEAST_SPOTS


def try_contrast(rehearsal: Rehearsal, config: ModelConfig, *, on_progress: Progress | None = None) -> Trial:
    """Find on the first division how many epochs pay, and on others what they are worth.

    Every figure is of predictions through `Predictor`, as any other candidate's.

    Parameters
    ----------
    rehearsal
        Of an excerpt of the training side, for which `worth_trying` holds.
    config
        The settings chosen so far.
    on_progress
        Called after every epoch.
    """
    started = time.monotonic()
    found = _explore(rehearsal.only([0]), config, on_progress)
    gain, error = 0.0, None
    if found.epochs:
        chosen = dataclasses.replace(config, contrast_epochs=found.epochs)
        before, after = _judge(rehearsal.only([i for i in JUDGES if i < len(rehearsal.divided)]), chosen, on_progress)
        gain, error = after.score - before.score, noise(after, before)
    kept = error is not None and gain > max(error, LEAST_GAIN)
    values = [entry["epoch"] for entry in found.history]
    record = {
        "tried_on": sum(len(slide.features) for slide in rehearsal.divided[0].rest),
        "epochs": found.epochs,
        "gain": round(gain, 4),
        "noise": None if error is None else round(error, 4),
        "kept": kept,
        "seconds": round(time.monotonic() - started, 1),
    }
    curve = {
        "setting": "contrast",
        "settings": [SETTING],
        "values": values,
        "score": [round(entry["validation"], 4) for entry in found.history],
        "chosen": values.index(found.epochs) if kept else 0,
    }
    return Trial(found.epochs if kept else 0, curve, record, _said(record))


def _explore(rehearsal: Rehearsal, config: ModelConfig, on_progress: Progress | None) -> Refinement:
    """Train as long as the score on the one division's held-out side rises."""
    plain = rehearsal.plain(QUERIES)

    def score(space: SharedSpace) -> float:
        return rehearsal.figures(config, queries=QUERIES, plain=plain, spaces=[space]).score

    return refine(
        _closed_forms(rehearsal, config)[0],
        rehearsal.divided[0].rest,
        rehearsal.layout,
        validate=score,
        epochs=MAX_EPOCHS,
        seed=config.seed,
        on_progress=on_progress,
    )


def _judge(rehearsal: Rehearsal, config: ModelConfig, on_progress: Progress | None) -> tuple[Figures, Figures]:
    """Return the figures of the closed forms, and of networks around them."""
    plain, closed = rehearsal.plain(QUERIES), _closed_forms(rehearsal, config)
    refined = [
        contrasted(space, split.rest, rehearsal.layout, config, on_progress=on_progress)
        for space, split in zip(closed, rehearsal.divided, strict=True)
    ]
    before, after = (
        rehearsal.figures(config, queries=QUERIES, plain=plain, spaces=spaces) for spaces in (closed, refined)
    )
    return before, after


def _closed_forms(rehearsal: Rehearsal, config: ModelConfig) -> list[SharedSpace]:
    spaces = rehearsal.spaces(config)
    if not config.blend:
        return spaces
    pairs = zip(spaces, rehearsal.divided, strict=True)
    return [with_linear(space, split.rest, seed=config.seed) for space, split in pairs]


def _said(record: dict[str, Any]) -> str:
    tried = f"a network trained by contrast on {record['tried_on']:,} spots"
    if record["noise"] is None:
        return f"{tried} does not beat the closed form after any epoch"
    verb = "is kept" if record["kept"] else "is not kept"
    gain = f"{record['gain']:+.4f} +- {record['noise']:.4f} of the score on others held out"
    return f"{tried}, {record['epochs']} epochs, {verb}: {gain}"
