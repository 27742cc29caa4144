"""What a user names to be queried: images with their coordinates or without, folders of images, lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mclstexp.data.images import IMAGE_SUFFIXES
from mclstexp.data.tables import is_number, read_table
from mclstexp.errors import InputError
from mclstexp.text import duplicates, some

TABLES = tuple(f"{suffix}{packed}" for suffix in (".csv", ".tsv", ".txt", ".parquet") for packed in ("", ".gz"))
"""File names of coordinates and of lists of slides."""

PICTURE = ".tissue.png"
"""What the picture of a slide's grid is called, after the slide: no slide itself."""

LIST = "slides.csv"
"""A list of slides that speaks for its folder."""

_COLUMNS = ("image", "slide", "coords", "mpp", "patient", "regions")
_SLIDE_FOLDERS = (".zarr",)
"""Folders that are one slide; those of DICOM files are, too."""


@dataclass(frozen=True)
class QueryInput:
    """One slide to query, not opened yet.

    Attributes
    ----------
    name
        Name of the slide, and of what is written.
    image
        Its image.
    coords
        File of its coordinates, or None: a grid is laid over its tissue.
    mpp, patient, regions
        Pixel size in um, patient, and GeoJSON of regions, where a list says them.
    """

    name: str
    image: Path
    coords: Path | None = None
    mpp: float | None = None
    patient: str = ""
    regions: Path | None = None


@dataclass(frozen=True)
class QueryInputs:
    """Every slide that was named, and whether outputs go into a folder: more than one slide, a folder or a list."""

    slides: tuple[QueryInput, ...]
    several: bool


def find_inputs(paths: Sequence[Path]) -> QueryInputs:
    """Tell images, coordinates, folders and lists apart by their names; nothing is opened but lists.

    A table after an image holds its coordinates, and a table alone is a list of slides with a column ``image`` and,
    where needed, ``slide``, ``coords``, ``mpp``, ``patient`` and ``regions``, its paths relative to it. A folder stands
    for the images in it, each with the table of its name (``S1.svs``, ``S1.csv``), or for the ``slides.csv`` in it.

    Raises
    ------
    InputError
        When a folder holds no image, a list lacks its column, or two slides would have one name.
    """
    found: list[QueryInput] = []
    several = False
    last: Path | None = None
    for path in paths:
        if last is not None and not _is_image(path):
            found[-1] = replace(found[-1], coords=path)
            last = None
        elif _is_folder(path):
            found, several, last = [*found, *_in_folder(path)], True, None
        elif path.name.lower().endswith(TABLES):
            found, several, last = [*found, *_in_list(path)], True, None
        else:
            found.append(QueryInput(_stem(path), path))
            last = path
    _check_names(found)
    return QueryInputs(tuple(found), several or len(found) > 1)


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(IMAGE_SUFFIXES) or path.suffix.lower() in _SLIDE_FOLDERS or path.is_dir()


def _is_folder(path: Path) -> bool:
    """Whether a folder holds slides, and is not one: OME-Zarr and DICOM slides are folders."""
    if not path.is_dir() or path.suffix.lower() in _SLIDE_FOLDERS:
        return False
    return not any(inner.suffix.lower() == ".dcm" for inner in path.iterdir())


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _in_folder(folder: Path) -> list[QueryInput]:
    if (folder / LIST).is_file():
        return _in_list(folder / LIST)
    images = [path for path in sorted(folder.iterdir()) if _is_slide(path)]
    if not images:
        files = [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        what = f"its files are {some(files, 4)}" if files else "it is empty"
        raise InputError(f"{folder} holds no slide image ({', '.join(IMAGE_SUFFIXES[:4])}, ...); {what}.")
    return [QueryInput(_stem(path), path, _beside(path)) for path in images]


def _is_slide(path: Path) -> bool:
    name = path.name.lower()
    if name.startswith(".") or name.endswith(PICTURE):
        return False
    return name.endswith((*IMAGE_SUFFIXES, *_SLIDE_FOLDERS)) or (path.is_dir() and not _is_folder(path))


def _beside(image: Path) -> Path | None:
    """Return the table of an image's name beside it."""
    tables = [image.with_name(f"{_stem(image)}{suffix}") for suffix in TABLES]
    return next((table for table in tables if table.is_file()), None)


def _in_list(path: Path) -> list[QueryInput]:
    frame = read_table(path)
    frame.columns = [str(name).strip().lower() for name in frame.columns]
    if "image" not in frame.columns:
        raise InputError(
            f"{path} has no column 'image', which a list of slides needs ({', '.join(_COLUMNS)}); coordinates go after "
            "their image: mst query slide.tif coords.csv."
        )
    unknown = [name for name in frame.columns if name not in _COLUMNS]
    if unknown:
        raise InputError(f"{path}: columns {some(unknown)} mean nothing here; {', '.join(_COLUMNS)} do.")
    rows = [{str(key): str(value).strip() for key, value in row.items()} for row in frame.to_dict("records")]
    if not rows:
        raise InputError(f"{path} names no slides.")
    return list(_listed(rows, path))


def _listed(rows: list[dict[str, str]], path: Path) -> Iterator[QueryInput]:
    for number, row in enumerate(rows, 1):
        if not row["image"]:
            raise InputError(f"{path}: row {number} has no image.")
        mpp = row.get("mpp", "")
        if mpp and (not is_number(mpp) or not float(mpp) > 0):
            raise InputError(f"{path}: row {number} has mpp {mpp!r}, not a positive number.")
        coords, regions = (path.parent / row[name] if row.get(name) else None for name in ("coords", "regions"))
        image = path.parent / row["image"]
        yield QueryInput(
            row.get("slide") or _stem(image),
            image,
            coords,
            float(mpp) if mpp else None,
            row.get("patient", ""),
            regions,
        )


def _check_names(found: Sequence[QueryInput]) -> None:
    twice = duplicates(one.name for one in found)
    if twice:
        images = [str(one.image) for one in found if one.name == twice[0]]
        raise InputError(
            f"{len(images)} slides would be called {twice[0]!r} ({some(images, 3)}); give them names in the column "
            "slide of a list: mst query slides.csv."
        )
