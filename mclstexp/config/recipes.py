"""The recipes, and changes to them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mclstexp.config.model import CHOICES, ModelConfig
from mclstexp.config.parts import (
    EncoderSpec,
    Normalisation,
    OptimConfig,
    PatchSpec,
    RetrievalConfig,
    SharedSpaceConfig,
)
from mclstexp.errors import InputError
from mclstexp.notes import warn
from mclstexp.settings import with_settings

RECIPES: dict[str, ModelConfig] = {
    # What the paper and its supplement say; the patch is cut as upstream does, the paper names no pixel size.
    "paper": ModelConfig(
        recipe="paper",
        patch=PatchSpec(mpp=None),
        normalisation=Normalisation(target_sum=1e6, total="all"),
        space="network",
        optim=OptimConfig(),
        retrieval=RetrievalConfig(weights="inverse_square", distance="l2"),
        key_mix=0.0,
    ),
    # Where upstream's code departs from its paper on HER2+ (docs/decisions/recipes.md has the list).
    "paper-code": ModelConfig(
        recipe="paper-code",
        patch=PatchSpec(mpp=None),
        normalisation=Normalisation(target_sum=1e4, total="panel", log="log10"),
        space="network",
        optim=OptimConfig(optimizer="adam"),
        retrieval=RetrievalConfig(weights="inverse_square", distance="l1"),
        key_mix=0.0,
    ),
    # Fields of view of 78, 157 and 314 um; the two wider ones also averaged over neighbouring spots.
    "default": ModelConfig(
        encoder=EncoderSpec(pooling="covariance", views=2, scales=(0.5, 1.0, 2.0), last_layer=True),
        patch=PatchSpec(mpp=0.7),
        shared=SharedSpaceConfig(context_scales=(1, 2)),
        retrieval=RetrievalConfig(k=400, temperature=0.2, depth_weighted=True, slide_levelled=True),
        choose=CHOICES,
    ),
}


def recipe(name: str) -> ModelConfig:
    """Return a recipe's settings by name.

    Raises
    ------
    InputError
        For an unknown name.
    """
    if name not in RECIPES:
        raise InputError(f"Unknown recipe {name!r}; one of {', '.join(RECIPES)}.")
    return RECIPES[name]


Settings = Sequence[str] | Mapping[str, Any]
"""Changes to a recipe: ``["retrieval.k=100"]`` or ``{"retrieval.k": 100}``."""


def configure(
    base: str | ModelConfig = "default",
    *,
    encoder: str | Sequence[str] | None = None,
    n_genes: int | None = None,
    seed: int | None = None,
    settings: Settings = (),
) -> ModelConfig:
    """Return a recipe's settings with changes.

    Parameters
    ----------
    base
        Name of a recipe, or settings to start from.
    encoder, n_genes, seed
        Shorthands of ``encoder.name`` (several as a list, or with commas), ``n_genes`` and ``seed``; None keeps the
        recipe's.
    settings
        Any other setting by its dotted name; it has the last word.

    Raises
    ------
    InputError
        For an unknown recipe or setting, or a value of the wrong type or out of range.

    Examples
    --------
    >>> configure("default", settings={"retrieval.k": 100}).retrieval.k
    100
    """
    config = recipe(base) if isinstance(base, str) else base
    encoder = ",".join(encoder) if isinstance(encoder, list | tuple) else encoder
    named = {"encoder.name": encoder, "n_genes": n_genes, "seed": seed}
    changes = [f"{key}={value}" for key, value in named.items() if value is not None]
    if isinstance(settings, Mapping):
        changes += [_assignment(key, value) for key, value in settings.items()]
    else:
        changes += list(settings)
    new = changed(config, changes)
    idle = _idle(new, _keys(changes))
    if idle:
        warn(f"{', '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing: {_without(new)}.")
    return new


def _keys(assignments: Sequence[str]) -> set[str]:
    return {text.partition("=")[0].strip() for text in assignments}


def _idle(config: ModelConfig, by_hand: set[str]) -> list[str]:
    """Return what was set by hand and nothing looks at."""
    unused: tuple[str, ...] = ()
    if config.space == "network":
        unused = ("shared.", "correction", "blend", "contrast_epochs", "calibrate", "interval_level")
    elif not config.trains_network:
        unused = ("optim.", "network.")
    return sorted(name for name in by_hand - {"optim.finetune"} if name.startswith(unused) and unused)


def _without(config: ModelConfig) -> str:
    if config.space == "network":
        return f"recipe {config.recipe} has the paper's network and no shared space"
    return f"recipe {config.recipe} trains no network unless optim.finetune is true"


def changed(config: ModelConfig, assignments: Sequence[str]) -> ModelConfig:
    """Return settings changed by ``dotted.key=value`` assignments; what is set by hand is not chosen any more."""
    new = with_settings(config, list(assignments))
    by_hand = _keys(assignments)
    kept = tuple(name for name in new.choose if name not in by_hand)
    return new if kept == new.choose else dataclasses.replace(new, choose=kept)


def _assignment(key: str, value: Any) -> str:
    try:
        return f"{key}={json.dumps(value)}"
    except (TypeError, ValueError) as error:
        raise InputError(f"Setting {key} is {value!r}; a plain number, text, list or null is needed.") from error
