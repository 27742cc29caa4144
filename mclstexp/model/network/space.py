"""The paper's network as a space."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.model.linear_features import Seen, held
from mclstexp.model.network.layers import ContrastiveNetwork
from mclstexp.slide import Slide
from mclstexp.types import FloatArray, IdArray


class NetworkSpace:
    """The paper's network as a space."""

    def __init__(self, network: ContrastiveNetwork) -> None:
        self.network = network

    @property
    def embed_dim(self) -> int:
        """Length of an embedding."""
        return self.network.config.embed_dim

    @property
    def spot_context(self) -> str:
        """Attention's rule."""
        limit = self.network.config.context_spots
        return f"self-attention over the slide's spots, in k-d parts of at most {limit}"

    def embed_images(self, features: Seen, slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32."""
        return self.network.embed_images(held(features))

    @property
    def asks(self) -> None:
        """None: the head is no linear map."""
        return

    def embed_spots(self, expression: FloatArray, measured: NDArray[np.bool_], slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32; unmeasured genes enter as zero, as an undetected gene does."""
        return self.network.embed_spots(expression, slide.spots.array_row, slide.spots.array_col)

    @property
    def tells_level(self) -> bool:
        """Never: an embedding says all that the network knows."""
        return False

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
        """Return the expression as it is."""
        return expression

    def blend(self, expression: FloatArray, columns: IdArray, features: Seen, *, share: float) -> FloatArray:
        """Return the expression as it is."""
        return expression

    def level(
        self,
        expression: FloatArray,
        columns: IdArray,
        common: FloatArray,
        features: Seen,
        *,
        own_scale: bool,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the expression as it is."""
        return expression, np.zeros(expression.shape[1], dtype=np.float32)

    def summary(self) -> list[str]:
        """Nothing: the history of the training says it."""
        return []

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the network's weights and sizes."""
        arrays = {f"network.{name}": t.cpu().numpy() for name, t in self.network.state_dict().items()}
        n_features = self.network.image_head.project.in_features
        return arrays, {"n_features": n_features, "array_shape": list(self.network.array_shape)}
