"""A slide that was found but not read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mclstexp.data.images import IMAGE_SUFFIXES
from mclstexp.errors import InputError
from mclstexp.slide import Slide

_NOT_FULL_RESOLUTION = ("hires", "lowres", "aligned", "detected_tissue", "fiducial", "cytassist", "thumbnail", "mask")


@dataclass(frozen=True)
class SlideSource:
    """Where a slide was found, and how to read it.

    Attributes
    ----------
    slide_id, layout
        As in ``Slide``.
    load
        Reads the slide; takes the pixel size in um that the user gave, or None.
    """

    slide_id: str
    layout: str
    load: Callable[[float | None], Slide]


def find_image(folder: Path, stem: str | None = None) -> Path | None:
    """Find the full-resolution image in a folder, or None.

    Parameters
    ----------
    folder
        Folder to look in, not below it.
    stem
        Only files of this name before the suffix (``A1.tif``, ``A1.ome.tif``).

    Raises
    ------
    InputError
        When several files could be it.
    """
    if not folder.is_dir():
        return None
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    if stem is not None:
        found = [path for path in found if path.name.startswith(f"{stem}.")]
    else:
        found = [path for path in found if not any(word in path.name.lower() for word in _NOT_FULL_RESOLUTION)]
        named = [path for path in found if path.stem.lower() == "image" or path.stem.lower().endswith("_image")]
        found = named or found
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder} has several images ({names}); keep one, or name it in slides.csv.")
    return found[0] if found else None
