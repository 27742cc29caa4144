"""The training loop of the paper's network: contrast, validation retrieval, resume."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mclstexp.config import OptimConfig
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.network.layers import ContrastiveNetwork, contexts
from mclstexp.settings import to_dict
from mclstexp.storage import storage_errors
from mclstexp.types import FloatArray

GROUP_SPOTS = 512
"""Spots whose slides are encoded together in a step; batches are drawn from within such a group."""

SAVE_SECONDS = 20.0

VALIDATE_EVERY = 10

GUESSING_MARGIN = 0.02


@dataclass(frozen=True, eq=False)
class TrainingSlide:
    """One slide's tensors.

    Attributes
    ----------
    features
        ``(n, F)`` float32 image features; empty ``(n, 0)`` when the backbone is fine-tuned.
    expression
        ``(n, G)`` float32.
    array_row, array_col
        ``(n,)`` int64.
    patches
        ``(n, size, size, 3)`` uint8, memory-mapped, when the backbone is fine-tuned.
    """

    features: FloatArray
    expression: FloatArray
    array_row: NDArray[np.int64]
    array_col: NDArray[np.int64]
    patches: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class EpochReport:
    """What an epoch showed: mean loss, the loss of guessing, held-out patches that find their spot, seconds."""

    epoch: int
    loss: float
    guessing: float
    retrieval: float | None
    seconds: float

    def text(self) -> str:
        """Say it in a line."""
        retrieval = (
            "" if self.retrieval is None else f"; held-out patches that find their spot {self.retrieval:.2f} (0.10)"
        )
        loss = f"loss {self.loss:.3f} (guessing {self.guessing:.3f})"
        return f"epoch {self.epoch}: {loss}{retrieval}; {self.seconds:.1f} s"


class NetworkTrainer:
    """Trains a network (and, when fine-tuning, the backbone) on slides.

    Parameters
    ----------
    network, backbone
        What is trained; ``backbone`` is None when the features are frozen.
    slides
        Training slides.
    config
        Optimiser, epochs, batch, temperature.
    seed
        Decides batches, dropout and the spots held out.
    """

    def __init__(
        self,
        network: ContrastiveNetwork,
        backbone: ImageEncoder | None,
        slides: list[TrainingSlide],
        config: OptimConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network, self.backbone, self.config, self.seed, self.device = network, backbone, config, seed, device
        self.modules = nn.ModuleList([network] if backbone is None else [network, backbone]).to(device)
        self.slides = slides
        self.tensors = [
            tuple(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (s.features, s.expression))
            + tuple(torch.from_numpy(a).to(device) for a in (s.array_row, s.array_col))
            for s in slides
        ]
        self.held_out = [self._hold_out(len(s.expression), i) for i, s in enumerate(slides)]
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(self.modules.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    def run(self, state_folder: Path | None, on_epoch: Callable[[EpochReport], None]) -> list[EpochReport]:
        """Train, resuming from ``state_folder`` when it holds a state of this very run."""
        reports = self._resume(state_folder) if state_folder else []
        saved_at = time.monotonic()
        for epoch in range(len(reports), self.config.epochs):
            report = self._epoch(epoch)
            reports.append(report)
            on_epoch(report)
            if state_folder and time.monotonic() - saved_at > SAVE_SECONDS:
                self._save(state_folder, reports)
                saved_at = time.monotonic()
        self.modules.eval()
        return reports

    def _hold_out(self, n: int, slide: int) -> NDArray[np.bool_]:
        rng = np.random.default_rng([self.seed, 7, slide])
        mask = np.zeros(n, dtype=bool)
        mask[rng.permutation(n)[: int(n * self.config.validation_share)]] = True
        return mask

    def _epoch(self, epoch: int) -> EpochReport:
        started = time.monotonic()
        torch.manual_seed(self.seed * 1_000_003 + epoch)
        rng = np.random.default_rng([self.seed, epoch])
        self.modules.train()
        if self.backbone is not None:
            _freeze_batch_norm(self.backbone)
        losses, guesses = [], []
        for group in self._groups(rng):
            for batch in _batches(group, self.config.batch_size, rng):
                loss = self._loss(batch, rng)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                losses.append(loss.item())
                guesses.append(guessing_loss(len(batch)))
        report = (float(np.mean(losses)), float(np.mean(guesses)))
        due = (epoch + 1) % VALIDATE_EVERY == 0 or epoch + 1 == self.config.epochs
        return EpochReport(epoch + 1, *report, self._validate() if due else None, time.monotonic() - started)

    def _groups(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield ``(m, 2)`` arrays of (slide, spot), whole attention contexts up to about `GROUP_SPOTS`."""
        parts = []
        for i, (_, _, row, col) in enumerate(self.tensors):
            for context in contexts(row, col, self.network.config.context_spots):
                spots = context.cpu().numpy()
                parts.append(np.stack([np.full(len(spots), i), spots], axis=1))
        group: list[NDArray[np.int64]] = []
        for j in rng.permutation(len(parts)):
            if group and sum(map(len, group)) + len(parts[j]) > GROUP_SPOTS:
                yield self._training_only(np.concatenate(group))
                group = []
            group.append(parts[j])
        if group:
            yield self._training_only(np.concatenate(group))

    def _training_only(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        return pairs[[not self.held_out[slide][spot] for slide, spot in pairs]]

    def _loss(self, batch: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            image, spot = [], []
            for i in np.unique(batch[:, 0]):
                rows = torch.from_numpy(batch[batch[:, 0] == i, 1]).to(self.device)
                features, expression, row, col = self.tensors[i]
                image.append(self._image_features(i, rows, features, rng))
                spot.append(self.network.project_spots(expression, row, col, rows))
            projected = self.network.project_images(torch.cat(image))
            return contrastive_loss(projected, torch.cat(spot), temperature=self.config.temperature)

    def _image_features(self, slide: int, rows: Tensor, features: Tensor, rng: np.random.Generator) -> Tensor:
        if self.backbone is None:
            return features[rows]
        patches = self.slides[slide].patches
        if patches is None:
            raise RuntimeError("fine-tuning needs the patches of every slide")
        pixels = torch.from_numpy(np.asarray(patches[rows.cpu().numpy()])).to(self.device)
        turned = torch.rot90(pixels, int(rng.integers(4)), (1, 2))
        return self.backbone(turned.flip(1) if rng.integers(2) else turned)  # type: ignore[no-any-return]

    def _validate(self) -> float | None:
        """Share of held-out patches whose own spot is among the nearest tenth of its slide's spots (chance: 0.1)."""
        self.modules.eval()
        hits = []
        for i, held in enumerate(self.held_out):
            if not held.any():
                continue
            features, expression, row, col = self.tensors[i]
            rows = torch.from_numpy(np.flatnonzero(held)).to(self.device)
            with torch.inference_mode():
                image = self._image_features(i, rows, features, np.random.default_rng(0))
                query = nn.functional.normalize(self.network.project_images(image), dim=1)
                keys = nn.functional.normalize(self.network.project_spots(expression, row, col), dim=1)
            similarity = (query @ keys.T).cpu().numpy()
            own = similarity[np.arange(len(rows)), rows.cpu().numpy()]
            better = (similarity > own[:, None]).sum(axis=1)
            hits.append(better < max(1, round(0.1 * len(held))))
        return float(np.concatenate(hits).mean()) if hits else None

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the run: settings, seed, data."""
        digest = hashlib.sha256(json.dumps([to_dict(self.config), self.seed]).encode())
        for slide in self.slides:
            for array in (slide.features, slide.expression, slide.array_row, slide.array_col):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _save(self, folder: Path, reports: list[EpochReport]) -> None:
        tensors = {f"module.{name}": t.contiguous() for name, t in self.modules.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value).contiguous() for name, value in state.items()}
        head = {"fingerprint": self.fingerprint(), "reports": json.dumps([vars(r) for r in reports])}
        folder.mkdir(parents=True, exist_ok=True)
        with storage_errors(folder):
            save_file(tensors, folder / "state.tmp", metadata=head)
            (folder / "state.tmp").replace(folder / "state.safetensors")

    def _resume(self, folder: Path) -> list[EpochReport]:
        path = folder / "state.safetensors"
        if not path.is_file():
            return []
        try:
            head = _metadata(path)
            if head.get("fingerprint") != self.fingerprint():
                return []
            tensors = load_file(path, device=str(self.device))
        except (SafetensorError, OSError, ValueError):
            return []  # a state that was cut short: training starts anew and says from which epoch
        modules = {name.removeprefix("module."): t for name, t in tensors.items() if name.startswith("module.")}
        self.modules.load_state_dict(modules)
        full = self.optimizer.state_dict()
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".", 2)
                states.setdefault(int(i), {})[key] = tensor
        full["state"] = states
        self.optimizer.load_state_dict(full)
        return [EpochReport(**entry) for entry in json.loads(head["reports"])]


def stuck_at_guessing(reports: list[EpochReport]) -> bool:
    """Return whether the last loss is no better than guessing (mclSTExp issue 5: 4.85 = ln 128 for ever)."""
    return bool(reports) and reports[-1].loss > (1 - GUESSING_MARGIN) * reports[-1].guessing


def _batches(pairs: NDArray[np.int64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Shuffle and split into parts of nearly equal length, at most ``size`` each, at least two spots."""
    if len(pairs) < 2:
        return []
    return np.array_split(rng.permutation(pairs), max(1, -(-len(pairs) // size)))


def _freeze_batch_norm(module: nn.Module) -> None:
    """Keep running statistics: a batch is a few slides, not the population."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def contrastive_loss(image: Tensor, spot: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the symmetric cross-entropy of matching each patch with its own spot.

    Equation 6 of the paper (arXiv 2407.08216), CLIP's loss: rows and columns of the logits are classified, the
    diagonal is right. Embeddings are taken as they are (the paper's are layer-normalised, not unit).

    Parameters
    ----------
    image, spot
        ``(b, d)`` embeddings, row i of one belonging to row i of the other.
    temperature
        Divides the logits.
    """
    logits = image @ spot.T / temperature  # (b, b)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def guessing_loss(batch_size: int) -> float:
    """Return the loss of a model that has learnt nothing: ln(batch size)."""
    return math.log(batch_size)
