"""A prediction of some of its genes, names that other formats accept, and libraries that may be absent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mclstexp.errors import InputError
from mclstexp.notes import warn
from mclstexp.panel import GenePanel

if TYPE_CHECKING:
    from mclstexp.predict.prediction import Prediction

LAYERS = ("mean", "sd", "lower", "upper", "retrieved")
"""Values that a prediction may hold of every spot and gene; ``mean`` is always there."""


def with_genes(prediction: Prediction, genes: Sequence[str] | None) -> Prediction:
    """Return the prediction with the given genes only, in their order; None keeps all.

    Raises
    ------
    InputError
        For a gene that was not predicted.
    """
    if genes is None:
        return prediction
    columns = list(dict.fromkeys(_column(prediction.genes, name) for name in genes))
    if not columns:
        raise InputError("No gene is named; name some, or leave the genes out for all.")
    layers: dict[str, Any] = {name: getattr(prediction, name) for name in LAYERS}
    changes: dict[str, Any] = {name: None if values is None else values[:, columns] for name, values in layers.items()}
    changes["genes"] = prediction.genes.subset(columns)
    changes["var"] = {name: np.asarray(values)[columns] for name, values in prediction.var.items()}
    return replace(prediction, **changes)


def _column(panel: GenePanel, name: str) -> int:
    column = panel.find(name)
    if column is None:
        near = ", ".join(panel.near(name))
        raise InputError(
            f"Gene {name!r} is not in the prediction{f'; near: {near}' if near else ''}; "
            f"it has {len(panel):,} genes, and mst query --genes predicts others."
        )
    return column


def layer_values(prediction: Prediction, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Return ``(n, G)`` float32 values by layer, in the order asked for.

    Raises
    ------
    InputError
        For a layer that there is not, or that this prediction lacks.
    """
    values = {}
    for name in layers:
        if name not in LAYERS:
            raise InputError(f"There is no layer {name!r}; layers are {', '.join(LAYERS)}.")
        if getattr(prediction, name) is None:
            present = [layer for layer in LAYERS if getattr(prediction, layer) is not None]
            raise InputError(f"The prediction has no layer {name!r}; it has {', '.join(present)}.")
        values[name] = getattr(prediction, name)
    return values


def element_name(slide_id: str) -> str:
    """Return a slide's name as SpatialData and Zarr accept it: letters, digits, ``_``, ``-`` and ``.``; say so."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", slide_id)
    if not re.match(r"[A-Za-z0-9]", name) or name.startswith("__"):
        name = f"slide{name}" if name.startswith(("_", "-", ".")) else f"slide_{name}"
    if name != slide_id:
        warn(f"SpatialData has names of letters, digits, _, - and . only: slide {slide_id!r} is called {name!r} there.")
    return name


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a library that is not installed with the package.

    Raises
    ------
    InputError
        When it is absent; says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f'{what} needs {module.split(".")[0]} ({error}); install it with: pip install "mclstexp[{extra}]"'
        ) from error
