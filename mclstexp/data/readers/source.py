"""A slide that was discovered but not read yet, and the search for its image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mclstexp.data.assemble import PixelSize
from mclstexp.data.images import IMAGE_SUFFIXES, is_image_folder
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import some

_NOT_FULL_RESOLUTION = ("hires", "lowres", "aligned", "detected_tissue", "fiducial", "cytassist", "thumbnail", "mask")


@dataclass(frozen=True)
class SlideSource:
    """Where a slide is, and how to read it.

    Attributes
    ----------
    slide_id, layout
        As in ``Slide``.
    load
        Reads the slide; takes what the user said of the pixel size.
    pictured
        False where the names of the files tell that there is no image.
    """

    slide_id: str
    layout: str
    load: Callable[[PixelSize], Slide]
    pictured: bool = True


def find_image(folder: Path, stem: str | None = None) -> Path | None:
    """Find the full-resolution image in a folder, or None: a file, or the folder of an OME-Zarr or of DICOM files.

    Parameters
    ----------
    folder
        Folder to look in, not below it.
    stem
        Only what has this name before the suffix (``A1.tif``, ``A1.ome.tif``, ``A1.zarr``, a folder ``A1`` of DICOM).

    Raises
    ------
    InputError
        When several files could be it.
    """
    if not folder.is_dir():
        return None
    images = [path for path in sorted(folder.iterdir()) if _is_image(path)]
    if stem is not None:
        images = [path for path in images if path.name == stem or path.name.startswith(f"{stem}.")]
    else:
        images = [path for path in images if not any(word in path.name.lower() for word in _NOT_FULL_RESOLUTION)]
        named = [path for path in images if path.stem.lower() == "image" or path.stem.lower().endswith("_image")]
        images = named or images or ([folder] if is_image_folder(folder) else [])
    if len(images) > 1:
        names = some(path.name for path in images)
        raise InputError(f"{folder} has several images ({names}); keep one, or name it in slides.csv.")
    return images[0] if images else None


def _is_image(path: Path) -> bool:
    return is_image_folder(path) or (path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES)
