"""Training: slides in, a model out."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mclstexp import __version__
from mclstexp.config import ModelConfig
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.genes.panel import panel_from_names, select_panel
from mclstexp.data.patches import iter_patches
from mclstexp.errors import InputError
from mclstexp.files import sha256_file
from mclstexp.model.calibration import Calibration
from mclstexp.model.folder import ModelFiles
from mclstexp.model.image.encoder import ImageEncoder, Weights, resolve_device
from mclstexp.model.image.features import READ, FeatureCache
from mclstexp.model.model import Device, EncoderPair
from mclstexp.model.network.layers import ContrastiveNetwork
from mclstexp.model.network.space import NetworkSpace
from mclstexp.model.network.trainer import EpochReport, NetworkTrainer, TrainingSlide, stuck_at_guessing
from mclstexp.model.space.base import Space
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.neighbourhood import positions_um
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.panel import GenePanel
from mclstexp.predict.calibrate import calibrate, reason_not_to_calibrate
from mclstexp.slide import Slide
from mclstexp.types import FloatArray

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainOptions:
    """How to run a training, as opposed to what to train (`ModelConfig`).

    Attributes
    ----------
    weights
        A safetensors file, ``"pretrained"`` from the hub, or ``"random"``.
    genes
        The gene panel or the names of its genes; None chooses highly variable genes of the training slides.
    cache
        Where image features are kept.
    state_folder
        Where an interrupted training leaves its state, and looks for one.
    on_note, on_epoch, on_features
        Called with each thing worth saying, each epoch's report, and (done, total) of encoding.
    """

    weights: Weights = "pretrained"
    genes: Sequence[str] | GenePanel | None = None
    device: Device = "auto"
    cache: FeatureCache = field(default_factory=FeatureCache)
    state_folder: Path | None = None
    on_note: Callable[[str], None] = lambda text: None
    on_epoch: Callable[[EpochReport], None] = lambda report: None
    on_features: Callable[[str], Progress | None] = lambda slide_id: None


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model in memory, with its encoders ready to use."""

    files: ModelFiles
    encoders: EncoderPair


def train(slides: Sequence[Slide], config: ModelConfig, options: TrainOptions | None = None) -> TrainedModel:
    """Train a model on slides that have an image and counts.

    Parameters
    ----------
    slides
        Training slides. Those without an image are left out, which is said.
    config
        What to train.
    options
        How to run it.

    Raises
    ------
    InputError
        No slide has an image, counts are missing, or no gene is shared.
    """
    options = options or TrainOptions()
    usable = _usable(slides, options)
    panel = training_panel(usable, config, options)
    backbone = ImageEncoder.create(config.encoder, options.weights, seed=config.seed)
    backbone.to(resolve_device(options.device))
    history: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    network = None
    if config.optim.finetune:
        history, network = _finetune(usable, panel, backbone, config, options)
    space: Space
    calibration = None
    if config.space == "network":
        if network is None:
            features = [_features(slide, backbone, config, options) for slide in usable]
            history, network = _train_heads(usable, features, panel, config, options)
        space = NetworkSpace(network)
    else:
        layout = FeatureLayout(backbone.block_sizes(config.patch.size_px), len(config.encoder.scales))
        arrays = [_arrays(slide, panel, backbone, config, options) for slide in usable]
        space = _fit_shared(arrays, layout, config, options)
        calibration = _calibrate(arrays, layout, config, options)
        history.append({"shared_space": space.report})
    seen = [_identity(slide) for slide in usable]
    encoders = EncoderPair(
        config, panel, backbone, space, calibration=calibration, cache=options.cache, trained_on=seen
    )
    return _finish(usable, encoders, history=history, facts=facts)


def training_panel(slides: Sequence[Slide], config: ModelConfig, options: TrainOptions) -> GenePanel:
    """Return the gene panel: the named genes, or the highly variable ones of these slides."""
    if isinstance(options.genes, GenePanel):
        return options.genes
    if options.genes is None:
        return select_panel(slides, n_top=config.n_genes)
    panel, notes = panel_from_names(options.genes, slides)
    for text in notes:
        options.on_note(text)
    return panel


