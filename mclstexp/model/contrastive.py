"""The paper's network: two projection heads over image features and the spot encoder (arXiv 2407.08216, section 2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mclstexp.config import NetworkConfig
from mclstexp.model.spot_encoder import SpotEncoder
from mclstexp.types import FloatArray


class ProjectionHead(nn.Module):
    """Linear, GELU, Linear, Dropout, residual, LayerNorm (upstream's ``model.py``)."""

    def __init__(self, width: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(width, embed_dim)
        self.inner = nn.Sequential(nn.GELU(), nn.Linear(embed_dim, embed_dim), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, width)`` to ``(n, embed_dim)``."""
        projected = self.project(x)
        return self.norm(projected + self.inner(projected))  # type: ignore[no-any-return]


class ContrastiveNetwork(nn.Module):
    """Patch features and spots into one space.

    Parameters
    ----------
    n_features, n_genes
        Length of an image feature vector, and of the gene panel.
    array_shape
        Rows and columns that the position tables hold.
    config
        Widths and depths.
    """

    def __init__(self, n_features: int, n_genes: int, array_shape: tuple[int, int], config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.array_shape = array_shape
        self.image_head = ProjectionHead(n_features, config.embed_dim, config.dropout)
        self.spot_encoder = SpotEncoder(n_genes, array_shape, config)
        self.spot_head = ProjectionHead(n_genes, config.embed_dim, config.dropout)

    def project_images(self, features: Tensor) -> Tensor:
        """Map features ``(n, F)`` to embeddings ``(n, d)``, not yet of unit length."""
        return self.image_head(features)  # type: ignore[no-any-return]

    def project_spots(self, expression: Tensor, array_row: Tensor, array_col: Tensor) -> Tensor:
        """Map one slide's spots to embeddings ``(n, d)``, not yet of unit length."""
        return self.spot_head(self.spot_encoder(expression, array_row, array_col))  # type: ignore[no-any-return]

    def embed_images(self, features: FloatArray) -> FloatArray:
        """Return unit embeddings ``(n, d)`` float32 of image features ``(n, F)``."""
        return self._run(lambda: self.project_images(self._tensor(features)))

    def embed_spots(
        self, expression: FloatArray, array_row: NDArray[np.int64], array_col: NDArray[np.int64]
    ) -> FloatArray:
        """Return unit embeddings ``(n, d)`` float32 of one whole slide's spots."""
        row, col = self._tensor(array_row), self._tensor(array_col)
        return self._run(lambda: self.project_spots(self._tensor(expression), row, col))

    def _tensor(self, array: NDArray[np.float32] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(next(self.parameters()).device)

    def _run(self, forward: object) -> FloatArray:
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            out = F.normalize(forward().float(), dim=1)  # type: ignore[operator]
        self.train(was_training)
        return out.cpu().numpy()  # type: ignore[no-any-return]
