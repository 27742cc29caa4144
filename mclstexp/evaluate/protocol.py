"""What decides an evaluation's figures, apart from the methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mclstexp.config import ModelConfig, Normalisation, recipe
from mclstexp.data.genes.sets import KNOWN_GENES, GeneSets
from mclstexp.errors import InputError
from mclstexp.evaluate.folds import Fold, SplitSpec
from mclstexp.settings import to_dict
from mclstexp.text import some

PUBLISHED = ("paper", "paper-code")
"""Recipes that stand for someone else's work; they are never tuned."""


def changes_of(config: ModelConfig) -> list[str]:
    """List the settings in which a config differs from its recipe, as ``dotted.key=value``."""
    own, published = _flat(to_dict(config)), _flat(to_dict(recipe(config.recipe)))
    return [f"{key}={json.dumps(value)}" for key, value in own.items() if value != published[key]]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


@dataclass(frozen=True)
class EvaluationProtocol:
    """Everything that decides the figures, apart from the methods.

    Attributes
    ----------
    genes
        A fixed panel by name, or empty: ``n_genes`` highly variable genes chosen anew on each training side.
    genes_seen
        (slide, patient) of the slides that the fixed panel was chosen on, where that is recorded.
    normalisation
        Of the truth, and so of every prediction.
    markers, known
        Sets whose PCC is reported, and sets tested for being better predicted than the rest.
    """

    name: str = "default"
    split: SplitSpec = field(default_factory=SplitSpec)
    seeds: tuple[int, ...] = (0,)
    genes: tuple[str, ...] = ()
    genes_seen: tuple[tuple[str, str], ...] = ()
    n_genes: int = 1000
    normalisation: Normalisation = field(default_factory=Normalisation)
    markers: GeneSets = field(default_factory=dict)
    known: GeneSets = field(default_factory=lambda: dict(KNOWN_GENES))

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"Seeds {self.seeds} must be different whole numbers of at least 0.")
        if self.n_genes < 1:
            raise InputError(f"A panel of {self.n_genes} genes cannot be evaluated; --n-genes must be at least 1.")


def panel_slides(path: Path) -> tuple[tuple[str, str], ...]:
    """Return (slide, patient) of the slides that a model was trained on whose ``genes.tsv`` this is; else nothing."""
    head = path.with_name("config.json")
    if path.name != "genes.tsv" or not head.is_file():
        return ()
    try:
        slides = json.loads(head.read_text(encoding="utf-8"))["facts"]["slides"]
        return tuple((str(slide["slide"]), str(slide["patient"])) for slide in slides)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} lies beside a {head.name} that is no model's ({error}); copy the list elsewhere."
        ) from error


def panel_warnings(protocol: EvaluationProtocol, folds: Sequence[Fold]) -> list[str]:
    """Return what is to be said of a panel that was given: whether its choice saw a held-out slide or patient."""
    if not protocol.genes:
        return []
    held_out = {slide.slide_id: slide.patient for fold in folds for slide in fold.test}
    slides = [slide_id for slide_id, _ in protocol.genes_seen if slide_id in held_out]
    patients = {patient for _, patient in protocol.genes_seen} & set(held_out.values()) - {""}
    if slides:
        seen = f"held-out slides {some(slides)}"
    elif patients:
        seen = f"slides of held-out patients {some(sorted(patients))}"
    else:
        return [f"The panel of {len(protocol.genes)} genes was given: whoever chose it may have seen the test slides."]
    return [
        f"LEAKAGE: the panel of {len(protocol.genes)} genes is that of a model trained on {seen}; leave --genes out to "
        "have it chosen on each training side."
    ]


def describe_split(split: SplitSpec) -> str:
    """Say in words how slides are held out."""
    if split.folds:
        return f"given folds, no {split.by} on both sides"
    if split.train or split.test:
        return f"given training and test slides, no {split.by} on both sides"
    return f"leave one {split.by} out"
