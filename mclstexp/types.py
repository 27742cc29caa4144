"""Aliases that signatures share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
"""Float32 array."""

BoolArray = NDArray[np.bool_]

IdArray = NDArray[np.int64]

Device = Literal["auto", "cpu", "cuda"]

StrPath = str | os.PathLike[str]
"""A path, as text or as a path object."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("reading slides"), how many are done, and how many there are."""
