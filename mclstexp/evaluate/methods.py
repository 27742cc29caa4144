"""What a method must offer to take part in an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from mclstexp.config import ModelConfig, Normalisation
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.types import Device, EncoderWeights, StrPath


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
class Learned(Protocol):
    """A method whose training chooses settings itself; ``learned`` is the record in its model's history, or None."""

    learned: dict[str, Any] | None


@runtime_checkable
class Configured(Protocol):
    """A method that is a recipe with settings."""

    config: ModelConfig


def without_counts(slide: Slide) -> Slide:
    """Return the slide as a method meets it: spots and image, no counts, genes or labels."""
    return replace(slide, spots=replace(slide.spots, counts=None, genes=None, labels=None))


@dataclass(frozen=True)
class MethodOptions:
    """What a command line says about the methods to compare; `mclstexp.evaluate.retrieval` builds them.

    Attributes
    ----------
    recipes
        One retrieval method each; the baselines are always added.
    encoder, encoder_weights
        As for training: timm names (None: the recipe's), and for each a file, "random" or "pretrained".
    settings
        ``dotted.key=value`` changes to every recipe.
    normalisation
        The protocol's: every method must predict on this scale.
    grid, split
        Combinations of settings (`mclstexp.evaluate.tuning.parse_grid`) that each recipe but the published ones also
        chooses among on every training side, divided as the outer split is.
    cache
        Folder for image features, True for the user's, False for none.
    """

    recipes: tuple[str, ...] = ("default", "paper")
    encoder: str | None = None
    encoder_weights: EncoderWeights = "pretrained"
    settings: tuple[str, ...] = ()
    normalisation: Normalisation = field(default_factory=Normalisation)
    grid: tuple[tuple[str, ...], ...] = ()
    split: SplitSpec = field(default_factory=SplitSpec)
    device: Device = "auto"
    cache: bool | StrPath = True
