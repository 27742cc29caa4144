"""Training: slides in, a model out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mclstexp.choose.run import choose
from mclstexp.config import ModelConfig, Settings, configure
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.genes.panel import panel_from_names, select_panel
from mclstexp.device import resolve_device
from mclstexp.errors import InputError
from mclstexp.model.calibration import Calibration
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.features import Cache, FeatureCache, feature_cache, missing, slide_features
from mclstexp.model.model import Model, identity
from mclstexp.model.network.fit import NetworkRun, finetune, fit_heads
from mclstexp.model.network.space import NetworkSpace
from mclstexp.model.space.base import Space
from mclstexp.model.space.neighbourhood import positions_um
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.notes import inform, warn
from mclstexp.panel import GenePanel
from mclstexp.predict.calibrate import calibrate, reason_not_to_calibrate
from mclstexp.progress import Whole
from mclstexp.slide import Slide
from mclstexp.text import counted, some
from mclstexp.types import Device, EncoderWeights, FloatArray, Progress, StrPath


def train(
    slides: Sequence[Slide],
    *,
    recipe: str | ModelConfig = "default",
    genes: Sequence[str] | GenePanel | None = None,
    n_genes: int | None = None,
    encoder: str | Sequence[str] | None = None,
    encoder_weights: EncoderWeights = "pretrained",
    seed: int | None = None,
    settings: Settings = (),
    device: Device = "auto",
    cache: Cache = True,
    state: StrPath | None = None,
    on_progress: Progress | None = None,
) -> Model:
    """Train a model on slides that have an image and counts.

    Parameters
    ----------
    slides
        Training slides, as `read_slides` returns them. Those without an image are left out, with a warning.
    recipe
        ``default``, ``paper`` or ``paper-code``, or settings of your own.
    genes
        The gene panel or the names of its genes; None chooses highly variable genes of the training slides.
    n_genes
        How many of them to choose; None takes the recipe's number.
    encoder, encoder_weights
        Any timm model or ``hf-hub:...`` (None: the recipe's), and its weights: ``"pretrained"`` from the hub,
        ``"random"``, or a ``.safetensors`` file, which may hold the first stages alone. Several encoders, as a list
        or with commas between, give their features side by side; each has weights of its own, in the same order.
    seed
        Decides everything random; None takes the recipe's, 0.
    settings
        Any other setting: ``{"retrieval.k": 100}``, or ``["retrieval.k=100"]``.
    device
        ``auto`` takes a GPU when there is one.
    cache
        Folder that keeps image features between runs; True takes the user's, False keeps none.
    state
        Folder where a network's training leaves its state, and looks for one of an interrupted run.
    on_progress
        Called with (step, done, total); `mclstexp.ProgressBar` draws it.

    Raises
    ------
    InputError
        No slide has an image, counts are missing, no gene is shared, a setting is unknown or out of range, or the
        encoder's weights cannot be had (`WeightsError`).

    Examples
    --------
    >>> import mclstexp as mst
    >>> model = mst.train(mst.read_slides("refs/"), settings={"retrieval.k": 100})
    >>> model.config.retrieval.k
    100
    >>> model.save("model/")
    """
    config = configure(recipe, encoder=encoder, n_genes=n_genes, seed=seed, settings=settings)
    usable = _usable(slides)
    panel = training_panel(usable, config, genes)
    image_encoder = ImageEncoder.create(config.encoder, encoder_weights, seed=config.seed)
    target = resolve_device(device)
    run = _Training(config, panel, image_encoder.to(target), target, cache, on_progress)
    return run.network(usable, state) if config.space == "network" else run.shared(usable, state)


def training_panel(
    slides: Sequence[Slide], config: ModelConfig, genes: Sequence[str] | GenePanel | None = None
) -> GenePanel:
    """Return the gene panel: the given one, the named genes, or the highly variable ones of these slides."""
    if isinstance(genes, GenePanel):
        return genes
    if genes is None:
        return select_panel(slides, n_top=config.n_genes)
    panel, notes = panel_from_names(genes, slides)
    for text in notes:
        warn(text)
    return panel


def _usable(slides: Sequence[Slide]) -> list[Slide]:
    usable = [slide for slide in slides if slide.image is not None]
    if len(usable) < len(slides):
        left_out = [slide.slide_id for slide in slides if slide.image is None]
        warn(f"{len(left_out)} of {len(slides)} slides have no image and are left out of training: {some(left_out)}.")
    if not usable:
        raise InputError("No slide has both an image and counts: there is nothing to train on (mst check lists them).")
    for slide in usable:
        if slide.spots.counts is None:
            raise InputError(f"Slide {slide.slide_id} has no counts: it cannot be trained on.")
    return usable


@dataclass
class _Training:
    """One training: what is trained, on what, and where features are kept."""

    config: ModelConfig
    panel: GenePanel
    encoder: ImageEncoder
    device: torch.device
    cache: Cache
    on_progress: Progress | None

    def network(self, slides: list[Slide], state: StrPath | None) -> Model:
        """Train the paper's network."""
        run = self._network_run(state)
        if self.config.optim.finetune:
            history, network = finetune(slides, self.encoder, run)
        else:
            history, network = fit_heads(slides, self._features(slides), run)
        return self._model(slides, NetworkSpace(network), history)

    def shared(self, slides: list[Slide], state: StrPath | None) -> Model:
        """Fit the shared space, after the network has tuned the encoder where that is asked for."""
        history: list[dict[str, Any]] = []
        if self.config.optim.finetune:
            history, _ = finetune(slides, self.encoder, self._network_run(state))
        size_px, scales = self.config.patch.size_px, len(self.config.encoder.scales)
        layout = FeatureLayout(self.encoder.block_sizes(size_px), scales, self.encoder.block_names(size_px))
        pairs = zip(slides, self._features(slides), strict=True)
        arrays = [self._arrays(slide, features) for slide, features in pairs]
        inform(f"fitting the shared space of {len(self.panel)} genes")
        chosen = choose(arrays, layout, self.config, self.panel, on_progress=self.on_progress)
        self.config = chosen.config
        history += [{"shared_space": chosen.space.report}, *([{"choice": chosen.record}] if chosen.record else [])]
        return self._model(slides, chosen.space, history, self._calibration(arrays, layout, chosen.reduction))

    def _network_run(self, state: StrPath | None) -> NetworkRun:
        folder = None if state is None else Path(state)
        return NetworkRun(self.config, self.panel, self.device, folder, self.on_progress)

    def _features(self, slides: Sequence[Slide]) -> list[FloatArray]:
        """Return the slides' image features, after saying what encoding them costs."""
        cache = feature_cache(self.cache)
        self._say_cost(slides, cache)
        started, features = time.monotonic(), []
        whole = Whole(f"encoding {counted(len(slides), 'slide')}", sum(map(len, slides)), self.on_progress)
        for slide in slides:
            told = whole.part(len(slide))
            features.append(slide_features(slide, self.encoder, self.config.patch, cache=cache, on_progress=told))
        whole.finish()
        inform(f"encoded in {(time.monotonic() - started) / 60:.1f} minutes")
        return features

    def _say_cost(self, slides: Sequence[Slide], cache: FeatureCache) -> None:
        """Say how long the patches will take that are not cached yet, each backbone's pace measured where it runs."""
        spec, size_px = self.config.encoder, self.config.patch.size_px
        passes = len(spec.scales) * spec.views
        said = (
            f"encoding {counted(sum(map(len, slides)), 'spot')} of {counted(len(slides), 'slide')}, "
            f"{passes} passes of {spec.name} a spot"
        )
        lacking = [part for slide in slides for part in missing(slide, self.encoder, self.config.patch, cache)]
        if not any(n_patches for _, n_patches in lacking):
            inform(f"{said}: all are cached")
            return
        seconds = 0.0
        for member in self.encoder.members:
            n_patches = sum(n for other, n in lacking if other is member)
            seconds += n_patches and n_patches * member.seconds_per_patch(size_px)
        inform(f"{said}: about {seconds / 60:.1f} minutes here")

    def _arrays(self, slide: Slide, features: FloatArray) -> SlideArrays:
        expression, measured = expression_for(slide.spots, self.panel, self.config.normalisation)
        counts = slide.spots.counts
        depth = None if counts is None else np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        return SlideArrays(slide.slide_id, slide.patient, features, expression, measured, positions_um(slide), depth)

    def _calibration(
        self, arrays: Sequence[SlideArrays], layout: FeatureLayout, reduction: Reduction
    ) -> Calibration | None:
        """Learn how sure predictions are, or say why that is not known."""
        if not self.config.calibrate:
            return None
        reason = reason_not_to_calibrate(arrays)
        if reason:
            warn(f"Predictions will have no intervals and no expected reliability: {reason}.")
            return None
        inform("cross-validating for intervals and each gene's expected reliability")
        return calibrate(arrays, layout, self.config, self.panel, reduction)

    def _model(
        self,
        slides: Sequence[Slide],
        space: Space,
        history: list[dict[str, Any]],
        calibration: Calibration | None = None,
    ) -> Model:
        model = Model(
            self.config,
            self.panel,
            self.encoder,
            space,
            calibration=calibration,
            slides=[identity(slide) for slide in slides],
            history=history,
            cache=self.cache,
        )
        for line in model.summary():
            inform(line)
        return model
