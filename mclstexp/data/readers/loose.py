"""Files that look like slides but lie in no layout: what to say of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mclstexp.data.images import IMAGE_SUFFIXES
from mclstexp.text import some

_COUNTS = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".txt", ".txt.gz", ".h5", ".hdf5", ".mtx", ".mtx.gz")
_COORDS = ("selection", "coord", "position", "spot")


def loose_files(folder: Path, depth: int) -> str:
    """Say what lies there instead, and how a ``slides.csv`` can name it; "" for an empty folder.

    Parameters
    ----------
    folder
        Folder in which no slide was found.
    depth
        How many folders deep to look.
    """
    files = list(_files(folder, depth))
    if not files:
        return "; there is no file"
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    tables = [path for path in files if path.name.lower().endswith(_COUNTS)]
    coords = [path for path in tables if any(word in path.name.lower() for word in _COORDS)]
    counts = [path for path in tables if path not in coords]
    if not counts or not coords:
        return f"; its files are {some((path.name for path in files), 4)}"
    first = counts[0]
    slide = first.name.split(".")[0]
    cells = [slide, *(_named(paths, slide, folder) for paths in (counts, coords, images))]
    return (
        f"; its files ({some((path.name for path in files), 4)}) look like slides outside the folders of their layout: "
        f"write {folder / 'slides.csv'} with the columns slide,counts,coords,image and a line a slide, such as "
        f"{','.join(cells)}"
    )


def _files(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and depth > 0:
            yield from _files(path, depth - 1)


def _named(paths: list[Path], slide: str, folder: Path) -> str:
    """Return the path that belongs to the slide by its name, else the only one, else nothing."""
    own = [path for path in paths if path.name.startswith(slide)]
    chosen = own[0] if own else paths[0] if len(paths) == 1 else None
    return chosen.relative_to(folder).as_posix() if chosen is not None else ""
