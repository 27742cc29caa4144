"""Spatial context: means over a slide's neighbouring spots."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from mclstexp.slide import Slide

CUTOFF = 3.0
"""Neighbours farther than this many widths have no weight."""

CELLS_PER_WIDTH = 5.0
"""Spots closer than a fifth of the width share one cell. Spots on a 100 or 200 um array never do; the 8 um bins of
Visium HD would otherwise have 17,000 neighbours each."""


def positions_um(slide: Slide) -> NDArray[np.float64]:
    """Return spot centres ``(n, 2)`` in um.

    Raises
    ------
    InputError
        When the slide's pixel size is unknown.
    """
    return np.asarray(slide.spots.xy_px, dtype=np.float64) * slide.require_mpp()


class SpatialMean:
    """Gaussian-weighted mean over the neighbours of each spot, itself included.

    Parameters
    ----------
    xy_um
        Spot centres ``(n, 2)`` of one whole slide, in um.
    width_um
        Standard deviation of the Gaussian; 0 leaves every spot alone.
    """

    def __init__(self, xy_um: NDArray[np.float64], width_um: float) -> None:
        if width_um <= 0:
            self._cell_of, self._weights = None, None
            return
        side = width_um / CELLS_PER_WIDTH
        corner = np.floor((xy_um - xy_um.min(axis=0)) / side).astype(np.int64)
        _, cell_of, size = np.unique(corner, axis=0, return_inverse=True, return_counts=True)
        self._cell_of = cell_of.reshape(-1)
        centre = np.stack([np.bincount(self._cell_of, weights=xy_um[:, axis]) / size for axis in (0, 1)], axis=1)
        self._weights = _weights(centre, size.astype(np.float64), width_um)

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the means ``(n, c)`` of values ``(n, c)``, in their dtype."""
        if self._cell_of is None or self._weights is None:
            return values
        n_cells = self._weights.shape[0]
        rows = np.arange(len(values))
        gather = sparse.csr_matrix(
            (np.ones(len(values), dtype=values.dtype), (self._cell_of, rows)), shape=(n_cells, len(values))
        )
        total = self._weights.astype(values.dtype) @ (gather @ values)  # (n_cells, c)
        return np.asarray(total, dtype=values.dtype)[self._cell_of]


def _weights(centre: NDArray[np.float64], size: NDArray[np.float64], width_um: float) -> sparse.csr_matrix:
    """Weights ``(cells, cells)`` that turn sums over cells into means over neighbourhoods."""
    n = len(centre)
    pairs = cKDTree(centre).query_pairs(CUTOFF * width_um, output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    weight = np.exp(-((centre[first] - centre[second]) ** 2).sum(axis=1) / (2 * width_um**2))
    rows = np.concatenate([np.arange(n), first, second])
    cols = np.concatenate([np.arange(n), second, first])
    weights = sparse.csr_matrix((np.concatenate([np.ones(n), weight, weight]), (rows, cols)), shape=(n, n))
    return sparse.csr_matrix(sparse.diags(1.0 / (weights @ size)) @ weights)
