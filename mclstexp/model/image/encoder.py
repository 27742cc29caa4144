"""The image encoder: a timm backbone and the pooling that turns its feature maps into one vector a patch."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import numpy as np
import timm
import torch
from huggingface_hub import constants as hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mclstexp.config import EncoderSpec
from mclstexp.errors import InputError, WeightsError
from mclstexp.model.image.pooling import _evenly, _mean_std, covariance
from mclstexp.types import FloatArray

BATCH = {"cpu": 4, "cuda": 128}
"""Patches a forward pass, by device. Fixed, and the last batch padded, so that a vector never depends on its company.
Four fit a CPU's cache: 1.5 times as fast as 32 (benchmarks/encoding.py)."""

Weights = Path | Literal["pretrained", "random"]


class ImageEncoder(nn.Module):
    """A backbone with its normalisation and pooling.

    Parameters
    ----------
    spec
        Which backbone, and how it is pooled.
    backbone
        The timm model without its classifier.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EncoderSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self._block_sizes: tuple[int, ...] = ()
        config: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def create(cls, spec: EncoderSpec, weights: Weights = "pretrained", *, seed: int = 0) -> ImageEncoder:
        """Build the encoder from a weights file, from timm's hub, or with seeded random weights.

        Raises
        ------
        InputError
            When the model is unknown or its weights do not fit.
        WeightsError
            When its pretrained weights cannot be had.
        """
        torch.manual_seed(seed)
        keywords: dict[str, Any] = {"num_classes": 0, "pretrained": weights == "pretrained"}
        try:
            with _hub():
                backbone = timm.create_model(spec.name, **keywords)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise WeightsError(
                f"The weights of encoder {spec.name!r} could not be downloaded ({type(error).__name__}); "
                "on a machine without internet give them with --encoder-weights FILE."
            ) from error
        except RuntimeError as error:
            raise InputError(
                f"Encoder {spec.name!r} could not be made ({error}); any timm or hf-hub: name will do."
            ) from error
        if isinstance(weights, Path):
            _load_weights(backbone, weights, spec.name)
        return cls(spec, backbone.eval())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pooled features ``(b, F)`` of uint8 patches ``(b, size, size, 3)``."""
        x = pixels.permute(0, 3, 1, 2).float() / 255.0  # (b, 3, size, size)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if self.spec.pooling == "last":
            backbone: Any = self.backbone
            return backbone.forward_head(backbone.forward_features(x), pre_logits=True)  # type: ignore[no-any-return]
        return torch.cat(self._stages(x), dim=1)

    def _stages(self, x: Tensor) -> list[Tensor]:
        """Pool every stage: the stem, each group of blocks, and the last features."""
        pool = covariance if self.spec.pooling == "covariance" else _mean_std
        backbone: Any = self.backbone
        groups = _block_groups(self.backbone)
        if groups:
            with _recorded(groups) as maps:
                last = backbone.forward_features(x)
        else:
            last, maps = backbone.forward_intermediates(x)
        pooled = [pool(stage) for stage in _evenly(maps)]
        pooled.append(pool(last) if last.ndim == 4 else backbone.forward_head(last, pre_logits=True))
        self._block_sizes = tuple(part.shape[1] for part in pooled)
        return pooled

    def features(self, patches: NDArray[np.uint8]) -> FloatArray:
        """Return features ``(b, F)`` float32 of uint8 patches ``(b, size, size, 3)``, averaged over the views."""
        device = next(self.parameters()).device
        out = np.empty((len(patches), self.n_features_per_scale(patches.shape[1])), dtype=np.float32)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            size = BATCH.get(device.type, BATCH["cuda"])
            for start in range(0, len(patches), size):
                batch = _padded(patches[start : start + size], size)
                pixels = torch.from_numpy(batch).to(device)
                total = torch.stack([self(view).float() for view in _views(pixels, self.spec.views)]).mean(dim=0)
                kept = min(size, len(patches) - start)
                out[start : start + kept] = total[:kept].cpu().numpy()
        return out

    def block_sizes(self, size_px: int) -> tuple[int, ...]:
        """Lengths of the parts, a stage each, of one scale's feature vector."""
        if not self._block_sizes:
            device = next(self.parameters()).device
            with torch.inference_mode():
                probe = torch.zeros((1, size_px, size_px, 3), dtype=torch.uint8, device=device)
                n_features = int(self(probe).shape[1])
            self._block_sizes = self._block_sizes or (n_features,)
        return self._block_sizes

    def n_features_per_scale(self, size_px: int) -> int:
        """Length of one scale's feature vector."""
        return sum(self.block_sizes(size_px))

    def seconds_per_spot(self, size_px: int) -> float:
        """Measure how long one spot takes at all scales and views, on two batches of blank patches."""
        size = BATCH.get(next(self.parameters()).device.type, BATCH["cuda"])
        blank = np.full((size, size_px, size_px, 3), 255, dtype=np.uint8)
        self.features(blank)
        started = time.perf_counter()
        self.features(blank)
        return (time.perf_counter() - started) / size * len(self.spec.scales)

    def digest(self) -> str:
        """SHA-256 over the backbone's weights and buffers, by name."""
        return state_digest({name: tensor.cpu().numpy() for name, tensor in self.backbone.state_dict().items()})


def state_digest(state: dict[str, NDArray[Any]]) -> str:
    """SHA-256 over named arrays: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def _hub() -> Iterator[None]:
    """Take from the hub's local cache alone where its name cannot be resolved: its client would try for a minute."""
    before = hub.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(urlparse(hub.ENDPOINT).hostname, None)
    except OSError:
        hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _load_weights(backbone: nn.Module, path: Path, name: str) -> None:
    if not path.is_file():
        raise InputError(f"Encoder weights {path} do not exist.")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a readable .safetensors file ({error}); pickled weights are refused."
        ) from error
    wanted = backbone.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    wrong = [key for key in state if key in wanted and state[key].shape != wanted[key].shape]
    if missing or wrong:
        raise InputError(
            f"{path} does not fit encoder {name!r}: {len(missing)} of {len(wanted)} tensors missing, {len(wrong)} of "
            f"another shape (for example {(missing + wrong)[0]!r}); check --encoder."
        )
    backbone.load_state_dict(state, strict=False)


def _block_groups(backbone: nn.Module) -> list[nn.Module]:
    """Stem and groups of blocks of an EfficientNet-like backbone; empty for the others.

    timm lists five of EfficientNet's stages only, and the early ones it leaves out carry texture.
    """
    blocks = getattr(backbone, "blocks", None)
    stem = getattr(backbone, "bn1", None)
    if stem is None or not isinstance(blocks, nn.Sequential):
        return []
    return [stem, *blocks] if all(isinstance(block, nn.Sequential) for block in blocks) else []


@contextmanager
def _recorded(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of modules, in the order in which they run."""
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


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
