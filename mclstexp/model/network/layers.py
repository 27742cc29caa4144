"""The paper's network: self-attention over a slide's spots, and two projection heads (arXiv 2407.08216, section 2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mclstexp.config import NetworkConfig
from mclstexp.types import FloatArray


class Attention(nn.Module):
    """Multi-head self-attention over the spots of one context."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map ``(n, width)`` to ``(n, width)``, or to ``(m, width)`` where only ``rows`` ``(m,)`` ask."""
        if rows is None:
            q, k, v = self._by_head(self.to_qkv(x), 3)
        else:
            to_q, to_kv = self.to_qkv.weight.tensor_split([len(self.to_qkv.weight) // 3])
            (q,), (k, v) = self._by_head(F.linear(x[rows], to_q), 1), self._by_head(F.linear(x, to_kv), 2)
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]  # (heads, m, head_dim)
        return self.out(mixed.permute(1, 0, 2).flatten(1))  # type: ignore[no-any-return]

    def _by_head(self, x: Tensor, n_parts: int) -> Tensor:
        """Split ``(n, n_parts * heads * head_dim)`` into ``(n_parts, heads, n, head_dim)``."""
        return x.view(len(x), n_parts, self.heads, -1).permute(1, 2, 0, 3)


class Block(nn.Module):
    """Pre-norm attention and MLP, the MLP as wide as the gene panel."""

    def __init__(self, width: int, config: NetworkConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, config.head_dim)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map ``(n, width)`` to ``(n, width)``, or to ``(m, width)`` of the ``rows`` ``(m,)``: they attend to all."""
        asked = x if rows is None else x[rows]
        asked = asked + self.attention(self.norm1(x), rows)
        return asked + self.mlp(self.norm2(asked))  # type: ignore[no-any-return]


class SpotEncoder(nn.Module):
    """Expression plus learnable embeddings of array row and column, through attention blocks.

    The tables are as long as the training slides' arrays; a position beyond them takes the last row.
    """

    def __init__(self, n_genes: int, array_shape: tuple[int, int], config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.array_shape = array_shape
        self.row = nn.Embedding(array_shape[0], n_genes)
        self.col = nn.Embedding(array_shape[1], n_genes)
        self.blocks = nn.ModuleList(Block(n_genes, config) for _ in range(config.blocks))

    def forward(self, expression: Tensor, array_row: Tensor, array_col: Tensor, rows: Tensor | None = None) -> Tensor:
        """Encode one slide: ``(n, n_genes)`` expression and ``(n,)`` positions to ``(n, n_genes)``.

        With ``rows`` ``(m,)``, different spots, only these are returned, as they are in the whole. Their contexts alone
        are encoded, and the last block computes no more than their keys and values for the other spots.
        """
        n = len(expression)
        wanted = torch.arange(n, device=expression.device) if rows is None else rows
        place = torch.full((n,), -1, device=expression.device)
        place[wanted] = torch.arange(len(wanted), device=expression.device)
        out = expression.new_empty((len(wanted), expression.shape[1]))
        for context in contexts(array_row, array_col, self.config.context_spots):
            asked = torch.nonzero(place[context] >= 0)[:, 0]
            if len(asked):
                h = self._positioned(expression[context], array_row[context], array_col[context])
                for block in self.blocks[:-1]:
                    h = block(h)
                out[place[context[asked]]] = self.blocks[-1](h, None if len(asked) == len(context) else asked)
        return out

    def _positioned(self, expression: Tensor, array_row: Tensor, array_col: Tensor) -> Tensor:
        if not self.config.positions:
            return expression
        row = self.row(array_row.clamp(0, self.array_shape[0] - 1))
        return expression + row + self.col(array_col.clamp(0, self.array_shape[1] - 1))  # type: ignore[no-any-return]


def contexts(array_row: Tensor, array_col: Tensor, limit: int) -> list[Tensor]:
    """Split a slide into the sets of spots that attend to each other.

    A slide of at most ``limit`` spots is one context. A larger one is halved along its longer side until each part
    is small enough: a rule of the slide's own positions, so that a spot's embedding depends on nothing else.
    """
    pending = [torch.arange(len(array_row), device=array_row.device)]
    done: list[Tensor] = []
    while pending:
        part = pending.pop()
        if len(part) <= limit:
            done.append(part)
            continue
        rows, cols = array_row[part], array_col[part]
        by_row = (rows.max() - rows.min()) >= (cols.max() - cols.min())
        major, minor = (rows, cols) if by_row else (cols, rows)
        order = torch.argsort(major * (int(minor.max()) + 1 - int(minor.min())) + minor - minor.min(), stable=True)
        half = len(part) // 2
        pending += [part[order[half:]], part[order[:half]]]
    return done


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

    def project_spots(
        self, expression: Tensor, array_row: Tensor, array_col: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Map one slide's spots, or ``rows`` of them, to embeddings ``(n, d)``, not yet of unit length."""
        encoded = self.spot_encoder(expression, array_row, array_col, rows)
        return self.spot_head(encoded)  # type: ignore[no-any-return]

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
