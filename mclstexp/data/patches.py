"""Patches around spots, at one pixel size for every slide."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import PatchSpec
from mclstexp.errors import InputError
from mclstexp.slide import Slide, SlideImage


def read_patch(
    image: SlideImage, xy: NDArray[np.float64], spec: PatchSpec, slide_mpp: float | None
) -> NDArray[np.uint8]:
    """Cut the patch centred on a spot.

    Pixel ``i`` covers ``[i, i + 1)``. Where the patch needs no rescaling its left edge is ``floor(x - size / 2 + 0.5)``
    and the pixels are the file's own. Otherwise the exact window ``x - span / 2 .. x + span / 2`` is resampled from the
    coarsest level of the pyramid that is no coarser than the patch, with one filter for every slide
    (`mclstexp.data.images.pixels.resample`).

    Parameters
    ----------
    image
        The slide's image.
    xy
        ``(2,)`` centre as (x, y) in full-resolution pixels.
    spec
        Size in pixels and um per pixel.
    slide_mpp
        Pixel size of the slide in um; needed unless ``spec.mpp`` is None.

    Returns
    -------
    ``(size_px, size_px, 3)`` uint8 RGB, white outside the image.

    Raises
    ------
    InputError
        When the pixel size is needed and unknown, or the image is damaged.
    """
    span = spec.span_px(slide_mpp)
    size = spec.size_px
    x, y = float(xy[0]), float(xy[1])
    if math.isclose(span, size, rel_tol=1e-6):
        return image.read_region(math.floor(x - size / 2 + 0.5), math.floor(y - size / 2 + 0.5), size, size)
    return image.read_window(x - span / 2, y - span / 2, span, span, (size, size))


def iter_patches(slide: Slide, spec: PatchSpec, *, batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the slide's patches in the order of its spots.

    Yields
    ------
    ``(b, size_px, size_px, 3)`` uint8 RGB, ``b`` at most ``batch_size``.

    Raises
    ------
    InputError
        When the slide has no image, spots lie outside it, or its pixel size is needed and unknown.
    """
    if slide.image is None:
        raise InputError(f"Slide {slide.slide_id} has no image, so no patches can be cut.")
    check_inside(slide)
    mpp = slide.require_mpp() if spec.mpp is not None else slide.mpp
    for start in range(0, len(slide), batch_size):
        xy = slide.spots.xy_px[start : start + batch_size]
        batch = np.empty((len(xy), spec.size_px, spec.size_px, 3), dtype=np.uint8)
        for i, centre in enumerate(xy):
            batch[i] = read_patch(slide.image, centre, spec, mpp)
        yield batch


def check_inside(slide: Slide) -> None:
    """Refuse spot centres outside the image, and say what may have happened.

    Raises
    ------
    InputError
        When any centre lies outside; names how many, both ranges, and whether x and y look swapped or the coordinates
        belong to another resolution.
    """
    if slide.image is None or not len(slide):
        return
    xy, size = slide.spots.xy_px, np.asarray(slide.image.size_px, dtype=np.float64)
    outside = ~_inside(xy, size)
    if not outside.any():
        return
    low, high = xy.min(axis=0), xy.max(axis=0)
    raise InputError(
        f"Slide {slide.slide_id}: {int(outside.sum())} of {len(xy)} spots lie outside the image "
        f"(x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f}; image {size[0]:.0f} x {size[1]:.0f} px); "
        f"{_hint(slide, size)}."
    )


def _inside(xy: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(((xy >= 0) & (xy <= size)).all(axis=1))


def _hint(slide: Slide, size: NDArray[np.float64]) -> str:
    xy = slide.spots.xy_px
    if _inside(xy[:, ::-1], size).all():
        return (
            "x and y look swapped: exchanged, every spot lies inside; if they are, name them with --x-column and "
            "--y-column, else give the image that the coordinates were made on"
        )
    if xy.min() >= 0:
        for name, value in slide.extra.items():
            if name.endswith("_scalef") and 0.4 < float((xy.max(axis=0) * float(value) / size).max()) <= 1:
                return (
                    f"the coordinates are {1 / float(value):.4g} times too large ({name} is {float(value):.4g}): "
                    "the image is a thumbnail, give the full-resolution one"
                )
        ratio = float((xy.max(axis=0) / size).max())
        if ratio > 1.2:
            return (
                f"the coordinates fit an image at least {ratio:.3g} times as large: they may be of another resolution, "
                "give the image they were made on"
            )
    return "give the image that the coordinates were made on"
