"""Where the tissue is, on a thumbnail: enough to tell coordinates that lie on it from coordinates that do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.positions.lattice import LEGACY_ST_PITCH_UM, fit_grid, pitch_px, spacing_off
from mclstexp.data.positions.placement import judge
from mclstexp.slide import Slide, SlideImage
from mclstexp.types import BoolArray

THUMBNAIL_PX = 1024
_SATURATION_RANGE = (0.06, 0.25)
"""Otsu's threshold is kept within these: glass is paler, and stained tissue stronger, on any scanner."""
_CLEARLY = 0.1
"""How much more of the spots has to lie on tissue before coordinates are called wrong."""


def tissue_mask(image: SlideImage) -> BoolArray:
    """Mark tissue on a thumbnail, by Otsu's threshold on the colour saturation.

    Returns
    -------
    ``(h, w)`` bool, the longer side at most ``THUMBNAIL_PX``.
    """
    return saturated(image.thumbnail(THUMBNAIL_PX).astype(np.float32))


def saturated(rgb: NDArray[np.float32], limits: tuple[float, float] = _SATURATION_RANGE) -> BoolArray:
    """Mark what is coloured on a picture ``(h, w, 3)`` of 0 to 255, ``(h, w)`` bool: Otsu's threshold within limits."""
    brightest = rgb.max(axis=2)
    saturation = (brightest - rgb.min(axis=2)) / np.maximum(brightest, 1.0)
    return np.asarray(saturation > np.clip(_otsu(saturation), *limits))


def looks_misplaced(slide: Slide) -> str | None:
    """Say so when the spots look swapped, rescaled, mirrored, turned or moved; the image is looked at once for all."""
    problem, _ = check_placement(slide)
    return problem


def check_placement(slide: Slide) -> tuple[str | None, str | None]:
    """Return what is clearly wrong with where the spots lie, and what is doubtful about it; None for nothing."""
    if slide.image is None or len(slide) < 4:
        return None, None
    mask, xy = tissue_mask(slide.image), slide.spots.xy_px
    placement = judge(mask, slide.image.size_px, xy)
    off = None if slide.mpp is None or slide.mpp_source == "pitch" else spacing_off(xy, slide.mpp)
    spaced = "" if off is None else f"the spots are {off[0]:.3g} um apart in a hexagonal array, and Visium's 100 um"
    if placement.verdict == "wrong":
        return f"the spots look misplaced: {placement}{f'; {spaced}' if off else ''}", None
    problem = looks_swapped(slide, mask=mask) or looks_rescaled(slide, mask=mask)
    doubts = [f"the spots may be misplaced: {placement}."] if placement.verdict == "doubtful" else []
    if off is not None:
        doubts.append(f"{spaced}: a wrong pixel size, or coordinates that are to be multiplied by {off[1]:.3g}?")
    return problem, " ".join(doubts) or None


def looks_swapped(slide: Slide, *, mask: BoolArray | None = None) -> str | None:
    """Say so when the spots lie on tissue clearly better with x and y exchanged.

    Legacy ST arrays are also known by their direction: there the array's x runs along the image's x.

    Parameters
    ----------
    slide
        The slide; without an image there is nothing to say.
    mask
        Its ``tissue_mask``, where that is at hand.
    """
    if slide.image is None or len(slide) < 4:
        return None
    spots = slide.spots
    span = pitch_px(spots.xy_px) or 1.0
    mask = tissue_mask(slide.image) if mask is None else mask
    straight = float(tissue_share(mask, slide.image.size_px, spots.xy_px, span).mean())
    swapped = float(tissue_share(mask, slide.image.size_px, spots.xy_px[:, ::-1], span).mean())
    if swapped > straight + _CLEARLY:
        return (
            f"x and y look swapped: {straight:.0%} of the spots' area is tissue, "
            f"and {swapped:.0%} with x and y exchanged"
        )
    legacy = slide.pitch_um == LEGACY_ST_PITCH_UM
    matrix = fit_grid(spots.xy_px, spots.array_row, spots.array_col) if legacy else None
    if matrix is not None and abs(matrix[0, 1]) > abs(matrix[0, 0]) and np.linalg.det(matrix) < 0:
        return "x and y look swapped: pixel x follows the array's rows, and pixel y its columns"
    return None


def looks_rescaled(slide: Slide, *, mask: BoolArray | None = None) -> str | None:
    """Say so when the spots huddle off the tissue in a corner and would cover it at another scale.

    Parameters
    ----------
    slide, mask
        As in ``looks_swapped``.
    """
    if slide.image is None or len(slide) < 4:
        return None
    xy, size = slide.spots.xy_px, slide.image.size_px
    mask = tissue_mask(slide.image) if mask is None else mask
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    tissue_end = np.array([cols[-1] + 1, rows[-1] + 1]) * np.asarray(size) / mask.shape[::-1]
    scale = float((tissue_end / np.maximum(xy.max(axis=0), 1.0)).min())
    if scale < 2:
        return None
    span = pitch_px(xy) or 1.0
    straight = float(tissue_share(mask, size, xy, span).mean())
    scaled = float(tissue_share(mask, size, xy * scale, span * scale).mean())
    if scaled > straight + _CLEARLY:
        return (
            f"the coordinates look {scale:.3g} times too small: {straight:.0%} of the spots' area is tissue, and "
            f"{scaled:.0%} at that scale; they are of another resolution than the image"
        )
    return None


def tissue_share(
    mask: BoolArray, size: tuple[int, int], xy_px: NDArray[np.float64], span_px: float
) -> NDArray[np.float64]:
    """Share of each patch that is tissue.

    Parameters
    ----------
    mask
        ``(h, w)`` bool of the whole image, as `tissue_mask` gives it.
    size
        Width and height of the image at full resolution.
    xy_px
        ``(n, 2)`` patch centres as (x, y) at full resolution.
    span_px
        Side of a patch in full-resolution pixels.

    Returns
    -------
    ``(n,)`` float64 from 0 to 1; what lies outside the image is no tissue.
    """
    height, width = mask.shape
    scale = np.array([width / size[0], height / size[1]])
    total = np.zeros((height + 1, width + 1), dtype=np.int64)
    total[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    half = np.maximum(span_px / 2 * scale, 0.5)
    low = np.floor(xy_px * scale - half + 0.5)
    high = np.maximum(np.floor(xy_px * scale + half + 0.5), low + 1)
    area = (high - low).prod(axis=1)
    x0, y0 = np.clip(low, 0, (width, height)).astype(np.int64).T
    x1, y1 = np.clip(high, 0, (width, height)).astype(np.int64).T
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return np.asarray(inside / area, dtype=np.float64)


def _otsu(values: NDArray[np.float32]) -> float:
    counts, edges = np.histogram(values, bins=256, range=(0.0, 1.0))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sum_below = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = sum_below / below - (sum_below[-1] - sum_below) / above
        between = np.nan_to_num(below * above * difference**2)
    return float(edges[int(np.argmax(between)) + 1])
