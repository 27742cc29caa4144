"""FAISS on the CPU: inverted files, memory-mapped, and the rows that are in none of them exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mclstexp.index.search import pieces
from mclstexp.index.search.exact import ExactBackend
from mclstexp.index.search.ivf import EXACT_ROWS
from mclstexp.index.search.pieces import LoadedPiece
from mclstexp.types import BoolArray, FloatArray, IdArray


class FaissBackend:
    """Inverted files over most rows.

    Parameters
    ----------
    keys
        ``(n_ids, d)`` float32 keys whose row is the spot's id.
    parts
        Inverted files that share their lists and no row.
    outside
        ``(n_ids,)`` truth by id: rows that lie in none of them.
    """

    certain = False
    most = 2**62
    least = EXACT_ROWS

    def __init__(self, keys: FloatArray, parts: Sequence[LoadedPiece], outside: BoolArray) -> None:
        self.name = f"faiss {parts[0].piece.kind} on the CPU"
        self.pieces = list(parts)
        self.outside = outside
        self._exact = ExactBackend(keys)

    def candidates(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        """Search the lists of every piece, more of them where less is allowed, and the rows outside exactly."""
        held = sum(len(loaded) for loaded in self.pieces)
        nprobe = int(np.ceil(self.pieces[0].piece.nprobe * max(1.0, held / max(n_allowed, 1))))
        found = [pieces.search(self.pieces, query, k, nprobe=nprobe, allowed=allowed)]
        rest = self.outside & allowed
        if rest.any():
            found.append(self._exact.candidates(query, k, rest, int(rest.sum())))
        return pieces.best_of(found, k)
