"""What decides an evaluation's figures, and what a method must offer to take part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from mclstexp.config import ModelConfig, Normalisation, recipe, to_dict
from mclstexp.data.splits import SplitSpec
from mclstexp.errors import InputError
from mclstexp.evaluate_scores import MethodPrediction
from mclstexp.gene_sets import KNOWN_GENES, GeneSets
from mclstexp.types import GenePanel, Slide

PAPER_LEFT_OUT = ("A1", "H1", "H2", "H3")
"""Sections of HER2+ that the paper (after HisToGene's code) leaves out: 32 of 36 remain, A2 to G3."""


PUBLISHED = ("paper", "paper-code")
"""Recipes that stand for someone else's work; they are never tuned."""


class Method(Protocol):
    """Something that learns from the training side of a fold and predicts held-out slides."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the seed changes nothing; such a method is run once."""
        ...

    @property
    def uses_counts_only(self) -> bool:
        """Whether training slides without an image are of use to it; otherwise it is not given any."""
        ...

    @property
    def normalisation(self) -> Normalisation:
        """The scale that its predictions are in; must be the protocol's."""
        ...

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Learn afresh from the training slides, forgetting any earlier fold."""
        ...

    def predict(self, slide: Slide) -> MethodPrediction:
        """Predict a slide that comes without its counts and labels."""
        ...


@dataclass(frozen=True)
class Choice:
    """Settings that a method chose on a training side, and the evidence.

    Attributes
    ----------
    settings
        The chosen ``dotted.key=value`` assignments; empty where there was nothing to choose on.
    rule
        How the training side was divided, in words.
    scores
        Each combination that was tried, with its mean PCC on the inner folds.
    """

    settings: tuple[str, ...]
    rule: str
    scores: tuple[tuple[tuple[str, ...], float | None], ...]


@runtime_checkable
class Choosing(Protocol):
    """A method that chooses settings when it is fitted."""

    choice: Choice | None


@runtime_checkable
class Configured(Protocol):
    """A method that is a recipe with settings."""

    config: ModelConfig


def changes_of(config: ModelConfig) -> list[str]:
    """List the settings in which a config differs from its recipe, as ``dotted.key=value``."""
    own, published = _flat(to_dict(config)), _flat(to_dict(recipe(config.recipe)))
    return [f"{key}={json.dumps(value)}" for key, value in own.items() if value != published[key]]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def without_counts(slide: Slide) -> Slide:
    """Return the slide as a method meets it: spots and image, no counts, genes or labels."""
    return replace(slide, spots=replace(slide.spots, counts=None, genes=None, labels=None))


@dataclass(frozen=True)
class MethodOptions:
    """What a command line says about the methods to compare; `mclstexp.index.pipeline` builds them.

    Attributes
    ----------
    recipes
        One retrieval method each; the baselines are always added.
    encoder, encoder_weights
        As for training: a timm name (None: the recipe's), and a file, "random" or None for downloaded weights.
    settings
        ``dotted.key=value`` changes to every recipe.
    normalisation
        The protocol's: every method must predict on this scale.
    grid, split
        Combinations of settings (`mclstexp.evaluate_tuning.parse_grid`) that each recipe but the published ones also
        chooses among on every training side, divided as the outer split is.
    cache
        Folder for image features, or None for the user's.
    """

    recipes: tuple[str, ...] = ("default", "paper")
    encoder: str | None = None
    encoder_weights: str | None = None
    settings: tuple[str, ...] = ()
    normalisation: Normalisation = field(default_factory=Normalisation)
    grid: tuple[tuple[str, ...], ...] = ()
    split: SplitSpec = field(default_factory=SplitSpec)
    device: str = "auto"
    cache: Path | None = None


@dataclass(frozen=True)
class EvaluationProtocol:
    """Everything that decides the figures, apart from the methods.

    Attributes
    ----------
    genes
        A fixed panel by name, or empty: ``n_genes`` highly variable genes chosen anew on each training side.
    normalisation
        Of the truth, and so of every prediction.
    markers, known
        Sets whose PCC is reported, and sets tested for being better predicted than the rest.
    """

    name: str = "default"
    split: SplitSpec = field(default_factory=SplitSpec)
    seeds: tuple[int, ...] = (0,)
    genes: tuple[str, ...] = ()
    n_genes: int = 1000
    normalisation: Normalisation = field(default_factory=Normalisation)
    markers: GeneSets = field(default_factory=dict)
    known: GeneSets = field(default_factory=lambda: dict(KNOWN_GENES))

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"Seeds {self.seeds} must be different whole numbers of at least 0.")
        if self.n_genes < 1:
            raise InputError(f"A panel of {self.n_genes} genes cannot be evaluated; --n-genes must be at least 1.")


def paper_protocol(which: Literal["paper", "paper-code"], *, genes: Sequence[str] = ()) -> EvaluationProtocol:
    """Return the protocol of the mclSTExp paper: leave one section out, other cuts of the patient in training.

    ``paper`` follows the text (counts per million of every gene, natural logarithm, genes chosen on the training side
    unless given); ``paper-code`` the published code (10,000 over the panel, log10, one fixed list of genes).

    Raises
    ------
    InputError
        When ``paper-code`` is asked for without its list of genes.
    """
    if which == "paper-code" and not genes:
        raise InputError("The protocol paper-code uses one fixed list of genes; give it with --genes FILE.")
    text = Normalisation(target_sum=1e6, total="all", log="natural")
    code = Normalisation(target_sum=1e4, total="panel", log="log10")
    return EvaluationProtocol(
        name=which,
        split=SplitSpec(by="slide"),
        genes=tuple(genes),
        n_genes=785,
        normalisation=text if which == "paper" else code,
    )


def paper_slides(slides: Sequence[Slide]) -> tuple[list[Slide], list[str]]:
    """Return the sections that the paper used of HER2+ (all slides of another data set), and a note."""
    out = [slide.slide_id for slide in slides if slide.layout == "her2st" and slide.slide_id in PAPER_LEFT_OUT]
    notes = [f"Left out as in the paper: {', '.join(out)}."] if out else []
    return [slide for slide in slides if slide.slide_id not in out], notes


def describe_split(split: SplitSpec) -> str:
    """Say in words how slides are held out."""
    if split.folds:
        return f"given folds, no {split.by} on both sides"
    if split.train or split.test:
        return f"given training and test slides, no {split.by} on both sides"
    return f"leave one {split.by} out"
