"""The retrieval methods of `mst evaluate`: each fold trains a model, builds a reference and queries it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from mclstexp.config import ModelConfig, Normalisation, recipe, with_settings
from mclstexp.errors import InputError
from mclstexp.evaluate.baselines import baseline_methods
from mclstexp.evaluate.methods import Method, MethodOptions
from mclstexp.evaluate.protocol import PUBLISHED
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.evaluate.tuning import TunedMethod
from mclstexp.index.pipeline import BuildOptions, QueryOptions, build_reference, predict_slide
from mclstexp.index.store.store import ReferenceStore
from mclstexp.model.image.encoder import ImageEncoder, Weights, resolve_device
from mclstexp.model.image.features import FeatureCache, slide_features
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.train import TrainedModel, TrainOptions, train
from mclstexp.types import FloatArray


class RetrievalMethod:
    """A recipe, from training to prediction, exactly as the commands run it.

    Parameters
    ----------
    config
        The recipe's settings.
    options
        Weights, device and feature cache.
    normalisation
        Scale of the predictions: counts are stored raw, so any model can answer in the protocol's.
    """

    deterministic = False
    uses_counts_only = True

    def __init__(self, config: ModelConfig, options: TrainOptions, normalisation: Normalisation) -> None:
        self.config, self.options, self.normalisation = config, options, normalisation
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._model: TrainedModel | None = None
        self._store: ReferenceStore | None = None

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.config.recipe

    def fit(self, train_slides: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Train on the slides with an image, and index all of them."""
        with_image = [slide for slide in train_slides if slide.image is not None]
        options = dataclasses.replace(self.options, genes=panel)
        self._model = train(with_image, dataclasses.replace(self.config, seed=seed), options)
        self._scratch = tempfile.TemporaryDirectory(prefix="mst-evaluate-")
        folder = Path(self._scratch.name) / "reference"
        self._store = build_reference(
            folder, list(train_slides), self._model.files, self._model.encoders, BuildOptions(command="mst evaluate")
        )

    def predict(self, slide: Slide) -> MethodPrediction:
        """Query the fold's reference with a held-out slide."""
        if self._model is None or self._store is None:
            raise InputError(f"Method {self.name} was asked to predict before it was fitted.")
        options = QueryOptions(normalisation=self.normalisation, device=self.options.device, thumbnail=False)
        found = predict_slide(slide, self._model.encoders, self._store, options).prediction
        familiarity = found.obs.get("familiarity")
        known = None if familiarity is None else np.asarray(familiarity, dtype=np.float32)
        return MethodPrediction(found.mean, found.lower, found.upper, known)


def evaluation_methods(options: MethodOptions) -> list[Method]:
    """Return the baselines and one retrieval method a recipe (and one tuned, given a grid), on one encoder and scale.

    Raises
    ------
    InputError
        When a recipe or setting is unknown, or there is a grid and no recipe to tune.
    """
    folder = options.cache or Path(platformdirs.user_cache_dir("mclstexp"))
    cache = FeatureCache(folder)
    run = TrainOptions(weights=_weights(options), device=options.device, cache=cache)  # type: ignore[arg-type]
    configs = [_config(name, options) for name in options.recipes]
    methods: list[Method] = list(baseline_methods(last_layer_features(configs[0], run), options.normalisation))

    def make(config: ModelConfig) -> RetrievalMethod:
        return RetrievalMethod(config, run, options.normalisation)

    tuned = [config for config in configs if options.grid and config.recipe not in PUBLISHED]
    if options.grid and not tuned:
        raise InputError(
            f"--tune leaves the published recipes as they are ({', '.join(PUBLISHED)}): add --recipe default."
        )
    for config in configs:
        methods.append(make(config))
        if config in tuned:
            methods.append(TunedMethod(config, options.grid, make, options.split))
    return methods


def last_layer_features(config: ModelConfig, options: TrainOptions) -> Any:
    """Return the baselines' features: the encoder's own pooled output, one view, of full-resolution patches."""
    spec = dataclasses.replace(config.encoder, pooling="last", views=1, scales=(1.0,))
    patch = dataclasses.replace(recipe("paper").patch, size_px=config.patch.size_px)
    encoder: list[ImageEncoder] = []

    def features(slide: Slide) -> FloatArray:
        if not encoder:
            made = ImageEncoder.create(spec, options.weights, seed=config.seed)
            encoder.append(made.to(resolve_device(options.device)))
        return slide_features(slide, encoder[0], patch, cache=options.cache)

    return features


def _config(name: str, options: MethodOptions) -> ModelConfig:
    """Return the recipe; a recipe that does not fix its own scale learns on the protocol's."""
    config = recipe(name)
    if config.recipe == "default":
        config = dataclasses.replace(config, normalisation=options.normalisation)
    changes = [f"encoder.name={options.encoder}"] if options.encoder else []
    return with_settings(config, [*changes, *options.settings])


def _weights(options: MethodOptions) -> Weights:
    if options.encoder_weights is None:
        return "pretrained"
    return "random" if str(options.encoder_weights) == "random" else Path(options.encoder_weights)
