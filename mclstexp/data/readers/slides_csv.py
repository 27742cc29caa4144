"""``slides.csv``: a table that names everything explicitly, one slide a row."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.positions.files import CoordsColumns, parse_coords
from mclstexp.data.readers import h5ad, space_ranger
from mclstexp.data.readers.matrices import read_counts
from mclstexp.data.readers.source import SlideSource
from mclstexp.data.tables import is_number, read_table
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import duplicates

LAYOUT = "slides_csv"
FILE_NAME = "slides.csv"
METADATA_NAME = "metadata.csv"

_KNOWN = ("slide", "patient", "cohort", "counts", "image", "coords", "mpp", "technology", "pitch_um")


def find(path: Path) -> list[SlideSource]:
    """List the rows of a ``slides.csv``; its paths are relative to it.

    Raises
    ------
    InputError
        When it lacks the columns slide and counts, names a slide twice, or has no row.
    """
    rows = _rows(path, ("slide", "counts"))
    return [SlideSource(row["slide"], LAYOUT, partial(_read, path, row)) for row in rows]


def read_metadata(folder: Path) -> dict[str, dict[str, str]]:
    """Read ``metadata.csv`` (slide, and patient, cohort or mpp) of a folder whose layout does not say them, if any."""
    path = folder / METADATA_NAME
    if not path.is_file():
        return {}
    return {row["slide"]: row for row in _rows(path, ("slide",))}


def number(row: dict[str, str], name: str, path: Path) -> float | None:
    """Return a cell as a number, or None where it is empty or there is no such column.

    Raises
    ------
    InputError
        When it is no positive number.
    """
    text = row.get(name, "")
    if not text:
        return None
    if not is_number(text) or not float(text) > 0:
        raise InputError(f"{path.name}: slide {row['slide']} has {name} {text!r}, not a positive number.")
    return float(text)


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    frame = read_table(path)
    frame.columns = [str(name).strip().lower() for name in frame.columns]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}; it needs {', '.join(needed)}.")
    rows = [{str(key): str(value).strip() for key, value in row.items()} for row in frame.to_dict("records")]
    if not rows:
        raise InputError(f"{path} names no slides.")
    unnamed = sum(not row["slide"] for row in rows)
    if unnamed:
        raise InputError(f"{path}: {unnamed} rows have no slide.")
    repeated = duplicates(row["slide"] for row in rows)
    if repeated:
        raise InputError(f"{path} names slide {repeated[0]!r} more than once.")
    return rows


def _read(path: Path, row: dict[str, str], mpp: float | None) -> Slide:
    name = row["slide"]
    draft = _parts(path, row)
    if row.get("image"):
        image_path = _resolve(path, row, "image")
        draft = replace(draft, image=open_image(image_path), sources=(*draft.sources, image_path))
    pitch = _pitch(path, row)
    if pitch is not None:
        draft = replace(draft, coords=replace(draft.coords, pitch_um=pitch))
    notes = tuple(note for note in draft.notes if draft.image is None or "counts only" not in note)
    if draft.image is None and not any("counts only" in note for note in notes):
        notes = (*notes, "no image: counts only.")
    draft = replace(
        draft,
        slide_id=name,
        layout=LAYOUT,
        patient=row.get("patient") or draft.patient,
        cohort=row.get("cohort") or draft.cohort,
        notes=notes,
        extra={**draft.extra, **{key: value for key, value in row.items() if key not in _KNOWN and value}},
    )
    own = number(row, "mpp", path)
    return build_slide(draft, mpp=mpp if mpp is not None else own)


def _parts(path: Path, row: dict[str, str]) -> Draft:
    name = row["slide"]
    if not row["counts"]:
        raise InputError(f"{path.name}: slide {name} has no counts.")
    counts_path = _resolve(path, row, "counts")
    coords_path = _resolve(path, row, "coords") if row.get("coords") else None
    pitch = _pitch(path, row)
    coords = parse_coords(coords_path, CoordsColumns(pitch_um=pitch)) if coords_path else None
    more = (coords_path,) if coords_path else ()
    if counts_path.suffix.lower() == ".h5ad":
        draft = h5ad.read_file(counts_path, name, coords=coords)
        return replace(draft, sources=(*draft.sources, *more))
    if counts_path.is_dir() and not list(counts_path.glob("*matrix.mtx*")):
        draft = space_ranger.read_folder(counts_path, name)
        return replace(draft, coords=coords or draft.coords, sources=(*draft.sources, *more))
    if coords is None:
        raise InputError(f"{path.name}: slide {name} has no coordinates; name their file in the column coords.")
    return Draft(name, LAYOUT, coords, counts=read_counts(counts_path), sources=(counts_path, *more))


def _resolve(path: Path, row: dict[str, str], column: str) -> Path:
    found = path.parent / row[column]
    if not found.exists():
        raise InputError(
            f"{path.name}: slide {row['slide']}: {column} {row[column]!r} does not exist in {path.parent}."
        )
    return found


def _pitch(path: Path, row: dict[str, str]) -> float | None:
    own = number(row, "pitch_um", path)
    return own if own is not None else h5ad.TECHNOLOGY_PITCH_UM.get(row.get("technology", "").lower())
