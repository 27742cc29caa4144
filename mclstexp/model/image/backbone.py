"""One backbone of an image encoder, with its normalisation and pooling: patches in, vectors out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mclstexp.config import EncoderSpec
from mclstexp.device import keep_freed_memory
from mclstexp.model.image.cells import CELL_PX
from mclstexp.model.image.digest import state_digest
from mclstexp.model.image.pooling import covariance, evenly_spaced, mean_std
from mclstexp.model.image.stages import feature_maps, trunk_maps
from mclstexp.types import FloatArray

BATCH = {"cpu": 4, "cuda": 128}
"""Patches a forward pass, by device. Fixed, and the last batch padded, so that a vector never depends on its company.
More than four are no faster on a CPU (benchmarks/encoding.py)."""

LAST = "last"
"""Name of the block that is the encoder's own pooled output; the others are called by their stage."""


class Backbone(nn.Module):
    """A timm model with its normalisation and pooling; an `ImageEncoder` has one or several.

    Parameters
    ----------
    spec
        Its part of the encoder's settings: its name and the size at which it sees a patch.
    model
        The timm model without its classifier.
    n_stages
        How many stages are left of it where it is a trunk; None where it is whole.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EncoderSpec, model: nn.Module, n_stages: int | None = None) -> None:
        super().__init__()
        self.spec, self.model, self.n_stages = spec, model, n_stages
        config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self._blocks: dict[int, dict[str, int]] = {}
        self._pace: dict[int, float] = {}

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pooled features ``(b, F)`` of uint8 patches ``(b, size, size, 3)``."""
        return torch.cat(list(self._pooled(pixels).values()), dim=1)

    def features(self, patches: NDArray[np.uint8]) -> FloatArray:
        """Return features ``(b, F)`` float32 of uint8 patches ``(b, size, size, 3)``, averaged over the views."""
        device = next(self.parameters()).device
        if device.type == "cpu":
            keep_freed_memory()
        out = np.empty((len(patches), sum(self.blocks(patches.shape[1]).values())), dtype=np.float32)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            size = BATCH.get(device.type, BATCH["cuda"])
            for start in range(0, len(patches), size):
                batch = _padded(patches[start : start + size], size)
                pixels = torch.from_numpy(batch).to(device)
                total = torch.stack([self(view).float() for view in _views(pixels, self.spec.views)]).mean(dim=0)
                kept = min(size, len(patches) - start)
                out[start : start + kept] = total[:kept].cpu().numpy()
        return out

    def blocks(self, size_px: int) -> dict[str, int]:
        """Name and length of each part of the feature vector of a patch: ``stage0``, ``stage1``, ..., ``last``."""
        if size_px not in self._blocks:
            probe = torch.zeros((1, size_px, size_px, 3), dtype=torch.uint8, device=next(self.parameters()).device)
            with torch.inference_mode():
                self._blocks[size_px] = {name: part.shape[1] for name, part in self._pooled(probe).items()}
        return self._blocks[size_px]

    def seconds_per_patch(self, size_px: int) -> float:
        """Measure how long one patch takes in all views, on two batches of blank patches; once for a size."""
        if size_px in self._pace:
            return self._pace[size_px]
        size = BATCH.get(next(self.parameters()).device.type, BATCH["cuda"])
        blank = np.full((size, size_px, size_px, 3), 255, dtype=np.uint8)
        self.features(blank)
        started = time.perf_counter()
        self.features(blank)
        self._pace[size_px] = (time.perf_counter() - started) / size
        return self._pace[size_px]

    def digest(self) -> str:
        """SHA-256 over the model's weights and buffers, by name."""
        return state_digest({name: tensor.cpu().numpy() for name, tensor in self.model.state_dict().items()})

    def maps(self, pixels: Tensor) -> list[tuple[str, Tensor]]:
        """Return how each map of tiles ``(b, size, size, 3)`` is pooled, and the map, in the order of the features.

        Only for backbones that `why_not_dense` says nothing against. Tiles are seen at the size that they have.
        """
        x, kind = self._normalised(pixels, side=pixels.shape[1]), "covariance"
        if self.spec.pooling == "stages":
            kind = "deviation"
        if self.n_stages is not None:
            maps = trunk_maps(self.model, self.n_stages, x)
            last = maps[-1]
        else:
            last, maps = feature_maps(self.model, x)
        if self.spec.pooling == "last":
            return [("mean", last)]
        parts = [(kind, maps[i]) for i in evenly_spaced(len(maps))]
        if self.n_stages is None:
            parts.append((kind, last))
        return parts + ([("mean", last)] if self.spec.appends_last else [])

    def why_not_dense(self, side_px: int) -> str:
        """Say why maps of tiles cannot be pooled in place of patches; "" where they can.

        The maps need a place for every value, and the backbone's own pooled output, where it is used, has to be the
        last map's mean.
        """
        probe = torch.zeros((1, side_px, side_px, 3), dtype=torch.uint8, device=next(self.parameters()).device)
        probe[:, : side_px // 2] = 255
        with torch.inference_mode():
            maps = self.maps(probe)
            if any(values.ndim != 4 for _, values in maps):
                return "its maps have no rows and columns"
            strides = [side_px / values.shape[-1] for _, values in maps]
            if any(CELL_PX % stride for stride in strides):
                return f"a stage has a stride of {max(strides):g} pixels, and cells have {CELL_PX}"
            used = self.spec.pooling == "last" or self.spec.appends_last
            if used and self.n_stages is None:
                last = maps[-1][1]
                if not torch.allclose(self._head(last).float(), _mean(last), rtol=1e-3, atol=1e-5):
                    return "its own pooled output is not the mean of its last map"
        return ""

    def _pooled(self, pixels: Tensor) -> dict[str, Tensor]:
        x = self._normalised(pixels)
        if self.spec.pooling == "last":
            return {LAST: self._last_layer(x)}
        pool = covariance if self.spec.pooling == "covariance" else mean_std
        if self.n_stages is not None:
            maps = trunk_maps(self.model, self.n_stages, x)
            parts = {f"stage{i}": pool(maps[i]) for i in evenly_spaced(len(maps))}
            return parts | ({LAST: _mean(maps[-1])} if self.spec.appends_last else {})
        last, maps = feature_maps(self.model, x)
        parts = {f"stage{i}": pool(maps[i]) for i in evenly_spaced(len(maps))}
        parts[f"stage{len(maps)}"] = pool(last) if last.ndim == 4 else self._head(last)
        return parts | ({LAST: self._head(last)} if self.spec.appends_last else {})

    def _last_layer(self, x: Tensor) -> Tensor:
        """Return the model's own pooled output; a trunk has none but the mean of its last map."""
        if self.n_stages is not None:
            return _mean(trunk_maps(self.model, self.n_stages, x)[-1])
        model: Any = self.model
        return self._head(model.forward_features(x))

    def _head(self, last: Tensor) -> Tensor:
        model: Any = self.model
        return model.forward_head(last, pre_logits=True)  # type: ignore[no-any-return]

    def _normalised(self, pixels: Tensor, side: int | None = None) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).float() / 255.0  # (b, 3, size, size)
        side = side or (self.spec.input_px[0] if self.spec.input_px else x.shape[-1])
        if side != x.shape[-1]:
            x = F.interpolate(x, size=(side, side), mode="area")
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def _mean(maps: Tensor) -> Tensor:
    """Pool ``(b, c, h, w)`` to the mean over the patch, ``(b, c)``."""
    return maps.float().mean(dim=(2, 3))


def _views(pixels: Tensor, n: int) -> Iterator[Tensor]:
    """Yield ``n`` of the eight rotations and flips of ``(b, h, w, 3)``, a quarter turn second."""
    for flipped in (pixels, pixels.flip(2)):
        for turns in range(4):
            if n == 0:
                return
            n -= 1
            yield torch.rot90(flipped, turns, (1, 2))


def _padded(patches: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if len(patches) == size:
        return np.ascontiguousarray(patches)
    return np.concatenate([patches, np.zeros((size - len(patches), *patches.shape[1:]), dtype=np.uint8)])
