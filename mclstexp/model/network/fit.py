"""Training the paper's network on slides: its heads on frozen features, or the backbone with them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mclstexp.config import ModelConfig
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.patches import iter_patches
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.features import READ
from mclstexp.model.network.layers import ContrastiveNetwork
from mclstexp.model.network.trainer import EpochReport, NetworkTrainer, TrainingSlide, stuck_at_guessing
from mclstexp.notes import inform, warn
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.types import FloatArray, Progress

REPORTED = 10
"""Every tenth epoch is told, and the first three."""


@dataclass(frozen=True)
class NetworkRun:
    """What a training of the network needs beside its slides; ``state`` is where an interrupted one is kept."""

    config: ModelConfig
    panel: GenePanel
    device: torch.device
    state: Path | None = None
    on_progress: Progress | None = None

    def network(self, n_features: int, slides: Sequence[Slide]) -> ContrastiveNetwork:
        """Return a network with seeded weights, its position tables as long as the slides' arrays."""
        shape = [max(int(getattr(s.spots, axis).max()) for s in slides) + 1 for axis in ("array_row", "array_col")]
        torch.manual_seed(self.config.seed)
        return ContrastiveNetwork(n_features, len(self.panel), (shape[0], shape[1]), self.config.network)

    def expression(self, slide: Slide) -> FloatArray:
        """Return the slide's expression of the panel ``(n, G)``."""
        return expression_for(slide.spots, self.panel, self.config.normalisation)[0]

    def train(
        self, network: ContrastiveNetwork, backbone: ImageEncoder | None, slides: list[TrainingSlide]
    ) -> tuple[list[dict[str, Any]], ContrastiveNetwork]:
        """Train, and return the epochs' reports and the network."""
        config = self.config
        trainer = NetworkTrainer(network, backbone, slides, config.optim, seed=config.seed, device=self.device)
        reports = trainer.run(self.state, self._reporter())
        if stuck_at_guessing(reports):
            last = reports[-1]
            warn(
                f"the loss stayed at guessing ({last.loss:.3f}, ln of the batch is {last.guessing:.3f}): the model has "
                "not learnt to match patches with spots. More epochs, a higher --lr or --recipe default may help."
            )
        return [dataclasses.asdict(report) for report in reports], trainer.network

    def _reporter(self) -> Callable[[EpochReport], None]:
        def report(epoch: EpochReport) -> None:
            if self.on_progress:
                self.on_progress("training the network", epoch.epoch, self.config.optim.epochs)
            if epoch.epoch <= 3 or epoch.epoch % REPORTED == 0:
                inform(epoch.text())

        return report


def fit_heads(
    slides: Sequence[Slide], features: Sequence[FloatArray], run: NetworkRun
) -> tuple[list[dict[str, Any]], ContrastiveNetwork]:
    """Train the network's heads on the slides' frozen image features ``(n, F)``."""
    items = [
        TrainingSlide(values, run.expression(slide), slide.spots.array_row, slide.spots.array_col)
        for values, slide in zip(features, slides, strict=True)
    ]
    return run.train(run.network(features[0].shape[1], slides), None, items)


def finetune(
    slides: Sequence[Slide], backbone: ImageEncoder, run: NetworkRun
) -> tuple[list[dict[str, Any]], ContrastiveNetwork]:
    """Train backbone and heads together on patches kept in a temporary memory map."""
    patch = run.config.patch
    network = run.network(backbone.n_features_per_scale(patch.size_px), slides)
    with tempfile.TemporaryDirectory(prefix="mst-patches-") as folder:
        items: list[TrainingSlide] = []
        for slide in slides:
            shape = (len(slide), patch.size_px, patch.size_px, 3)
            patches = np.lib.format.open_memmap(Path(folder) / f"{len(items)}.npy", "w+", np.uint8, shape)
            start = 0
            for batch in iter_patches(slide, patch, batch_size=READ):
                patches[start : start + len(batch)] = batch
                start += len(batch)
            empty = np.zeros((len(slide), 0), dtype=np.float32)
            spots = slide.spots
            items.append(TrainingSlide(empty, run.expression(slide), spots.array_row, spots.array_col, patches))
        return run.train(network, backbone, items)
