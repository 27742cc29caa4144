"""The groups of settings: patch, normalisation, retrieval, encoder, network, training, shared space."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from mclstexp.config.ranges import SCALE, SIDE_PX, check_ranges
from mclstexp.errors import InputError
from mclstexp.settings import LATER, require


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
        check_ranges("patch", self)

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
        check_ranges("normalisation", self)


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
        check_ranges("retrieval", self)


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
        fits = sides is None or (len(sides) in (1, len(self.names)) and all(side in SIDE_PX for side in sides))
        needed = f"null or a list of one number, or of {len(self.names)} (one an encoder), each from 8 to 4096,"
        require("encoder.input_px", None if sides is None else list(sides), fits, needed)
        require("encoder.views", self.views, self.views in (1, 2, 4, 8), "1, 2, 4 or 8")
        require("encoder.views", self.views, self.views == 1 or not self.dense, "1 (where encoder.dense is true)")
        fits = bool(self.scales) and all(scale in SCALE for scale in self.scales)
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
        check_ranges("network", self)


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
        check_ranges("optim", self)


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
        check_ranges("shared", self)
        for name, places in (("context_scales", self.context_scales), ("scales", self.scales)):
            fits = places is None or all(place >= 0 for place in places)
            require(f"shared.{name}", places, fits, "null or a list of the scales' places, counted from 0,")
        require(
            "shared.scales", self.scales, self.scales is None or bool(self.scales), "null or a list that is not empty,"
        )
        weights = self.level_weights
        fits = weights is None or (len(weights) == 2 and min(weights) >= 0 and sum(weights) <= 1 + 1e-9)
        require("shared.level_weights", weights, fits, "null or two shares that together are at most 1,")
