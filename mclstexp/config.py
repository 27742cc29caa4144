"""Settings: frozen dataclasses that are saved with the model and compared on load. No global settings object."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mclstexp.errors import InputError
from mclstexp.settings import LATER, require, with_settings

MAX_NEIGHBOURS = 1_000_000
"""More neighbours than this are a slip of the finger; a search never asks for more than there are spots."""


@dataclass(frozen=True)
class PatchSpec:
    """How a patch is cut around a spot's centre: ``size_px`` pixels at ``mpp`` um per pixel.

    ``mpp=None`` takes full-resolution pixels as they are, whatever they measure (upstream's way, recipe ``paper``).
    ``scale`` widens the field of view at the same number of pixels: 2 sees twice as far, half as sharp.
    """

    size_px: int = 224
    mpp: float | None = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        require("patch.size_px", self.size_px, 8 <= self.size_px <= 4096, "a whole number from 8 to 4096")
        require(
            "patch.mpp", self.mpp, self.mpp is None or 0.01 <= self.mpp <= 100, "um per pixel from 0.01 to 100, or null"
        )
        require("patch.scale", self.scale, 0.01 <= self.scale <= 100, "a number from 0.01 to 100")

    def span_px(self, slide_mpp: float | None) -> float:
        """Side of the patch in the slide's full-resolution pixels."""
        if self.mpp is None:
            return self.size_px * self.scale
        if slide_mpp is None:
            raise InputError("The patch is defined in um, but the slide's pixel size is unknown; give it with --mpp.")
        return self.size_px * self.scale * self.mpp / slide_mpp


@dataclass(frozen=True)
class Normalisation:
    """How raw counts become expression: ``log(1 + counts / total * target_sum)``.

    ``total`` is the spot's sum over the model's gene panel (``panel``) or over every measured gene (``all``).
    The paper: ``all``, 1e6, natural. Upstream's code: ``panel``, 1e4, log10.
    """

    target_sum: float = 1e4
    total: Literal["panel", "all"] = "panel"
    log: Literal["natural", "log10"] = "natural"

    def __post_init__(self) -> None:
        require("normalisation.target_sum", self.target_sum, 0 < self.target_sum < math.inf, "a positive number")


@dataclass(frozen=True)
class RetrievalConfig:
    """How neighbours become a prediction.

    ``weights="softmax"``: softmax of similarity / temperature. ``"inverse_square"``: 1 / d^2 (the paper), d the L1
    or L2 distance between embeddings. A gene is missing at a spot where the neighbours that measured it hold less
    than ``min_measured`` of the weight.

    ``depth_weighted``: a neighbour's weight is multiplied by t / (t + median t of the reference), t its total counts,
    so that shallow spots say less, and those of slides below the median slide's depth in proportion less.
    ``slide_levelled``: what differs between the neighbours' slides as a whole (depth,
    patient) does not enter the contrast between the query's spots; and where embeddings are relative to their slide
    (the shared space), the query's mean is the level of the neighbours' slides.
    """

    k: int = 200
    weights: Literal["softmax", "inverse_square"] = "softmax"
    temperature: float = 0.1
    distance: Literal["l1", "l2"] = "l2"
    min_measured: float = 0.25
    depth_weighted: bool = False
    slide_levelled: bool = False

    def __post_init__(self) -> None:
        require(
            "retrieval.k", self.k, 1 <= self.k <= MAX_NEIGHBOURS, f"a number of neighbours from 1 to {MAX_NEIGHBOURS:,}"
        )
        require("retrieval.temperature", self.temperature, 0 < self.temperature < math.inf, "a positive number")
        require("retrieval.min_measured", self.min_measured, 0 <= self.min_measured <= 1, "a share from 0 to 1")


@dataclass(frozen=True)
class EncoderSpec:
    """The image encoder and how its feature maps become one vector a spot.

    Attributes
    ----------
    name
        Any timm model, or ``hf-hub:...``; several with commas between are an ensemble, their features side by side.
    pooling
        ``last``: the encoder's own pooled output. ``stages``: mean and standard deviation of every stage's feature
        map, since texture lives in the early stages. ``covariance``: how a stage's channels vary together over the
        patch, of every stage.
    views
        Number of flips and rotations whose features are averaged: 1, 2, 4 or 8.
    scales
        Fields of view as multiples of the patch's side; their features are concatenated.
    input_px
        Side at which the encoder sees the patch, which is averaged down to it: 112 costs a quarter of 224. One
        number, or one an encoder. None: as the patch is.
    last_layer
        Whether the encoder's own pooled output follows the covariances as one more part. The shared space leaves it
        alone.
    dense
        Whether tissue is encoded once, tile by tile, and every field of view pooled from the tiles' maps: for spots
        closer than 100 um and Visium HD bins, with convolutional encoders. One view.
    """

    name: str = "densenet121"
    pooling: Literal["last", "stages", "covariance"] = "last"
    views: int = 1
    scales: tuple[float, ...] = (1.0,)
    input_px: tuple[int, ...] | None = field(default=None, metadata=LATER)
    last_layer: bool = field(default=False, metadata=LATER)
    dense: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        require("encoder.name", self.name, all(self.names), "a name, or several with one comma between each two,")
        sides = self.input_px
        fits = sides is None or (len(sides) in (1, len(self.names)) and all(8 <= side <= 4096 for side in sides))
        needed = f"null or a list of one number, or of {len(self.names)} (one an encoder), each from 8 to 4096,"
        require("encoder.input_px", None if sides is None else list(sides), fits, needed)
        require("encoder.views", self.views, self.views in (1, 2, 4, 8), "1, 2, 4 or 8")
        require("encoder.views", self.views, self.views == 1 or not self.dense, "1 (where encoder.dense is true)")
        fits = bool(self.scales) and all(0.01 <= scale <= 100 for scale in self.scales)
        require("encoder.scales", list(self.scales), fits, "a list of one number at least, each from 0.01 to 100,")

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders' names."""
        return tuple(name.strip() for name in self.name.split(","))

    @property
    def members(self) -> tuple[EncoderSpec, ...]:
        """The settings of each encoder by itself."""
        sides = self.input_px or ()
        sides = sides * len(self.names) if len(sides) == 1 else sides
        return tuple(
            dataclasses.replace(self, name=name, input_px=(sides[place],) if sides else None)
            for place, name in enumerate(self.names)
        )

    @property
    def appends_last(self) -> bool:
        """Whether the encoder's own pooled output follows as a part of its own; only covariances lack it."""
        return self.last_layer and self.pooling == "covariance"


@dataclass(frozen=True)
class NetworkConfig:
    """The paper's network (section 2.2 of arXiv 2407.08216): projection heads and self-attention over spots."""

    embed_dim: int = 256
    blocks: int = 2
    heads: int = 8
    head_dim: int = 64
    dropout: float = 0.1
    positions: bool = True
    context_spots: int = 1024

    def __post_init__(self) -> None:
        for name in ("embed_dim", "blocks", "heads", "head_dim", "context_spots"):
            value = getattr(self, name)
            require(f"network.{name}", value, 1 <= value <= 65_536, "a whole number from 1 to 65,536")
        require("network.dropout", self.dropout, 0 <= self.dropout < 1, "a share from 0, below 1,")


@dataclass(frozen=True)
class OptimConfig:
    """How the network is trained."""

    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = 1e-4
    weight_decay: float = 1e-3
    epochs: int = 90
    batch_size: int = 128
    temperature: float = 1.0
    finetune: bool = False
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        require("optim.lr", self.lr, 0 < self.lr <= 10, "a learning rate above 0, at most 10,")
        require("optim.weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number of at least 0")
        require("optim.epochs", self.epochs, 1 <= self.epochs <= 1_000_000, "a number of epochs of at least 1")
        require("optim.batch_size", self.batch_size, 2 <= self.batch_size <= 65_536, "a batch of 2 to 65,536 spots")
        require("optim.temperature", self.temperature, 0 < self.temperature < math.inf, "a positive number")
        require(
            "optim.validation_share", self.validation_share, 0 <= self.validation_share < 0.9, "a share from 0 to 0.9"
        )


@dataclass(frozen=True)
class SharedSpaceConfig:
    """The shared space of the default recipe (docs/accuracy.md says what each part is worth).

    Attributes
    ----------
    components
        Directions of expression that the space knows; an embedding has one number more.
    context_um, context_scales
        Patches also enter averaged over their neighbours, with Gaussian weights of this width; 0 turns it off.
        ``context_scales`` says which of the encoder's scales (by position; None: all).
    caution
        Factor on the chosen regularisation where the training slides hold one patient only, so that nothing can show
        what transfers to another.
    radius
        Weight of the constant that keeps lengths visible on the unit sphere: large is nearly Euclidean.
    shrink_spots
        A slide's own mean counts against so many spots of the training mean: a query of one patch still has a centre.
    image_level
        Whether the slide's features say how far its mean expression lies from the training slides'.
    level_weights
        How far that goes to the training spots, and to the training slides, that look alike; None: chosen on patients
        held out.
    scales, stages
        Which fields of view (by position; None: all) and which stages of the encoder enter.
    max_landmarks, max_rank
        Bounds of the solver: spots that span the image features, and directions kept of them.
    """

    components: int = 6
    context_um: float = 200.0
    context_scales: tuple[int, ...] | None = None
    caution: float = 2.0
    radius: float = 2.0
    shrink_spots: float = 10.0
    image_level: bool = True
    max_landmarks: int = 4096
    max_rank: int = 1536
    level_weights: tuple[float, float] | None = field(default=None, metadata=LATER)
    scales: tuple[int, ...] | None = field(default=None, metadata=LATER)
    stages: Literal["all", "early", "late", "with last"] = field(default="all", metadata=LATER)

    def __post_init__(self) -> None:
        require("shared.components", self.components, 1 <= self.components <= 4096, "a whole number from 1 to 4096")
        for name in ("context_um", "caution", "radius", "shrink_spots"):
            value = getattr(self, name)
            require(f"shared.{name}", value, 0 <= value < math.inf, "a number of at least 0")
        require("shared.radius", self.radius, self.radius > 0, "a positive number")
        for name, places in (("context_scales", self.context_scales), ("scales", self.scales)):
            fits = places is None or all(place >= 0 for place in places)
            require(f"shared.{name}", places, fits, "null or a list of the scales' places, counted from 0,")
        require(
            "shared.scales", self.scales, self.scales is None or bool(self.scales), "null or a list that is not empty,"
        )
        weights = self.level_weights
        fits = weights is None or (len(weights) == 2 and min(weights) >= 0 and sum(weights) <= 1 + 1e-9)
        require("shared.level_weights", weights, fits, "null or two shares that together are at most 1,")
        for name in ("max_landmarks", "max_rank"):
            value = getattr(self, name)
            require(f"shared.{name}", value, 8 <= value <= 65_536, "a whole number from 8 to 65,536")


CHOICES = (
    "shared.context_um",
    "shared.scales",
    "shared.stages",
    "shared.components",
    "shared.shrink_spots",
    "shared.level_weights",
    "retrieval.k",
    "retrieval.temperature",
    "correction",
    "key_mix",
    "blend",
    "contrast_epochs",
)
"""Settings that training can choose, by their dotted names."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides what a model computes, saved in its folder.

    ``space`` names what is fitted on top of the image features: the paper's ``network``, or the regularised
    ``shared`` space of the default recipe. ``key_mix`` is the share of the reference patch's own image embedding in
    a fused key (0: spot embedding alone). ``correction`` is the strength of the shared space's local linear correction
    (0: the plain weighted mean), ``blend`` the share of a linear map of the same features, ``contrast_epochs`` how long
    a network that corrects the shared space is trained by contrast (0: not at all). ``calibrate``
    cross-validates a shared space for intervals of nominal coverage ``interval_level`` and for each gene's expected
    reliability. ``choose`` names the settings that training chooses on slides held out, among `CHOICES`; what is set by
    hand is not chosen.
    """

    recipe: str = "default"
    encoder: EncoderSpec = EncoderSpec()
    patch: PatchSpec = PatchSpec()
    normalisation: Normalisation = Normalisation()
    space: Literal["network", "shared"] = "shared"
    network: NetworkConfig = NetworkConfig()
    shared: SharedSpaceConfig = SharedSpaceConfig()
    optim: OptimConfig = OptimConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    key_mix: float = 0.5
    correction: float = 1.0
    calibrate: bool = True
    interval_level: float = 0.9
    n_genes: int = 1000
    seed: int = 0
    choose: tuple[str, ...] = field(default=(), metadata=LATER)
    blend: float = field(default=0.0, metadata=LATER)
    contrast_epochs: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        require("key_mix", self.key_mix, 0 <= self.key_mix <= 1, "a share from 0 to 1")
        require("blend", self.blend, 0 <= self.blend <= 1, "a share from 0 to 1")
        fits = 0 <= self.contrast_epochs <= 1000
        require("contrast_epochs", self.contrast_epochs, fits, "a number of epochs from 0 to 1000")
        require("correction", self.correction, 0 <= self.correction < math.inf, "a number of at least 0")
        require("interval_level", self.interval_level, 0 < self.interval_level < 1, "a share between 0 and 1")
        require("n_genes", self.n_genes, 1 <= self.n_genes <= 1_000_000, "a number of genes of at least 1")
        unknown = [name for name in self.choose if name not in CHOICES]
        require("choose", list(self.choose), not unknown, f"a list of some of {', '.join(CHOICES)}")
        require("seed", self.seed, 0 <= self.seed < 2**32, "a whole number from 0 to 4294967295")
        side = max(self.encoder.input_px or (0,))
        if side > self.patch.size_px:
            raise InputError(
                f"encoder.input_px is {side}, but a patch has patch.size_px {self.patch.size_px}: nothing is gained by "
                "enlarging it; set both, or leave encoder.input_px out."
            )
        places, n_scales = self.shared.context_scales, len(self.encoder.scales)
        if self.space == "shared" and places and max(places) >= n_scales:
            raise InputError(
                f"shared.context_scales is {list(places)}, but encoder.scales has {n_scales}; set both, such as "
                f"shared.context_scales={list(range(n_scales))} (places are counted from 0)."
            )


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
    return changed(config, changes)


def changed(config: ModelConfig, assignments: Sequence[str]) -> ModelConfig:
    """Return settings changed by ``dotted.key=value`` assignments; what is set by hand is not chosen any more."""
    new = with_settings(config, list(assignments))
    by_hand = {text.partition("=")[0].strip() for text in assignments}
    kept = tuple(name for name in new.choose if name not in by_hand)
    return new if kept == new.choose else dataclasses.replace(new, choose=kept)


def _assignment(key: str, value: Any) -> str:
    try:
        return f"{key}={json.dumps(value)}"
    except (TypeError, ValueError) as error:
        raise InputError(f"Setting {key} is {value!r}; a plain number, text, list or null is needed.") from error
