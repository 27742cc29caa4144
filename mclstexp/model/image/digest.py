"""Digests of weights, without torch: a query whose features are kept needs the encoder's name, not the encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = "backbone."
"""What the names of the encoder's arrays begin with; with several backbones a number and a dot follow."""


def prefixes(n_members: int) -> list[str]:
    """Return what the names of each backbone's arrays begin with."""
    return [PREFIX] if n_members == 1 else [f"{PREFIX}{place}." for place in range(n_members)]


def member_digests(arrays: Mapping[str, NDArray[Any]], n_members: int) -> list[str]:
    """Return each backbone's digest from a model's saved arrays."""
    return [
        state_digest({name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)})
        for prefix in prefixes(n_members)
    ]


def state_digest(state: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over named arrays: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
