"""What decides an evaluation's figures, and what a method must offer to take part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from mclstexp.config import ModelConfig, Normalisation, recipe, to_dict
from mclstexp.data.splits import Fold, SplitSpec, shorten
from mclstexp.errors import InputError
from mclstexp.evaluate_scores import MethodPrediction
from mclstexp.gene_sets import KNOWN_GENES, GeneSets
from mclstexp.types import GenePanel, Slide

PAPER_LEFT_OUT = ("A1", "H1", "H2", "H3")
"""Sections of HER2+ that the paper (after HisToGene's code) leaves out: 32 of 36 remain, A2 to G3."""

_SECTIONS = {"A": 6, "B": 6, "C": 6, "D": 6, "E": 3, "F": 3, "G": 3, "H": 3}

PAPER_SECTIONS = tuple(
    name
    for patient, n in _SECTIONS.items()
    for name in (f"{patient}{i + 1}" for i in range(n))
    if name not in PAPER_LEFT_OUT
)
"""The 32 sections of HER2+ that the paper reports on."""


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


def paper_slides(slides: Sequence[Slide], *, named: bool = False) -> tuple[list[Slide], list[str]]:
    """Return the sections that the paper used of HER2+ (all slides of another data set), and notes on what differs.

    Parameters
    ----------
    slides
        What was found.
    named
        Whether somebody named these very slides: then all are kept.
    """
    if not any(slide.layout == "her2st" for slide in slides):
        return list(slides), ["These slides are not the paper's HER2+ cohort: its protocol on other data."]
    out = [slide.slide_id for slide in slides if slide.slide_id in PAPER_LEFT_OUT and not named]
    kept = [slide for slide in slides if slide.slide_id not in out]
    notes = [f"Left out as in the paper: {', '.join(out)}."] if out else []
    usable = [slide.slide_id for slide in kept if slide.image is not None and slide.slide_id in PAPER_SECTIONS]
    if len(usable) < len(PAPER_SECTIONS):
        absent = [name for name in PAPER_SECTIONS if name not in usable]
        notes.append(
            f"A reduced run: {len(usable)} of the paper's {len(PAPER_SECTIONS)} sections take part with an image, "
            f"{shorten(absent)} do not; the paper's figures are of all of them."
        )
    return kept, notes


def describe_protocol(protocol: EvaluationProtocol) -> str:
    """Say what a published protocol is, and in what it was changed; another is its name alone."""
    if protocol.name not in PUBLISHED:
        return protocol.name
    if protocol.name == "paper":
        text = (
            "as the mclSTExp paper says: one section out with other cuts of its patient in training, counts per million"
        )
        published = paper_protocol("paper", genes=protocol.genes)
    else:
        text = "as mclSTExp's published code does: one section out with other cuts of its patient in training, one list"
        published = paper_protocol("paper-code", genes=protocol.genes)
    same = {
        "split": published.split == protocol.split,
        "scale": published.normalisation == protocol.normalisation,
        "number of genes": published.n_genes == protocol.n_genes or bool(protocol.genes),
    }
    changed = [what for what, as_published in same.items() if not as_published]
    return f"{protocol.name}, {text}" + (f"; CHANGED: {', '.join(changed)}" if changed else "")


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
        seen = f"held-out slides {shorten(slides)}"
    elif patients:
        seen = f"slides of held-out patients {shorten(sorted(patients))}"
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
