"""``slides.csv``: a table that names everything explicitly, one slide a row."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.positions.coordinates import naming
from mclstexp.data.positions.files import CoordsColumns, parse_coords
from mclstexp.data.readers import h5ad, space_ranger, transcripts, visium_hd
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.layout import SlidePart
from mclstexp.data.readers.matrices import read_counts
from mclstexp.data.readers.pooling import pool
from mclstexp.data.readers.source import SlideSource
from mclstexp.data.tables import is_number, read_table
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import duplicates

NAME = "slides_csv"
LOOKS_FOR = "slides.csv"

_FILE_NAME = "slides.csv"
_PARTS: tuple[SlidePart, ...] = (h5ad, visium_hd, space_ranger)

_CHOSEN = ("bin_um", "pool_um")
_KNOWN = ("slide", "patient", "cohort", "counts", "image", "coords", "mpp", "technology", "pitch_um", *_CHOSEN)


def matches(path: Path) -> bool:
    """Whether the path is a .csv, or a folder with a ``slides.csv``."""
    if path.is_file():
        return path.suffix.lower() == ".csv" and not transcripts.matches(path)
    return (path / _FILE_NAME).is_file()


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the rows of the table; its paths are relative to it.

    Raises
    ------
    InputError
        When it lacks the columns slide and counts, names a slide twice, or has no row.
    """
    table = path if path.is_file() else path / _FILE_NAME
    rows = read_rows(table, ("slide", "counts"))
    return [SlideSource(row["slide"], NAME, partial(_read, table, row, choices)) for row in rows]


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


def read_rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a table of slides, one a row, its column names in lower case.

    Raises
    ------
    InputError
        When a needed column is missing, a slide has no name or is named twice, or there is no row.
    """
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
        raise InputError(f"{path}: {unnamed} rows have no slide; name it in each.")
    repeated = duplicates(row["slide"] for row in rows)
    if repeated:
        raise InputError(f"{path} names slide {repeated[0]!r} more than once.")
    return rows


def _read(path: Path, row: dict[str, str], choices: Choices, size: PixelSize) -> Slide:
    choices = _chosen(path, row, choices)
    draft = _parts(path, row, choices)
    if row.get("image"):
        image_path = _resolve(path, row, "image")
        draft = replace(draft, image=open_image(image_path), sources=(*draft.sources, image_path))
    pitch = _pitch(path, row)
    if pitch is not None:
        draft = replace(draft, coords=replace(draft.coords, pitch_um=pitch))
    draft = replace(
        draft,
        slide_id=row["slide"],
        layout=NAME,
        patient=row.get("patient") or draft.patient,
        cohort=row.get("cohort") or draft.cohort,
        extra={**draft.extra, **{key: value for key, value in row.items() if key not in _KNOWN and value}},
        without_image="no image: counts only.",
    )
    size = size.or_else(number(row, "mpp", path))
    return build_slide(draft if choices.pool_um is None else pool(draft, choices.pool_um, size), size)


def _chosen(path: Path, row: dict[str, str], choices: Choices) -> Choices:
    """Return what the options chose, and where they left it open, the row's columns ``bin_um`` and ``pool_um``."""
    bins, side = (number(row, name, path) for name in _CHOSEN)
    with naming(f"{path.name}: slide {row['slide']}"):
        if bins is not None and not bins.is_integer():
            raise InputError(f"bin_um is {bins:g}; a whole number is needed.")
        own = Choices(None if bins is None else int(bins), choices.cells, side)
    if bins is not None and row["counts"] and not visium_hd.accepts(path.parent / row["counts"]):
        raise InputError(
            f"{path.name}: slide {row['slide']} has bin_um {bins:g}, and {row['counts']} is no Visium HD folder; leave "
            "the cell empty."
        )
    return replace(
        choices,
        bin_um=own.bin_um if choices.bin_um is None else choices.bin_um,
        pool_um=own.pool_um if choices.pool_um is None else choices.pool_um,
    )


def _parts(path: Path, row: dict[str, str], choices: Choices) -> Draft:
    name = row["slide"]
    if not row["counts"]:
        raise InputError(f"{path.name}: slide {name} has no counts; name their file in the column counts.")
    counts_path = _resolve(path, row, "counts")
    coords_path = _resolve(path, row, "coords") if row.get("coords") else None
    coords = parse_coords(coords_path, CoordsColumns(pitch_um=_pitch(path, row))) if coords_path else None
    more = (coords_path,) if coords_path else ()
    part = next((part for part in _PARTS if part.accepts(counts_path)), None)
    if part is not None:
        draft = part.read(counts_path, name, coords=coords, choices=choices)
        return replace(draft, sources=(*draft.sources, *more))
    if coords is None:
        raise InputError(f"{path.name}: slide {name} has no coordinates; name their file in the column coords.")
    return Draft(name, NAME, coords, counts=read_counts(counts_path), sources=(counts_path, *more))


def _resolve(path: Path, row: dict[str, str], column: str) -> Path:
    target = path.parent / row[column]
    if not target.exists():
        raise InputError(
            f"{path.name}: slide {row['slide']}: {column} {row[column]!r} does not exist in {path.parent}; correct the "
            "path."
        )
    return target


def _pitch(path: Path, row: dict[str, str]) -> float | None:
    own = number(row, "pitch_um", path)
    return own if own is not None else h5ad.TECHNOLOGY_PITCH_UM.get(row.get("technology", "").lower())
