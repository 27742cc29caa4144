"""The spaces that a model can have, behind one interface."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mclstexp.config import ModelConfig
from mclstexp.model.contrastive import ContrastiveNetwork
from mclstexp.model.shared_space import SharedSpace
from mclstexp.types import FloatArray, GenePanel, Slide


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

    def embed_images(self, features: FloatArray, slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32."""
        return self.network.embed_images(features)

    def embed_spots(self, expression: FloatArray, measured: NDArray[np.bool_], slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32; unmeasured genes enter as zero, as an undetected gene does."""
        return self.network.embed_spots(expression, slide.spots.array_row, slide.spots.array_col)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the network's weights and sizes."""
        arrays = {f"network.{name}": t.cpu().numpy() for name, t in self.network.state_dict().items()}
        n_features = self.network.image_head.project.in_features
        return arrays, {"n_features": n_features, "array_shape": list(self.network.array_shape)}


def space_from_state(
    config: ModelConfig, panel: GenePanel, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]
) -> Space:
    """Rebuild a model's space from its arrays and facts."""
    if config.space == "shared":
        return SharedSpace.from_state(arrays, facts)
    rows, cols = facts["array_shape"]
    network = ContrastiveNetwork(facts["n_features"], len(panel), (rows, cols), config.network)
    state = {name.removeprefix("network."): v for name, v in arrays.items() if name.startswith("network.")}
    network.load_state_dict({name: torch.from_numpy(v.copy()) for name, v in state.items()})
    return NetworkSpace(network.eval())
