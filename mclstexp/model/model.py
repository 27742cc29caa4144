"""The pair of encoders: slides in, unit embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mclstexp.config import ModelConfig
from mclstexp.data.genes.expression import expression_for
from mclstexp.errors import MismatchError
from mclstexp.model.calibration import Calibration
from mclstexp.model.folder import ModelFiles, load_model
from mclstexp.model.image.encoder import ImageEncoder, resolve_device
from mclstexp.model.image.features import FeatureCache, slide_features
from mclstexp.model.space.adjust import coordinates, correct_toward_query, relevel
from mclstexp.model.space.base import Space, fused_keys
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.state import space_from_state
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.types import FloatArray

Progress = Callable[[int, int], None]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, eq=False)
class Keys:
    """What a slide brings to a reference.

    Attributes
    ----------
    embedding
        ``(n, d)`` unit float32: the key that queries are compared with.
    image_embedding
        ``(n, d)`` unit float32 of the slide's own patches, or None when it has no image.
    """

    embedding: FloatArray
    image_embedding: FloatArray | None


def columns_in(panel: GenePanel, genes: GenePanel) -> NDArray[np.int64]:
    """Return each gene's place in the panel, -1 outside."""
    return np.array([panel.position.get(symbol, -1) for symbol in genes.symbols], dtype=np.int64)


class EncoderPair:
    """Image encoder and spot encoder of one model.

    A slide's embeddings are a function of the slide alone: not of the batch size, of the order of the slides, nor of
    which other slides are encoded.
    """

    def __init__(
        self,
        config: ModelConfig,
        panel: GenePanel,
        backbone: ImageEncoder,
        space: Space,
        *,
        calibration: Calibration | None = None,
        cache: FeatureCache | None = None,
        trained_on: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.config, self.panel, self.backbone, self.space = config, panel, backbone, space
        self.calibration, self.trained_on = calibration, tuple(trained_on)
        self.cache = cache or FeatureCache()

    @classmethod
    def from_files(
        cls, model: ModelFiles, *, device: Device = "auto", cache: FeatureCache | None = None
    ) -> EncoderPair:
        """Rebuild the encoders of a loaded model."""
        backbone = ImageEncoder.create(model.config.encoder, "random")
        state = {k.removeprefix("backbone."): v for k, v in model.arrays.items() if k.startswith("backbone.")}
        backbone.backbone.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
        space = space_from_state(model.config, model.panel, model.arrays, model.facts)
        calibration = Calibration.from_state(model.arrays, model.facts)
        target = resolve_device(device)
        backbone.to(target)
        seen = model.facts.get("slides", ())
        return cls(model.config, model.panel, backbone, space, calibration=calibration, cache=cache, trained_on=seen)

    @classmethod
    def load(cls, folder: Path, *, device: Device = "auto", cache: FeatureCache | None = None) -> EncoderPair:
        """Read a model folder and rebuild its encoders."""
        return cls.from_files(load_model(folder), device=device, cache=cache)

    @property
    def spot_context(self) -> str:
        """The rule that says which spots decide a spot's embedding."""
        return self.space.spot_context

    def features(self, slide: Slide, *, on_progress: Progress | None = None) -> FloatArray:
        """Return the image features ``(n, F)`` float32 of a slide's spots."""
        return slide_features(slide, self.backbone, self.config.patch, cache=self.cache, on_progress=on_progress)

    def encode_patches(self, slide: Slide, *, on_progress: Progress | None = None) -> FloatArray:
        """Return unit embeddings ``(n, d)`` float32 of a slide's patches."""
        return self.space.embed_images(self.features(slide, on_progress=on_progress), slide)

    def encode_spots(self, slide: Slide) -> FloatArray:
        """Return unit embeddings ``(n, d)`` float32 of a slide's spots, from counts and positions.

        Raises
        ------
        MismatchError
            When the slide measured none of the model's genes.
        """
        expression, measured = expression_for(slide.spots, self.panel, self.config.normalisation)
        if not measured.any():
            raise MismatchError(
                f"Slide {slide.slide_id} measured none of the model's {len(self.panel)} genes; check the gene names "
                "(symbols or Ensembl ids) of its counts."
            )
        return self.space.embed_spots(expression, measured, slide)

    @property
    def levels(self) -> bool:
        """Whether embeddings are relative to their slide, and the slide's level is told by itself."""
        return isinstance(self.space, SharedSpace)

    @property
    def corrects(self) -> bool:
        """Whether the neighbours' mean is corrected for where they lie."""
        return isinstance(self.space, SharedSpace) and self.config.correction != 0

    def corrected(
        self, expression: FloatArray, genes: GenePanel, query: FloatArray, neighbours: FloatArray, weights: FloatArray
    ) -> FloatArray:
        """Return the neighbours' weighted mean corrected for where they lie, where the model corrects.

        Parameters
        ----------
        expression
            ``(n, len(genes))`` weighted mean on the model's own scale. Genes outside the panel stay as they are.
        query, neighbours, weights
            ``(n, d)`` query embeddings, ``(n, k, d)`` the neighbours' keys, ``(n, k)`` their weights.
        """
        if not isinstance(self.space, SharedSpace) or not self.corrects:
            return expression
        radius = self.space.config.radius
        columns = columns_in(self.panel, genes)
        slope = np.where(columns >= 0, self.space.expression_per_coordinate()[:, columns], np.float32(0))
        present = np.where(weights[..., None] > 0, neighbours, 0)  # where k is more than there are, the rest is NaN
        centre = np.einsum("nk,nkc->nc", weights, coordinates(present, radius))
        at = coordinates(query, radius)
        return correct_toward_query(expression, at, centre, slope, strength=self.config.correction)

    def relevelled(
        self, expression: FloatArray, genes: GenePanel, level: FloatArray, features: FloatArray, *, own_scale: bool
    ) -> FloatArray:
        """Return the slide's prediction with its mean brought to the level that its features tell.

        Parameters
        ----------
        expression
            ``(n, len(genes))`` prediction.
        level
            ``(len(genes),)`` mean expression of the reference's slides: the level of genes outside the model's panel,
            and of all on another scale than the model's.
        features
            ``(n, F)`` image features of the slide's patches.
        own_scale
            Whether expression is on the model's own scale.
        """
        if not isinstance(self.space, SharedSpace):
            return expression
        if own_scale:
            columns = columns_in(self.panel, genes)
            level = np.where(columns >= 0, self.space.slide_level(features)[columns], level)
        return relevel(expression, level, trust=self.space.config.shrink_spots)

    def encode_keys(self, slide: Slide, *, on_progress: Progress | None = None) -> Keys:
        """Return the slide's keys: spot embeddings, mixed with its patches' where it has an image."""
        spot = self.encode_spots(slide)
        if slide.image is None:
            return Keys(spot, None)
        image = self.encode_patches(slide, on_progress=on_progress)
        return Keys(fused_keys(spot, image, self.config.key_mix), image)
