"""Query slides: an image and a file of coordinates."""

from __future__ import annotations

from pathlib import Path

from mclstexp.data.assemble import Draft, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.images.base import ImageFile
from mclstexp.data.paths import require_file
from mclstexp.data.positions.coordinates import Coordinates, naming
from mclstexp.data.positions.files import CoordsColumns, parse_coords
from mclstexp.data.positions.lattice import pitch_px
from mclstexp.data.positions.tissue import looks_misplaced
from mclstexp.errors import InputError
from mclstexp.slide import Slide, SpotTable
from mclstexp.types import StrPath

__all__ = ["CoordsColumns", "read_coords", "read_query"]

_MIN_PITCH_PX = 4
"""Neighbouring spots that are nearer than this are counted in array steps, not in pixels."""


def read_coords(path: StrPath, *, columns: CoordsColumns | None = None, mpp: float | None = None) -> SpotTable:
    """Read the spots of a query slide.

    Parameters
    ----------
    path
        CSV, TSV (gzipped or not) or Parquet: Space Ranger positions (with a header or without), the legacy ST selection
        file, ``id,x,y``, ``pixel_x,pixel_y``, DeepSpot's and QuPath's exports; anything else by ``columns``.
    columns
        What the column names leave open.
    mpp
        Pixel size in um, needed for coordinates in um.

    Raises
    ------
    InputError
        When the file is damaged, ambiguous (naming the options that settle it), or its spots are not valid.
    """
    coords = parse_coords(path, columns)
    with naming(Path(path).name):
        return coords.spots(mpp)


def read_query(
    image: StrPath | ImageFile,
    coords: StrPath | None = None,
    *,
    mpp: float | None = None,
    columns: CoordsColumns | None = None,
    check_tissue: bool = True,
    patient: str = "",
    grid: str | None = None,
) -> Slide:
    r"""Read a slide without counts; it is named after its image.

    Parameters
    ----------
    image
        The H&E image at full resolution: a file, a folder of OME-Zarr or DICOM, or an opened image, such as an
        `ArrayImage` of pixels in memory.
    coords
        Spot coordinates in its pixels, as `read_coords` takes them. Needed for now.
    mpp
        Pixel size in um; without it the image's own, else what follows from a known spot pitch.
    columns
        What the column names of ``coords`` leave open.
    check_tissue
        Whether to look at the image for coordinates that are swapped or of another resolution.
    patient
        Name of the patient, "" where unknown.
    grid
        Reserved for a grid laid over the tissue in place of ``coords``.

    Raises
    ------
    InputError
        When either file is missing, damaged or ambiguous, or the spots do not belong on the image.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> folder = tempfile.TemporaryDirectory()
    >>> image, coords = Path(folder.name) / "S1.png", Path(folder.name) / "coords.csv"
    >>> Image.new("RGB", (400, 300), (190, 90, 160)).save(image)
    >>> _ = coords.write_text("id,x,y\na,100,100\nb,200,100\nc,100,200\nd,200,200\n")
    >>> read_query(image, coords, mpp=0.5, patient="P7")
    Slide('S1', patient P7, 4 spots, no counts, image 400x300 px at 0.5 um)
    """
    handle = image if isinstance(image, ImageFile) else open_image(image)
    image_path = handle.path
    slide_id = image_path.name.split(".")[0] or image_path.name
    if coords is None or grid is not None:
        raise InputError(
            f"Slide {slide_id}: coordinates are needed for now: a file of spots (id,x,y in pixels) beside the image; "
            "a grid in their place is not supported yet."
        )
    coords_path = require_file(coords, "Coordinates")
    with handle:
        places = parse_coords(coords_path, columns)
        _check_pixels(places, coords_path.name)
        draft = Draft(slide_id, "query", places, image=handle, patient=patient, sources=(image_path, coords_path))
        slide = build_slide(draft, mpp=mpp)
        problem = looks_misplaced(slide) if check_tissue else None
    if problem:
        raise InputError(f"Slide {slide_id}: {problem}.")
    return slide


def _check_pixels(coords: Coordinates, name: str) -> None:
    """Refuse coordinates that cannot be pixels, before the slide is put together."""
    with naming(name):
        coords.check()
    distance = pitch_px(coords.xy)
    if coords.units == "px" and distance is not None and distance < _MIN_PITCH_PX:
        raise InputError(
            f"{name}: neighbouring spots are {distance:.3g} apart, so these are array coordinates and not pixels; name "
            "the pixel columns with --x-column and --y-column, or give the unit with --units um."
        )
