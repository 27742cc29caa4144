"""Query slides: an image and a file of coordinates."""

from __future__ import annotations

from pathlib import Path

from mclstexp.data.assemble import Draft, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.positions.files import CoordsColumns, parse_coords
from mclstexp.data.positions.lattice import pitch_px
from mclstexp.data.positions.tissue import looks_misplaced
from mclstexp.errors import InputError
from mclstexp.slide import Slide, SpotTable

__all__ = ["CoordsColumns", "read_coords", "read_query"]


def read_coords(path: Path, *, columns: CoordsColumns | None = None, mpp: float | None = None) -> SpotTable:
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
    return parse_coords(path, columns).spots(mpp)


def read_query(
    image: Path,
    coords: Path,
    *,
    mpp: float | None = None,
    columns: CoordsColumns | None = None,
    check_tissue: bool = True,
) -> Slide:
    """Read a slide without counts; it is named after its image.

    Parameters
    ----------
    image
        The H&E image at full resolution.
    coords
        Spot coordinates in its pixels, as ``read_coords`` takes them.
    mpp
        Pixel size in um; without it the image's own, else what follows from a known spot pitch.
    columns
        What the column names of ``coords`` leave open.
    check_tissue
        Whether to look at the image for coordinates that are swapped or of another resolution.

    Raises
    ------
    InputError
        When either file is missing, damaged or ambiguous, or the spots do not belong on the image.
    """
    handle = open_image(Path(image))
    found = parse_coords(Path(coords), columns)
    extent = pitch_px(found.xy)
    if found.units == "px" and extent is not None and extent < 4:
        raise InputError(
            f"{Path(coords).name}: neighbouring spots are {extent:.3g} apart, so these are array coordinates and not "
            "pixels; name the pixel columns with --x-column and --y-column, or give the unit with --units um."
        )
    slide_id = Path(image).name.split(".")[0] or Path(image).name
    draft = Draft(slide_id, "query", found, image=handle, sources=(Path(image), Path(coords)))
    slide = build_slide(draft, mpp=mpp)
    if check_tissue:
        problem = looks_misplaced(slide)
        if problem:
            handle.close()
            raise InputError(f"Slide {slide_id}: {problem}.")
    return slide
