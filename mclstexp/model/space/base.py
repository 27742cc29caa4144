"""What a model's space must offer, and the keys made from it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mclstexp.slide import Slide
from mclstexp.types import FloatArray


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

    def embed_images(self, features: FloatArray, slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32 of features ``(n, F)`` of all the slide's spots."""
        ...

    def embed_spots(self, expression: FloatArray, measured: NDArray[np.bool_], slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32 of expression ``(n, G)``; ``measured`` ``(G,)`` says which genes are known."""
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
