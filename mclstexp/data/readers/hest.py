"""HEST-1k as published: ``st/ID.h5ad``, ``wsis/ID.tif``, ``metadata/ID.json`` and the table ``HEST_v*.csv``.

Names and columns are those of the dataset MahmoodLab/hest and of its table (github.com/mahmoodlab/HEST, ``assets/``).
Xenium and Visium HD samples come pooled in ``st/``, so the ``inter_spot_dist`` of their technology is none of theirs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mclstexp.data.assemble import PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.images.pixels import plausible_mpp
from mclstexp.data.paths import read_json
from mclstexp.data.readers import h5ad
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.data.tables import read_table
from mclstexp.errors import InputError
from mclstexp.slide import Slide

NAME = "hest"
LOOKS_FOR = "HEST-1k's st/ with wsis/, metadata/ or HEST_v*.csv"

_PRINTED = ("visium", "spatial transcriptomics")
"""Technologies whose spots are those of the slide; the others' were pooled."""

_SAID = ("organ", "tissue", "disease_state", "oncotree_code", "species", "st_technology", "preservation_method")


def matches(path: Path) -> bool:
    """Whether the path is the dataset's folder, its ``st/``, or one file in it."""
    return _root(path) is not None


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the samples, each named by its id.

    Raises
    ------
    InputError
        When the table is damaged or has no column id.
    """
    root = _root(path) or path
    files = [path] if path.is_file() else sorted((root / "st").glob("*.h5ad"))
    rows = read_catalogue(root)
    return [SlideSource(file.stem, NAME, partial(_read, file, root, rows.get(file.stem, {}))) for file in files]


def read_catalogue(root: Path) -> dict[str, dict[str, str]]:
    """Read the newest ``HEST_v*.csv`` of a folder, a row by its id; empty where there is none.

    Raises
    ------
    InputError
        When it is damaged or has no column id.
    """
    tables = list(root.glob("HEST_v*.csv"))
    if not tables:
        return {}
    newest = max(tables, key=lambda path: version_of(path.name))
    frame = read_table(newest)
    if "id" not in frame.columns:
        raise InputError(f"{newest} has no column 'id': it is no table of HEST-1k.")
    return {str(row["id"]): {str(k): str(v).strip() for k, v in row.items()} for row in frame.to_dict("records")}


def version_of(name: str) -> tuple[int, ...]:
    """Return the version in a table's name.

    Examples
    --------
    >>> version_of("HEST_v1_1_0.csv")
    (1, 1, 0)
    """
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _root(path: Path) -> Path | None:
    inside = path.parent if path.is_file() and path.suffix.lower() == ".h5ad" else path
    root = inside.parent if inside.name == "st" else inside
    if path.is_file() and inside.name != "st":
        return None
    signs = (root / "wsis").is_dir() or (root / "metadata").is_dir() or any(root.glob("HEST_v*.csv"))
    return root if signs and any((root / "st").glob("*.h5ad")) else None


def _read(path: Path, root: Path, row: dict[str, str], size: PixelSize) -> Slide:
    draft = h5ad.read(path, path.stem)
    facts: dict[str, Any] = {**row, **_metadata(root / "metadata" / f"{path.stem}.json")}
    image_path = find_image(root / "wsis", path.stem) or find_image(path.parent, path.stem)
    pitch = h5ad.number_of(facts.get("inter_spot_dist"))
    if pitch and str(facts.get("st_technology", "")).lower() in _PRINTED:
        draft = replace(draft, coords=replace(draft.coords, pitch_um=pitch))
    draft = replace(
        draft,
        layout=NAME,
        image=open_image(image_path) if image_path else None,
        patient=draft.patient or _text(facts.get("patient")),
        cohort=draft.cohort or _text(facts.get("dataset_title")),
        stated_mpp=plausible_mpp(h5ad.number_of(facts.get("pixel_size_um_estimated"))) or draft.stated_mpp,
        sources=(*draft.sources, *([image_path] if image_path else [])),
        extra={**draft.extra, **{key: _text(facts.get(key)) for key in _SAID if _text(facts.get(key))}},
        without_image="no image in wsis/: counts only.",
    )
    return build_slide(draft, size)


def _text(value: object) -> str:
    """Return a cell as text, "" for what tables and JSON have where nothing is known."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in ("nan", "none") else text


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values = read_json(path, "Metadata")
    return values if isinstance(values, dict) else {}
