"""Aliases that signatures share."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
"""Float32 array."""

Device = Literal["auto", "cpu", "cuda"]

BoolArray = NDArray[np.bool_]

IdArray = NDArray[np.int64]
