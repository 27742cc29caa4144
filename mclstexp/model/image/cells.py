"""Statistics of feature maps over small squares of tissue, and of any window from the squares that it covers.

A window's covariance is that within its cells and that between their means, each cell weighted by the share of it that
lies in the window: exact where the window's edges are cells' edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from mclstexp.model.image.pooling import MAX_CHANNELS, SMALLEST, mixing
from mclstexp.types import FloatArray, IdArray

CELL_PX = 32
"""Side of a cell in the encoder's pixels: the coarsest stage of a convolutional backbone has one value there."""

BLOCK = 256
"""Windows pooled at once."""


@dataclass(frozen=True)
class Pool:
    """How a map becomes numbers: ``covariance`` of its mixed channels, ``deviation`` beside the mean, or ``mean``."""

    kind: str
    n_channels: int

    @property
    def width(self) -> int:
        """Length of the part of the feature vector."""
        kept = min(self.n_channels, MAX_CHANNELS)
        widths = {"covariance": kept * (kept + 1) // 2, "deviation": 2 * self.n_channels, "mean": self.n_channels}
        return widths[self.kind]


@dataclass(frozen=True)
class Cells:
    """Statistics of one map: ``mean`` ``(rows, columns, m)`` and ``within`` ``(rows, columns, w)`` float32.

    ``within`` is the variance of each channel inside the cell, or the upper triangle of their covariance.
    """

    mean: FloatArray
    within: FloatArray


def reduce_map(values: Tensor, pool: Pool, margin: int, n_cells: int) -> Cells:
    """Reduce a tile's map ``(1, c, h, h)`` to ``n_cells x n_cells`` cells; ``margin`` cells on each side are left out.

    Raises
    ------
    ValueError
        When a cell is no whole number of the map's pixels.
    """
    across = n_cells + 2 * margin
    q, rest = divmod(values.shape[-1], across)
    if rest or not q or values.shape[-1] != values.shape[-2]:
        raise ValueError(f"a map of {values.shape[-1]} pixels does not divide into {across} cells")
    core = values[0, :, margin * q : (margin + n_cells) * q, margin * q : (margin + n_cells) * q].float()
    with torch.autocast(core.device.type, enabled=False):
        if pool.kind == "covariance":
            core = torch.einsum("cm,chw->mhw", torch.tensor(mixing(pool.n_channels), device=core.device), core)
        m = core.shape[0]
        by_cell = core.reshape(m, n_cells, q, n_cells, q).permute(1, 3, 0, 2, 4).reshape(n_cells, n_cells, m, q * q)
        mean = by_cell.mean(dim=3)
        if pool.kind == "mean":
            within = mean[..., :0]
        else:
            centred = by_cell - mean[..., None]
            if pool.kind == "deviation":
                within = centred.square().mean(dim=3)
            else:
                joint = centred @ centred.transpose(2, 3) / (q * q)
                row, col = torch.triu_indices(m, m, device=core.device)
                within = joint[..., row, col]
    return Cells(mean.cpu().numpy(), within.cpu().numpy())


@dataclass(frozen=True)
class Windows:
    """Squares over a grid of cells: the cells ``(n, a)`` that each covers, row by row, and their weights."""

    cells: IdArray
    weights: FloatArray

    @classmethod
    def of(cls, centre: NDArray[np.float64], side: float, origin: tuple[int, int], shape: tuple[int, int]) -> Windows:
        """Return the windows of a side, in cells, around centres ``(n, 2)`` as (x, y), in cells of the whole slide.

        ``origin`` is the first row and column of the grid, ``shape`` how many it has. Every cell that a window covers
        has to be in the grid.
        """
        (columns, across), (rows, down) = (_covered(centre[:, axis], side) for axis in (0, 1))
        weights = down[:, :, None] * across[:, None, :]
        inside_rows = np.clip(rows - origin[0], 0, shape[0] - 1)  # what has no weight may lie outside
        inside_columns = np.clip(columns - origin[1], 0, shape[1] - 1)
        cells = inside_rows[:, :, None] * shape[1] + inside_columns[:, None, :]
        n = len(centre)
        return cls(cells.reshape(n, -1), weights.reshape(n, -1).astype(np.float32))

    def pool(self, cells: Cells, pool: Pool) -> FloatArray:
        """Return ``(n, width)`` float32: what pooling the map over each window gives."""
        mean = cells.mean.reshape(-1, cells.mean.shape[-1])
        within = cells.within.reshape(len(mean), -1)
        out = np.empty((len(self.cells), pool.width), dtype=np.float32)
        for start in range(0, len(self.cells), BLOCK):
            rows = slice(start, start + BLOCK)
            out[rows] = _pooled(self.cells[rows], self.weights[rows], mean, within, pool)
        return out


def _pooled(cells: IdArray, weights: FloatArray, mean: FloatArray, within: FloatArray, pool: Pool) -> FloatArray:
    n, a = cells.shape
    spread = sparse.csr_matrix((weights.ravel(), cells.ravel(), np.arange(0, n * a + 1, a)), shape=(n, len(mean)))
    centre = spread @ mean
    if pool.kind == "mean":
        return np.asarray(centre)
    apart = mean[cells] - centre[:, None, :]
    total = spread @ within
    if pool.kind == "deviation":
        between = np.einsum("na,nac->nc", weights, apart**2)
        return np.concatenate([centre, np.sqrt(total + between)], axis=1)
    between = np.matmul(apart.transpose(0, 2, 1), apart * weights[..., None])
    row, col = np.triu_indices(between.shape[1])
    total += between[:, row, col]
    return np.asarray(total / np.sqrt(np.abs(total) + np.float32(SMALLEST)), dtype=np.float32)


def _covered(centre: NDArray[np.float64], side: float) -> tuple[IdArray, NDArray[np.float64]]:
    """Return the cells ``(n, a)`` that intervals cover along one axis, and the share of the interval in each."""
    low = centre - side / 2
    first = np.floor(low).astype(np.int64)
    cells = first[:, None] + np.arange(int(np.ceil(side)) + 1)
    left = np.maximum(low[:, None], cells)
    right = np.minimum(low[:, None] + side, cells + 1)
    return cells, np.maximum(right - left, 0.0) / side


def joined(tiles: Mapping[tuple[int, int], Cells], origin: tuple[int, int], shape: tuple[int, int]) -> Cells:
    """Put tiles by (row, column) of the tile grid beside each other; ``shape`` in tiles. Missing ones are zero."""
    some = next(iter(tiles.values()))
    n = some.mean.shape[0]
    mean, within = (
        np.zeros((shape[0] * n, shape[1] * n, part.shape[2]), dtype=np.float32) for part in (some.mean, some.within)
    )
    for (row, column), cells in tiles.items():
        top, left = (row - origin[0]) * n, (column - origin[1]) * n
        mean[top : top + n, left : left + n] = cells.mean
        within[top : top + n, left : left + n] = cells.within
    return Cells(mean, within)
