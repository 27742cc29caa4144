"""What a model's space must offer, and the keys made from it.

To add a space, write a class that fulfils `Space`, fit it in `mclstexp.train`, and rebuild it in
`mclstexp.model.model`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mclstexp.model.linear_features import Seen
from mclstexp.slide import Slide
from mclstexp.types import FloatArray, IdArray


class Space(Protocol):
    """Maps image features and expression into unit vectors of one space."""

    @property
    def embed_dim(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def spot_context(self) -> str:
        """Which spots decide a spot's embedding, in words that the reference records."""
        ...

    def embed_images(self, features: Seen, slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32 of features ``(n, F)`` of all the slide's spots."""
        ...

    @property
    def asks(self) -> tuple[FloatArray, tuple[FloatArray, ...]] | None:
        """Origin ``(F,)`` and linear maps ``(F, k)``: all that is asked of features; None where they are held whole."""
        ...

    def embed_spots(self, expression: FloatArray, measured: NDArray[np.bool_], slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32 of expression ``(n, G)``; ``measured`` ``(G,)`` says which genes are known."""
        ...

    @property
    def tells_level(self) -> bool:
        """Whether embeddings are relative to their slide, and its mean expression is told by its image instead."""
        ...

    def correct(
        self,
        expression: FloatArray,
        columns: IdArray,
        query: FloatArray,
        keys: FloatArray,
        weights: FloatArray,
        *,
        strength: float,
    ) -> FloatArray:
        """Return the neighbours' weighted mean corrected for where they lie; a space without a correction returns it.

        Parameters
        ----------
        expression
            ``(n, g)`` weighted mean on the model's own scale.
        columns
            ``(g,)`` each gene's place in the model's panel; genes outside (-1) stay as they are.
        query, keys, weights
            ``(n, d)`` query embeddings, ``(n, k, d)`` the neighbours' keys, ``(n, k)`` their weights.
        strength
            From 0 (no correction) to 1.
        """
        ...

    def blend(self, expression: FloatArray, columns: IdArray, features: Seen, *, share: float) -> FloatArray:
        """Return the prediction with a share taken from a linear map of the features; a space without one returns it.

        Parameters
        ----------
        expression, columns
            As in `level`, on the model's own scale.
        features
            ``(n, F)`` image features of the same patches.
        share
            From 0 (none) to 1 (the linear map alone).
        """
        ...

    def level(
        self,
        expression: FloatArray,
        columns: IdArray,
        common: FloatArray,
        features: Seen,
        *,
        own_scale: bool,
    ) -> tuple[FloatArray, FloatArray]:
        """Return a slide's prediction with its mean brought to the slide's level, and the level's uncertainty.

        The uncertainty is a standard deviation ``(g,)``; 0 where it is not known. A space without levels returns the
        prediction as it is.

        Parameters
        ----------
        expression
            ``(n, g)`` prediction.
        columns
            ``(g,)`` each gene's place in the model's panel, -1 outside.
        common
            ``(g,)`` mean expression of the neighbours' slides: the level of genes outside the panel, and of all genes
            on another scale than the model's.
        features
            ``(n, F)`` image features of the slide's patches, which tell the level of the panel's genes.
        own_scale
            Whether expression is on the model's own scale.
        """
        ...

    def summary(self) -> list[str]:
        """Return what the fit says of itself, a sentence a line."""
        ...

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays and the facts that rebuild the space."""
        ...


def unit(vectors: FloatArray) -> FloatArray:
    """Scale rows to unit length; a row of zeros becomes the first axis, since a key needs a direction."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    out = np.where(norm > 0, vectors / np.where(norm > 0, norm, 1), np.eye(1, vectors.shape[1]))
    return out.astype(np.float32)


def fused_keys(spot: FloatArray, image: FloatArray, mix: float) -> FloatArray:
    """Return unit keys ``(n, d)``: spot embeddings with the share ``mix`` of the patches' own."""
    share = np.float32(mix)
    return unit((1 - share) * spot + share * image)
