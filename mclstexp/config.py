"""Settings: frozen dataclasses that are saved with the model and compared on load. No global settings object."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mclstexp.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class PatchSpec:
    """How a patch is cut around a spot's centre: ``size_px`` pixels at ``mpp`` um per pixel.

    ``mpp=None`` takes full-resolution pixels as they are, whatever they measure (upstream's way, recipe ``paper``).
    ``scale`` widens the field of view at the same number of pixels: 2 sees twice as far, half as sharp.
    """

    size_px: int = 224
    mpp: float | None = 0.5
    scale: float = 1.0

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


@dataclass(frozen=True)
class EncoderSpec:
    """The image encoder and how its feature maps become one vector a spot.

    Attributes
    ----------
    name
        Any timm model, or ``hf-hub:...``.
    pooling
        ``last``: the encoder's own pooled output. ``stages``: mean and standard deviation of every stage's feature
        map, since texture lives in the early stages. ``covariance``: how a stage's channels vary together over the
        patch, of every stage.
    views
        Number of flips and rotations whose features are averaged: 1, 2, 4 or 8.
    scales
        Fields of view as multiples of the patch's side; their features are concatenated.
    """

    name: str = "densenet121"
    pooling: Literal["last", "stages", "covariance"] = "last"
    views: int = 1
    scales: tuple[float, ...] = (1.0,)


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
        Whether the slide's mean features say how far its mean expression lies from the training slides'.
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


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides what a model computes, saved in its folder.

    ``space`` names what is fitted on top of the image features: the paper's ``network``, or the regularised
    ``shared`` space of the default recipe. ``key_mix`` is the share of the reference patch's own image embedding in
    a fused key (0: spot embedding alone). ``correction`` is the strength of the shared space's local linear correction
    (0: the plain weighted mean). ``calibrate`` cross-validates a shared space for intervals of nominal coverage
    ``interval_level`` and for each gene's expected reliability.
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
        encoder=EncoderSpec(pooling="covariance", views=2, scales=(0.5, 1.0, 2.0)),
        patch=PatchSpec(mpp=0.7),
        shared=SharedSpaceConfig(context_scales=(1, 2)),
        retrieval=RetrievalConfig(k=400, temperature=0.2, depth_weighted=True, slide_levelled=True),
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


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build a (nested) settings dataclass from plain values.

    Raises
    ------
    InputError
        For an unknown key or a value of the wrong type, named by its dotted path.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(f"Unknown setting {where}{unknown[0]!r}; known: {', '.join(sorted(hints))}.")
    return cls(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()})


def with_settings(config: T, assignments: list[str]) -> T:
    """Return the settings with ``dotted.key=value`` assignments applied; values are read as JSON, else as text."""
    values = to_dict(config)
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"Setting {assignment!r} is not of the form key=value.")
        *parents, leaf = dotted.split(".")
        target = values
        for parent in parents:
            inner = target.get(parent)
            if not isinstance(inner, dict):
                raise InputError(f"Unknown setting {dotted!r}; known: {', '.join(sorted(target))}.")
            target = inner
        if leaf not in target:
            raise InputError(f"Unknown setting {dotted!r}; known: {', '.join(sorted(target))}.")
        try:
            target[leaf] = json.loads(text)
        except json.JSONDecodeError:
            target[leaf] = text
    return from_dict(type(config), values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise InputError(f"Setting {where} must be a group of settings, got {value!r}.")
        return from_dict(hint, value, f"{where}.")
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in options:
            raise InputError(f"Setting {where} is {value!r}; one of {', '.join(map(repr, options))} is needed.")
        return value
    if origin in (Union, UnionType):
        if value is None and type(None) in options:
            return None
        (inner,) = (option for option in options if option is not type(None))
        return _convert(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"Setting {where} must be a list, got {value!r}.")
        return tuple(_convert(options[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"Setting {where} must be {hint.__name__}, got {value!r}.")
    return value
