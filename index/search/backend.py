"""What finds candidates. Whoever finds them, they are scored again exactly (`spot_index`)."""

from __future__ import annotations

from typing import Literal, Protocol

from mclstexp.types import BoolArray, FloatArray, IdArray

Search = Literal["faiss", "lancedb", "exact"]
"""Names of the backends that a user may ask for; ``faiss`` runs on the GPU where there is one."""


class Backend(Protocol):
    """Finds candidates for the nearest spots.

    Attributes
    ----------
    name
        For people, such as "faiss ivf-sq8 on the CPU".
    certain
        Whether the similarities are those of every allowed spot up to rounding, so that nothing is overlooked.
    most
        The largest number of candidates that it can be asked for.
    least
        Number of allowed spots up to which comparing with every key is as quick, and takes its place.
    """

    name: str
    certain: bool
    most: int
    least: int

    def candidates(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        """Return the ids and approximate similarities of about k near spots, both ``(n_query, m)``; -1 pads ids.

        Parameters
        ----------
        query
            ``(n_query, d)`` float32 of unit length.
        allowed
            ``(n_ids,)`` truth by id: which spots may be found.
        n_allowed
            Number of those.
        """
        ...
