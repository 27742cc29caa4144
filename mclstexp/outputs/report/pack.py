"""Arrays as text in a page: quantised, compressed and in base64; the page decodes what it shows."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.types import FloatArray

STEPS = 254
"""Steps between the lowest and the highest value of a gene; the code after the last step stands for NaN."""

_TYPES = {"f4": np.dtype("<f4"), "i4": np.dtype("<i4")}


def base64_text(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode("ascii")


def compressed(data: bytes) -> str:
    """Return bytes compressed, in base64; the same text for the same bytes."""
    return base64_text(gzip.compress(data, compresslevel=6, mtime=0))


def packed(values: NDArray[Any], kind: str) -> dict[str, str]:
    """Return an array of float32 (``f4``) or int32 (``i4``) as the page unpacks it."""
    return {"type": kind, "data": compressed(np.ascontiguousarray(values, dtype=_TYPES[kind]).tobytes())}


def packed_text(values: Sequence[str]) -> dict[str, str]:
    """Return strings as the page unpacks them."""
    return {"type": "json", "data": compressed(json.dumps(list(values)).encode())}


def quantised(values: FloatArray) -> tuple[NDArray[np.uint8], FloatArray, FloatArray]:
    """Divide each column's range into `STEPS` equal steps.

    Parameters
    ----------
    values
        ``(n, G)`` float32, NaN where unknown.

    Returns
    -------
    ``(n, G)`` uint8 codes, ``(G,)`` lowest and ``(G,)`` highest values (0 where a column has none). A value is off by
    at most half a step.
    """
    known = np.isfinite(values)
    low = np.where(known, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, values, -np.inf).max(axis=0, initial=-np.inf)
    low, high = (np.where(np.isfinite(end), end, 0).astype(np.float32) for end in (low, high))
    span = np.where(high > low, high - low, 1).astype(np.float32)
    steps = np.rint((np.where(known, values, low) - low) / span * STEPS)
    return np.where(known, steps, STEPS + 1).astype(np.uint8), low, high


def packed_genes(layers: Sequence[FloatArray]) -> dict[str, Any]:
    """Return layers ``(n, G)`` gene by gene: one compressed text a gene holds its column of every layer."""
    parts = [quantised(layer) for layer in layers]
    blocks = np.stack([codes.T for codes, _, _ in parts], axis=1)  # (G, layers, n)
    return {
        "values": [compressed(np.ascontiguousarray(block).tobytes()) for block in blocks],
        "low": [numbers(low) for _, low, _ in parts],
        "high": [numbers(high) for _, _, high in parts],
    }


def numbers(values: NDArray[Any]) -> list[float | None]:
    """Return JSON numbers of at most six digits; null where a value is not finite."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=np.float64)]
