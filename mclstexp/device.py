"""Where to compute."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import TYPE_CHECKING

from mclstexp.errors import InputError
from mclstexp.types import Device

if TYPE_CHECKING:
    import torch


def resolve_device(name: Device) -> torch.device:
    """Return the device to compute on; ``auto`` takes a GPU when torch sees one.

    Raises
    ------
    InputError
        When a GPU is asked for and there is none, or the name is none of ``auto``, ``cpu`` and ``cuda``.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"Device {name!r} does not exist; auto, cpu or cuda is needed.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("Device cuda was asked for, but torch sees no GPU here; use --device auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@cache
def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, up to half a GiB, and say whether that could be done.

    A forward pass on the CPU allocates and frees maps of many MB a layer. glibc gives each back to the system, which
    hands it out again page by page, zeroed. Kept, lite0 encodes 1.4 times as many patches (benchmarks/encoding.py).
    It is done once a process, where the C library is glibc; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, 1 << 29))
