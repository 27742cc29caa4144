"""The image encoder: one timm backbone or several side by side, each pooled to one vector a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mclstexp.config import EncoderSpec
from mclstexp.model.image.backbone import Backbone
from mclstexp.model.image.digest import PREFIX, prefixes, state_digest
from mclstexp.model.image.weights import load_state, load_weights, new_model, weights_for
from mclstexp.text import duplicates
from mclstexp.types import EncoderWeights, FloatArray


class ImageEncoder(nn.Module):
    """One or several backbones; the features of a patch are theirs, side by side.

    Parameters
    ----------
    spec
        Which backbones, and how they are pooled.
    members
        The backbones, in the order of their names in ``spec``.
    """

    def __init__(self, spec: EncoderSpec, members: Sequence[Backbone]) -> None:
        super().__init__()
        self.spec = spec
        self._members = nn.ModuleList(members)

    @classmethod
    def create(cls, spec: EncoderSpec, weights: EncoderWeights = "pretrained", *, seed: int = 0) -> ImageEncoder:
        """Build the encoder from weights files, from timm's hub, or with seeded random weights.

        Parameters
        ----------
        spec
            Which backbones, and how they are pooled.
        weights
            ``pretrained``, ``random`` or a ``.safetensors`` file for each backbone; a file of the first stages alone
            makes a trunk.
        seed
            Of random weights.

        Raises
        ------
        InputError
            When a model is unknown, or its weights do not fit, or there are not as many as backbones.
        WeightsError
            When pretrained weights cannot be had.

        Examples
        --------
        >>> encoder = ImageEncoder.create(EncoderSpec("test_resnet,test_vit"), "random")
        >>> [member.spec.name for member in encoder.members]
        ['test_resnet', 'test_vit']
        """
        members = []
        for place, (part, source) in enumerate(zip(spec.members, weights_for(weights, len(spec.members)), strict=True)):
            model = new_model(part.name, pretrained=source == "pretrained", seed=seed + place)
            n_stages = load_weights(model, source, part.name) if isinstance(source, Path) else None
            members.append(Backbone(part, model, n_stages))
        return cls(spec, members)

    @property
    def members(self) -> list[Backbone]:
        """The backbones."""
        return list(self._members)  # type: ignore[arg-type]

    def built(self) -> ImageEncoder:
        """Return itself: what a saved encoder has to be built for."""
        return self

    def digests(self) -> list[str]:
        """Return the digest of each backbone's weights."""
        return [member.digest() for member in self.members]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pooled features ``(b, F)`` of uint8 patches ``(b, size, size, 3)``."""
        return torch.cat([member(pixels) for member in self.members], dim=1)

    def features(self, patches: NDArray[np.uint8]) -> FloatArray:
        """Return features ``(b, F)`` float32 of uint8 patches ``(b, size, size, 3)``, averaged over the views."""
        return np.concatenate([member.features(patches) for member in self.members], axis=1)

    def block_sizes(self, size_px: int) -> tuple[int, ...]:
        """Lengths of the parts, a stage each, of one scale's feature vector."""
        return tuple(size for member in self.members for size in member.blocks(size_px).values())

    def block_names(self, size_px: int) -> tuple[str, ...]:
        """Names of those parts: ``resnet50.stage0`` is a stage's, ``resnet50.last`` the backbone's own pooled output.

        A backbone that occurs twice is told apart by its place, counted from 1: ``resnet50#2.stage0``.
        """
        names = [member.spec.name for member in self.members]
        twice = duplicates(names)
        labels = [f"{name}#{place}" if name in twice else name for place, name in enumerate(names, start=1)]
        pairs = zip(labels, self.members, strict=True)
        return tuple(f"{label}.{block}" for label, member in pairs for block in member.blocks(size_px))

    def n_features_per_scale(self, size_px: int) -> int:
        """Length of one scale's feature vector."""
        return sum(self.block_sizes(size_px))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return every weight by name, those of one backbone as ``backbone.*``, of several as ``backbone.0.*``, ..."""
        return {
            f"{prefix}{name}": tensor.cpu().numpy()
            for prefix, member in zip(prefixes(len(self.members)), self.members, strict=True)
            for name, tensor in member.model.state_dict().items()
        }

    def load_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over the weights that `state` gave, among other arrays; those of a trunk make a trunk.

        Raises
        ------
        InputError
            When the arrays are not those of such an encoder.
        """
        for prefix, member in zip(prefixes(len(self.members)), self.members, strict=True):
            own = {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
            tensors = {name: torch.from_numpy(values.copy()) for name, values in own.items()}
            trunk = load_state(member.model, tensors, member.spec.name, "what was saved")
            member.n_stages = trunk[0] if trunk else None

    def digest(self) -> str:
        """SHA-256 over the backbones' weights and buffers, by name."""
        return state_digest({name.removeprefix(PREFIX): values for name, values in self.state().items()})
