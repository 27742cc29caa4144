"""Gene expression from H&E slides by retrieval from a growing reference of spatial transcriptomics.

Public names load on first use, so that ``import mclstexp`` costs nothing (PEP 562).
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

try:
    __version__ = version("mclstexp")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_PUBLIC = {
    "Filter": "mclstexp.index.filter",
    "FeatureModel": "mclstexp.index.adapters",
    "GenePanel": "mclstexp.panel",
    "MclstexpError": "mclstexp.errors",
    "MclstexpWarning": "mclstexp.errors",
    "Model": "mclstexp.model.model",
    "Prediction": "mclstexp.predict.prediction",
    "PatchEncoder": "mclstexp.index.adapters",
    "ProgressBar": "mclstexp.progress",
    "Reference": "mclstexp.index.reference",
    "Slide": "mclstexp.slide",
    "SpotTable": "mclstexp.slide",
    "Workers": "mclstexp.index.cluster.workers",
    "export": "mclstexp.outputs.export",
    "find_slides": "mclstexp.data.readers",
    "read_features": "mclstexp.data.tile_features",
    "read_query": "mclstexp.data.positions.query",
    "read_slides": "mclstexp.data.readers",
    "report": "mclstexp.outputs.report",
    "train": "mclstexp.train",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mclstexp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps a public function where importing the module of its name, `mclstexp.train`, would put the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        own = name in _PUBLIC and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if own else value)


sys.modules[__name__].__class__ = _Package
