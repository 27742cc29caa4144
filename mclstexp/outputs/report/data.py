"""What a page holds of one prediction, as JSON values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mclstexp.outputs.columns import SPOT_COLUMNS
from mclstexp.outputs.images import view_of
from mclstexp.outputs.origin import reference_at_hand
from mclstexp.outputs.report.evidence import page_evidence
from mclstexp.outputs.report.pack import base64_text, numbers, packed, packed_genes
from mclstexp.outputs.report.patches import page_patches
from mclstexp.outputs.report.pictures import slide_picture
from mclstexp.predict.prediction import Prediction
from mclstexp.predict.weights import EVEN
from mclstexp.types import FloatArray, Progress, StrPath

_SHOWN_SETTINGS = ("panel_genes", "notes", "leakage", "command")


@dataclass(frozen=True)
class PageOptions:
    """How much a page holds: longer side of a slide's picture in pixels, and the most patches of a prediction."""

    image_px: int
    patches: int
    reference: StrPath | None = None
    on_progress: Progress | None = None
    storage_options: Mapping[str, str] | None = field(default=None, repr=False)


def prediction_data(prediction: Prediction, name: str, folder: Path, options: PageOptions) -> dict[str, Any]:
    """Return everything that a page shows of a prediction.

    Parameters
    ----------
    prediction
        The prediction.
    name
        What the page calls it.
    folder
        Folder of its file, from which relative paths are tried.
    options
        How much is kept.
    """
    picture = slide_picture(prediction, folder, options.image_px)
    layers = gene_layers(prediction)
    return {
        **described(prediction, name),
        "size": [round(side, 2) for side in picture.size_px],
        "image": {"kind": "jpeg", "data": base64_text(picture.jpeg), "origin": picture.origin},
        "genes": {
            "symbols": list(prediction.genes.symbols),
            "layers": list(layers),
            **packed_genes(list(layers.values())),
        },
        **_evidence(prediction, folder, options),
    }


def described(prediction: Prediction, name: str) -> dict[str, Any]:
    """Return what a page holds of a prediction apart from its genes' values, its picture and its neighbours."""
    settings = prediction.settings
    return {
        "name": name,
        "slide": prediction.slide_id,
        "scale": prediction.scale,
        "mpp": prediction.mpp,
        "diameter": float(prediction.spot_diameter_px),
        "fov_um": view_of(prediction).side_um,
        "even": EVEN,
        "interval_level": settings.get("interval_level"),
        "spots": {
            "ids": prediction.spot_ids.tolist(),
            "x": packed(prediction.xy_px[:, 0], "f4"),
            "y": packed(prediction.xy_px[:, 1], "f4"),
        },
        "reliability": _of_genes(prediction, "reliability"),
        "reasons": [str(reason) for reason in prediction.var.get("missing_reason", [])],
        "ensembl": list(prediction.genes.ensembl),
        "obs": _obs(prediction),
        "run": {
            "command": str(settings.get("command", "")),
            "notes": list(prediction.notes),
            "about": _about(prediction),
            "settings": _text({key: value for key, value in settings.items() if key not in _SHOWN_SETTINGS}),
        },
    }


def gene_layers(prediction: Prediction) -> dict[str, FloatArray]:
    """Return the ``(n, G)`` layers that a page holds of each gene: the mean, and the interval or else the spread."""
    layers = {"mean": prediction.mean}
    if prediction.lower is not None and prediction.upper is not None:
        return {**layers, "lower": prediction.lower, "width": prediction.upper - prediction.lower}
    return layers if prediction.sd is None else {**layers, "sd": prediction.sd}


def _of_genes(prediction: Prediction, column: str) -> list[float | None]:
    values = prediction.var.get(column)
    return [] if values is None else numbers(np.asarray(values))


def _obs(prediction: Prediction) -> list[dict[str, Any]]:
    """Return every numeric column of the spots, those that have a name for people first."""
    columns = {name: np.asarray(values) for name, values in prediction.obs.items()}
    order = [
        *(name for name in SPOT_COLUMNS if name in columns),
        *(name for name in columns if name not in SPOT_COLUMNS),
    ]
    rows = []
    for name in order:
        if columns[name].dtype.kind not in "fiu":
            continue
        title, unit = SPOT_COLUMNS.get(name, (name, ""))
        label = title.capitalize() if name in SPOT_COLUMNS else title
        rows.append({"name": name, "label": label, "unit": unit, "values": packed(columns[name], "f4")})
    return rows


def _about(prediction: Prediction) -> list[tuple[str, str]]:
    """Return the rows of "what was run"."""
    settings = prediction.settings
    retrieval: Mapping[str, Any] = settings.get("retrieval", {})
    patch: Mapping[str, Any] = settings.get("patch", {})
    encoder: Mapping[str, Any] = settings.get("encoder", {})
    size = f"{prediction.mpp:.4g} um a pixel, from {settings.get('mpp_source', 'unknown')}" if prediction.mpp else ""
    rows = {
        "Slide": prediction.slide_id,
        "Image": str(settings.get("image", "")),
        "Pixel size": size or "unknown",
        "Reference": str(settings.get("reference", "")),
        "Version of the reference": str(settings.get("reference_version", "")),
        "Model": str(settings.get("model", ""))[:16],
        "Recipe": str(settings.get("recipe", "")),
        "Encoder": str(encoder.get("name", "")),
        "Patch": f"{patch['size_px']} px at {patch.get('mpp')} um" if "size_px" in patch else "",
        "Neighbours": f"{retrieval['k']}, weighed by {retrieval.get('weights')}" if "k" in retrieval else "",
        "Left out": _left_out(settings.get("filter") or {}),
        "Level of the slide from": str(settings.get("level", "")),
        "Scale": prediction.scale,
    }
    return [(key, value) for key, value in rows.items() if value]


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)


def _left_out(condition: Mapping[str, Any]) -> str:
    words = [f"{key.replace('_', ' ')}: {_listed(value)}" for key, value in condition.items() if value]
    return "; ".join(words)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _evidence(prediction: Prediction, folder: Path, options: PageOptions) -> dict[str, Any]:
    evidence = page_evidence(prediction)
    if evidence is None:
        return {"neighbours": None, "patches": None, "patches_note": ""}
    reference, why = None, "no patches were asked for"
    if options.patches:
        reference, why = reference_at_hand(
            prediction, options.reference, beside=folder, storage_options=options.storage_options
        )
    fov_um = view_of(prediction).side_um
    if reference is None or fov_um is None:
        why = why or "the size of its patches in um is unknown"
        return {"neighbours": evidence.to_json(), "patches": None, "patches_note": why}
    patches = page_patches(evidence, reference, fov_um, most=options.patches, on_progress=options.on_progress)
    return {"neighbours": evidence.to_json(), "patches": patches.to_json(), "patches_note": ""}
