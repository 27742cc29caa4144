"""Query slides: an image and a file of coordinates, or a grid over its tissue."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.images.base import ImageFile
from mclstexp.data.paths import require_file
from mclstexp.data.positions.coordinates import Coordinates, naming
from mclstexp.data.positions.files import CoordsColumns, parse_coords
from mclstexp.data.positions.grid import Grid, GridShape, lay_grid
from mclstexp.data.positions.lattice import pitch_px, resolve_mpp
from mclstexp.data.positions.outline import Outline, everywhere, find_outline
from mclstexp.data.positions.regions import Regions, read_regions
from mclstexp.data.positions.tissue import check_placement
from mclstexp.errors import InputError
from mclstexp.slide import MppSource, Slide, SlideImage, SpotTable
from mclstexp.text import counted
from mclstexp.types import BoolArray, StrPath

__all__ = ["CoordsColumns", "Grid", "read_coords", "read_query"]

_NOWHERE = Coordinates(np.zeros(0, dtype=np.str_), np.zeros((0, 2)))

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
    mpp_from: MppSource | None = None,
    columns: CoordsColumns | None = None,
    check_tissue: bool = True,
    patient: str = "",
    grid: str | Grid | None = None,
    grid_shape: GridShape = "square",
    regions: StrPath | Regions | None = None,
    name: str | None = None,
) -> Slide:
    r"""Read a slide without counts, at given spots or on a grid over its tissue.

    Parameters
    ----------
    image
        The H&E image at full resolution: a file, a folder of OME-Zarr or DICOM, or an opened image, such as an
        `ArrayImage` of pixels in memory.
    coords
        Spot coordinates in its pixels, as `read_coords` takes them; None where ``grid`` is given.
    mpp
        Pixel size in um; without it the image's own, else what follows from a known spot pitch.
    mpp_from
        Which pixel size to believe where they disagree: "given", "file" or "pitch".
    columns
        What the column names of ``coords`` leave open.
    check_tissue
        With coordinates, whether to look at the image for coordinates that are swapped, mirrored, turned, moved or of
        another resolution; with a grid, whether to lay it on tissue only, which is found by colour, or on all of the
        image.
    patient
        Name of the patient, "" where unknown.
    grid
        In place of ``coords``: the distance between points, ``112um`` or ``224px``.
    grid_shape
        ``square`` or ``hex``, where ``grid`` is text.
    regions
        GeoJSON of areas in pixels, as QuPath exports annotations, or what `read_regions` made of it: spots outside
        are left out.
    name
        Name of the slide; None takes the image's.

    Returns
    -------
    Slide
        With ``tissue`` where a grid was laid.

    Raises
    ------
    InputError
        When a file is missing, damaged or ambiguous, the spots do not belong on the image, no tissue is found, or a
        grid in um meets an unknown pixel size.

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
    >>> read_query(image, grid="50um", mpp=0.5)
    Slide('S1', patient unknown, 12 spots, no counts, image 400x300 px at 0.5 um)
    """
    handle = image if isinstance(image, ImageFile) else open_image(image)
    slide_id = name or handle.path.name.split(".")[0] or handle.path.name
    if (coords is None) == (grid is None):
        both = "both are given" if grid is not None else "neither is given"
        raise InputError(
            f"Slide {slide_id}: a file of coordinates or a grid, such as grid='112um', says where to predict; {both}."
        )
    areas = read_regions(regions) if isinstance(regions, str | os.PathLike) else regions
    with handle:
        draft = Draft(slide_id, "query", _NOWHERE, image=handle, patient=patient, sources=(handle.path,))
        with naming(f"Slide {slide_id}"):
            areas = None if areas is None else areas.on(handle.size_px)
        if coords is not None:
            return _at_spots(
                draft, coords, areas, mpp=mpp, mpp_from=mpp_from, columns=columns, check_tissue=check_tissue
            )
        layout = Grid.parse(grid, grid_shape) if isinstance(grid, str) else grid
        return _on_grid(
            draft, handle, layout or Grid(100.0), areas, mpp=mpp, mpp_from=mpp_from, check_tissue=check_tissue
        )


def _at_spots(
    draft: Draft,
    coords: StrPath,
    regions: Regions | None,
    *,
    mpp: float | None,
    mpp_from: MppSource | None,
    columns: CoordsColumns | None,
    check_tissue: bool,
) -> Slide:
    coords_path = require_file(coords, "Coordinates")
    places = parse_coords(coords_path, columns)
    _check_pixels(places, coords_path.name)
    draft = replace(draft, coords=places, sources=(*draft.sources, coords_path))
    slide = build_slide(draft, PixelSize(mpp, mpp_from))
    problem, doubt = check_placement(slide) if check_tissue else (None, None)
    if problem:
        raise InputError(
            f"Slide {slide.slide_id}: {problem}; correct the coordinates (--x-column and --y-column say which is "
            "which), or give --no-tissue-check where they are right."
        )
    if doubt:
        slide = replace(slide, notes=(*slide.notes, f"Warning: {doubt}"))
    return slide if regions is None else _limited(slide, regions)


def _limited(slide: Slide, regions: Regions) -> Slide:
    """Leave out the spots outside the regions, and say how many."""
    inside = regions.holds(slide.spots.xy_px)
    if not inside.any():
        raise InputError(
            f"Slide {slide.slide_id}: none of {counted(len(slide), 'spot')} lies in the regions of {regions.name}; "
            "export them from this image, in pixels of full resolution."
        )
    note = f"{int(inside.sum())} of {counted(len(slide), 'spot')} lie in the regions of {regions.name}."
    return replace(slide.take(inside), regions=regions.rings, notes=(*slide.notes, *regions.notes, note))


def _on_grid(
    draft: Draft,
    image: SlideImage,
    grid: Grid,
    regions: Regions | None,
    *,
    mpp: float | None,
    mpp_from: MppSource | None,
    check_tissue: bool,
) -> Slide:
    pixel_size, source, _ = resolve_mpp(
        draft.slide_id, given=mpp, image=image, stated=None, pitch=None, believed=mpp_from, strict=True
    )
    with naming(f"Slide {draft.slide_id}"):
        grid.pitch_px(pixel_size)  # before the image is looked at
        outline = find_outline(image) if check_tissue else everywhere(image)
        coords = lay_grid(grid, pixel_size, *_area(outline, regions))
    seen = f" on {_size(outline, pixel_size)} of tissue, told by its colour" if check_tissue else ""
    notes = [*(regions.notes if regions is not None else ()), f"{counted(len(coords.ids), 'point')} of a {grid}{seen}."]
    slide = build_slide(replace(draft, coords=coords, notes=tuple(notes)), PixelSize(mpp, source))
    return replace(slide, tissue=outline.mask, regions=() if regions is None else regions.rings)


def _area(
    outline: Outline, regions: Regions | None
) -> tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], BoolArray]]:
    """Return the box of what is both tissue and in the regions, and what tells whether places are."""
    if regions is None:
        return outline.box, outline.holds
    box = np.concatenate([np.maximum(outline.box[:2], regions.box[:2]), np.minimum(outline.box[2:], regions.box[2:])])
    if not (box[:2] < box[2:]).all():
        raise InputError(f"no tissue is seen in the regions of {regions.name}; --no-tissue-check covers them all.")

    def holds(xy: NDArray[np.float64]) -> BoolArray:
        kept = outline.holds(xy)
        kept[kept] = regions.holds(xy[kept])
        return kept

    return box, holds


def _size(outline: Outline, mpp: float | None) -> str:
    share = f"{outline.mask.mean():.{0 if outline.mask.mean() >= 0.1 else 1}%} of the slide"
    return share if mpp is None else f"{outline.area_px * mpp**2 / 1e6:.2g} mm2 ({share})"


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
