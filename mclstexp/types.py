"""Aliases that signatures share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
"""Float32 array."""

HalfArray = NDArray[np.float16]
"""Float16 array."""

IdArray = NDArray[np.int64]
"""Int64 array of ids, positions or numbers."""

BoolArray = NDArray[np.bool_]
"""Truth by position."""

StrPath = str | os.PathLike[str]
"""A path as users give it."""

EncoderWeights = StrPath | Sequence[StrPath]
"""Weights as users give them: a file, ``pretrained`` or ``random`` for each encoder, a word alone for all of them."""

Device = Literal["auto", "cpu", "cuda"]
"""Where to compute; ``auto`` takes a GPU when there is one."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how many of its parts are done, and how many there are."""
