"""Where to compute."""

from __future__ import annotations

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