def _usable(slides: Sequence[Slide], options: TrainOptions) -> list[Slide]:
    usable = [slide for slide in slides if slide.image is not None]
    if len(usable) < len(slides):
        left_out = [slide.slide_id for slide in slides if slide.image is None]
        options.on_note(
            f"{len(left_out)} of {len(slides)} slides have no image and are left out of training: {_few(left_out)}."
        )
    if not usable:
        raise InputError("No slide has both an image and counts: there is nothing to train on (mst check lists them).")
    for slide in usable:
        if slide.spots.counts is None:
            raise InputError(f"Slide {slide.slide_id} has no counts: it cannot be trained on.")
    return usable


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _features(slide: Slide, backbone: ImageEncoder, config: ModelConfig, options: TrainOptions) -> FloatArray:
    from mclstexp.model.image.features import slide_features

    callback = options.on_features(slide.slide_id)
    return slide_features(slide, backbone, config.patch, cache=options.cache, on_progress=callback)


def _expression(slides: Sequence[Slide], panel: GenePanel, config: ModelConfig) -> list[FloatArray]:
    return [expression_for(slide.spots, panel, config.normalisation)[0] for slide in slides]


def _array_shape(slides: Sequence[Slide]) -> tuple[int, int]:
    rows = max(int(slide.spots.array_row.max()) for slide in slides) + 1
    cols = max(int(slide.spots.array_col.max()) for slide in slides) + 1
    return rows, cols


def _network(n_features: int, slides: Sequence[Slide], panel: GenePanel, config: ModelConfig) -> ContrastiveNetwork:
    torch.manual_seed(config.seed)
    return ContrastiveNetwork(n_features, len(panel), _array_shape(slides), config.network)


def _train_heads(
    slides: Sequence[Slide],
    features: Sequence[FloatArray],
    panel: GenePanel,
    config: ModelConfig,
    options: TrainOptions,
) -> tuple[list[dict[str, Any]], ContrastiveNetwork]:
    expression = _expression(slides, panel, config)
    items = [
        TrainingSlide(f, e, s.spots.array_row, s.spots.array_col)
        for f, e, s in zip(features, expression, slides, strict=True)
    ]
    network = _network(features[0].shape[1], slides, panel, config)
    return _run(NetworkTrainer(network, None, items, config.optim, seed=config.seed, **_device(options)), options)


def _arrays(
    slide: Slide, panel: GenePanel, backbone: ImageEncoder, config: ModelConfig, options: TrainOptions
) -> SlideArrays:
    expression, measured = expression_for(slide.spots, panel, config.normalisation)
    features = _features(slide, backbone, config, options)
    counts = slide.spots.counts
    depth = None if counts is None else np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return SlideArrays(slide.slide_id, slide.patient, features, expression, measured, positions_um(slide), depth)


def _fit_shared(
    arrays: Sequence[SlideArrays], layout: FeatureLayout, config: ModelConfig, options: TrainOptions
) -> SharedSpace:
    """Fit the shared space, and say what the image can tell of expression."""
    space = fit_shared_space(arrays, layout, config.shared, seed=config.seed)
    found = ", ".join(f"{r:.2f}" for r in space.report["correlation"])
    held_out = {"patient": "patients", "slide": "slides", "block": "quarters of the slide"}[space.report["folds"]]
    options.on_note(f"correlation of each expression component with its image on held-out {held_out}: {found}")
    return space


def _calibrate(
    arrays: Sequence[SlideArrays], layout: FeatureLayout, config: ModelConfig, options: TrainOptions
) -> Calibration | None:
    """Learn how sure predictions are, or say why that is not known."""
    if not config.calibrate:
        return None
    reason = reason_not_to_calibrate(arrays, config)
    if reason:
        options.on_note(f"Predictions will have no intervals and no expected reliability: {reason}.")
        return None
    calibration = calibrate(arrays, layout, config)
    options.on_note(calibration.summary())
    return calibration


