"""Everything that decides what a model computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mclstexp.config.parts import (
    EncoderSpec,
    NetworkConfig,
    Normalisation,
    OptimConfig,
    PatchSpec,
    RetrievalConfig,
    SharedSpaceConfig,
)
from mclstexp.config.ranges import check_ranges
from mclstexp.errors import InputError
from mclstexp.settings import LATER, require

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
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    patch: PatchSpec = field(default_factory=PatchSpec)
    normalisation: Normalisation = field(default_factory=Normalisation)
    space: Literal["network", "shared"] = "shared"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    shared: SharedSpaceConfig = field(default_factory=SharedSpaceConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    key_mix: float = 0.5
    correction: float = 1.0
    calibrate: bool = True
    interval_level: float = 0.9
    n_genes: int = 1000
    seed: int = 0
    choose: tuple[str, ...] = field(default=(), metadata=LATER)
    blend: float = field(default=0.0, metadata=LATER)
    contrast_epochs: int = field(default=0, metadata=LATER)

    @property
    def trains_network(self) -> bool:
        """Whether epochs, learning rate and the like are used: by the paper's network, or to fine-tune an encoder."""
        return self.space == "network" or self.optim.finetune

    def __post_init__(self) -> None:
        check_ranges("", self)
        unknown = [name for name in self.choose if name not in CHOICES]
        require("choose", list(self.choose), not unknown, f"a list of some of {', '.join(CHOICES)}")
        side = max(self.encoder.input_px or (0,))
        if side > self.patch.size_px:
            raise InputError(
                f"encoder.input_px is {side}, but a patch has patch.size_px {self.patch.size_px}: nothing is gained by "
                "enlarging it; set both, or leave encoder.input_px out."
            )
        n_scales = len(self.encoder.scales)
        for name in ("context_scales", "scales"):
            places = getattr(self.shared, name)
            if self.space == "shared" and places and max(places) >= n_scales:
                raise InputError(
                    f"shared.{name} is {list(places)}, but encoder.scales has {n_scales}; set both, such as "
                    f"shared.{name}={list(range(n_scales))} (places are counted from 0)."
                )
