"""The retrieval methods of `mst evaluate`: each fold trains a model, builds a reference and queries it."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mclstexp.config import EncoderSpec, ModelConfig, Normalisation, PatchSpec, changed, recipe
from mclstexp.device import resolve_device
from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.evaluate.baselines import LinearProbe, baseline_methods
from mclstexp.evaluate.methods import Method, MethodOptions
from mclstexp.evaluate.protocol import PUBLISHED
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.evaluate.tuning import TunedMethod
from mclstexp.index.reference import Reference
from mclstexp.metrics import Floats
from mclstexp.model.chosen import choice_of
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.features import Cache, feature_cache, slide_features
from mclstexp.model.space.training_data import FeatureLayout
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.train import train
from mclstexp.types import Device, EncoderWeights, FloatArray, Progress

OWN_FEATURES = "linear probe, own features"
"""Name of the probe on what the first recipe that sees more than the last layer is given itself."""


@dataclass(frozen=True)
class Resources:
    """What every method computes with: the encoder's weights, device, feature cache, and who is told of progress."""

    encoder_weights: EncoderWeights = "pretrained"
    device: Device = "auto"
    cache: Cache = True
    on_progress: Progress | None = None


class RetrievalMethod:
    """A recipe, from training to prediction, exactly as the commands run it.

    Parameters
    ----------
    config
        The recipe's settings.
    resources
        Weights, device and feature cache.
    normalisation
        Scale of the predictions: counts are stored raw, so any model can answer in the protocol's.
    """

    deterministic = False
    uses_counts_only = True

    def __init__(self, config: ModelConfig, resources: Resources, normalisation: Normalisation) -> None:
        self.config, self.resources, self.normalisation = config, resources, normalisation
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._reference: Reference | None = None
        self.learned: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.config.recipe

    def fit(self, train_slides: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Train on the slides with an image, and index all of them."""
        with_image = [slide for slide in train_slides if slide.image is not None]
        resources = self.resources
        self._scratch = tempfile.TemporaryDirectory(prefix="mst-evaluate-")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MclstexpWarning)  # a fold's models are nobody's to use
            model = train(
                with_image,
                recipe=dataclasses.replace(self.config, seed=seed),
                genes=panel,
                encoder_weights=resources.encoder_weights,
                device=resources.device,
                cache=resources.cache,
                on_progress=resources.on_progress,
            )
            self.learned = choice_of(model.history)
            folder = Path(self._scratch.name) / "reference"
            self._reference = Reference.build(folder, train_slides, model, command="mst evaluate")

    def predict(self, slide: Slide) -> MethodPrediction:
        """Query the fold's reference with a held-out slide."""
        if self._reference is None:
            raise InputError(f"Method {self.name} was asked to predict before it was fitted.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MclstexpWarning)
            prediction = self._reference.query(
                slide,
                normalisation=self.normalisation,
                device=self.resources.device,
                thumbnail=False,
                on_progress=self.resources.on_progress,
            )
        familiarity = prediction.obs.get("familiarity")
        known = None if familiarity is None else np.asarray(familiarity, dtype=np.float32)
        level = prediction.settings.get("interval_level")
        return MethodPrediction(prediction.mean, prediction.lower, prediction.upper, known, level)


def evaluation_methods(options: MethodOptions, *, on_progress: Progress | None = None) -> list[Method]:
    """Return the baselines and one retrieval method a recipe (and one tuned, given a grid), on one encoder and scale.

    Raises
    ------
    InputError
        When a recipe or setting is unknown, or there is a grid and no recipe to tune.
    """
    resources = Resources(options.encoder_weights, options.device, options.cache, on_progress)
    configs = [_config(name, options) for name in options.recipes]
    features = last_layer_features(configs[0], resources)
    methods: list[Method] = list(baseline_methods(features, options.normalisation))
    richer = [config for config in configs if sees_more(config)]
    if richer:
        own = EncodedFeatures(richer[0].encoder, richer[0].patch, richer[0].seed, resources)
        methods.append(LinearProbe(own, options.normalisation, name=OWN_FEATURES, weights=own.weights))

    def make(config: ModelConfig) -> RetrievalMethod:
        return RetrievalMethod(config, resources, options.normalisation)

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


def sees_more(config: ModelConfig) -> bool:
    """Whether a recipe's features are more than the encoder's last layer, one view and field of view."""
    spec = config.encoder
    return spec.pooling != "last" or spec.scales != (1.0,)


def last_layer_features(config: ModelConfig, resources: Resources) -> EncodedFeatures:
    """Return the baselines' features: the encoder's own pooled output, one view, of full-resolution patches."""
    spec = dataclasses.replace(config.encoder, pooling="last", views=1, scales=(1.0,))
    patch = dataclasses.replace(recipe("paper").patch, size_px=config.patch.size_px)
    return EncodedFeatures(spec, patch, config.seed, resources)


class EncodedFeatures:
    """Image features ``(n, F)`` of a slide by an encoder that is made when it is first needed."""

    def __init__(self, spec: EncoderSpec, patch: PatchSpec, seed: int, resources: Resources) -> None:
        self._spec, self._patch, self._seed, self._resources = spec, patch, seed, resources
        self._cache = feature_cache(resources.cache)
        self._kept: ImageEncoder | None = None

    def __call__(self, slide: Slide) -> FloatArray:
        """Encode a slide, or take its features from the cache."""
        return slide_features(
            slide, self._encoder(), self._patch, cache=self._cache, on_progress=self._resources.on_progress
        )

    def weights(self) -> Floats:
        """Return the variance ``(F,)`` that the shared space brings each feature to: every stage counts the same."""
        encoder, size_px = self._encoder(), self._patch.size_px
        names = encoder.block_names(size_px)
        return FeatureLayout(encoder.block_sizes(size_px), len(self._spec.scales), names).column_weights()

    def _encoder(self) -> ImageEncoder:
        if self._kept is None:
            encoder = ImageEncoder.create(self._spec, self._resources.encoder_weights, seed=self._seed)
            self._kept = encoder.to(resolve_device(self._resources.device))
        return self._kept


def _config(name: str, options: MethodOptions) -> ModelConfig:
    """Return the recipe; a recipe that does not fix its own scale learns on the protocol's."""
    config = recipe(name)
    if config.recipe == "default":
        config = dataclasses.replace(config, normalisation=options.normalisation)
    changes = [f"encoder.name={options.encoder}"] if options.encoder else []
    return changed(config, [*changes, *options.settings])