def _finetune(
    slides: Sequence[Slide], panel: GenePanel, backbone: ImageEncoder, config: ModelConfig, options: TrainOptions
) -> tuple[list[dict[str, Any]], ContrastiveNetwork]:
    """Train backbone and heads together on patches kept in a temporary memory map."""
    expression = _expression(slides, panel, config)
    n_features = backbone.n_features_per_scale(config.patch.size_px)
    network = _network(n_features, slides, panel, config)
    with tempfile.TemporaryDirectory(prefix="mst-patches-") as folder:
        items: list[TrainingSlide] = []
        for slide, values in zip(slides, expression, strict=True):
            shape = (len(slide), config.patch.size_px, config.patch.size_px, 3)
            path = Path(folder) / f"{len(items)}.npy"
            patches = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
            start = 0
            for batch in iter_patches(slide, config.patch, batch_size=READ):
                patches[start : start + len(batch)] = batch
                start += len(batch)
            empty = np.zeros((len(slide), 0), dtype=np.float32)
            items.append(TrainingSlide(empty, values, slide.spots.array_row, slide.spots.array_col, patches))
        trainer = NetworkTrainer(network, backbone, items, config.optim, seed=config.seed, **_device(options))
        return _run(trainer, options)


def _device(options: TrainOptions) -> dict[str, torch.device]:
    return {"device": resolve_device(options.device)}


def _run(trainer: NetworkTrainer, options: TrainOptions) -> tuple[list[dict[str, Any]], ContrastiveNetwork]:
    reports = trainer.run(options.state_folder, options.on_epoch)
    if stuck_at_guessing(reports):
        last = reports[-1]
        options.on_note(
            f"Warning: the loss stayed at guessing ({last.loss:.3f}, ln of the batch is {last.guessing:.3f}): the "
            "model has not learnt to match patches with spots. More epochs, a higher --lr or --recipe default may help."
        )
    return [dataclasses.asdict(report) for report in reports], trainer.network


def _finish(
    slides: Sequence[Slide], encoders: EncoderPair, *, history: list[dict[str, Any]], facts: dict[str, Any]
) -> TrainedModel:
    config, panel = encoders.config, encoders.panel
    arrays, space_facts = encoders.space.state()
    facts = facts | space_facts | {"slides": [dict(seen) for seen in encoders.trained_on]}
    if encoders.calibration is not None:
        more, calibration_facts = encoders.calibration.state()
        arrays, facts = arrays | more, facts | calibration_facts
    arrays |= {f"backbone.{name}": t.cpu().numpy() for name, t in encoders.backbone.backbone.state_dict().items()}
    return TrainedModel(ModelFiles(config, panel, arrays, facts, history, model_card(slides, panel, config)), encoders)


def _identity(slide: Slide) -> dict[str, Any]:
    return {
        "slide": slide.slide_id,
        "patient": slide.patient,
        "cohort": slide.cohort,
        "spots": len(slide),
        "image_sha256": None if slide.image is None else sha256_file(slide.image.path),
    }


def model_card(slides: Sequence[Slide], panel: GenePanel, config: ModelConfig) -> str:
    """Return the text that tells a stranger what the model is and what it has seen."""
    patients = sorted({slide.patient or "unknown" for slide in slides})
    patch = config.patch
    cut = "full-resolution pixels" if patch.mpp is None else f"{patch.mpp:g} um per pixel"
    lines = [
        f"# Model of recipe `{config.recipe}` (mclstexp {__version__})",
        "",
        f"Trained on {len(slides)} slides of {len(patients)} patients, {sum(map(len, slides))} spots: "
        + ", ".join(slide.slide_id for slide in slides)
        + ".",
        f"Encoder `{config.encoder.name}`, {'fine-tuned' if config.optim.finetune else 'frozen'}; patches of "
        f"{patch.size_px} pixels at {cut}.",
        f"{len(panel)} genes; expression is log(1 + counts / total x {config.normalisation.target_sum:g}), "
        f"{config.normalisation.log}, total over {config.normalisation.total} genes.",
        f"Seed {config.seed}.",
        "",
        "Predictions are estimates for research. Do not evaluate this model on the slides or patients named above:",
        "it has seen them (`mst evaluate` trains anew for every fold).",
        "",
    ]
    return "\n".join(lines)
