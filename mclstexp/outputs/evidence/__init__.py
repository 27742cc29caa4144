"""Why a spot was predicted as it was: its neighbours in words and numbers, and their patches on a sheet.

Names load on first use: words and numbers need no matplotlib.
"""

from importlib import import_module
from typing import Any

_HOMES = {"SpotEvidence": "spot", "evidence_sheet": "sheet", "spot_evidence": "spot"}

__all__ = ["SpotEvidence", "evidence_sheet", "spot_evidence"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
