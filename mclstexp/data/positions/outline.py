"""The tissue's outline on a slide: where a grid may be laid when nobody gives coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.positions.tissue import saturated
from mclstexp.errors import InputError
from mclstexp.slide import SlideImage
from mclstexp.types import BoolArray

OUTLINE_PX = 1500
"""Longer side of the picture that the outline is found on: that of the small image inside a prediction."""

_SMOOTH_PX = 1.5
_CLOSE_PX = 3
"""Gaps between strands of tissue that are narrower than twice this are tissue."""

_SPECK = 0.01
"""A piece smaller than this share of the largest one is dirt."""

_HOLE = 0.003
"""A hole smaller than this share of the largest piece is a lumen or a cell of fat, and belongs to the tissue."""

_LEAST = 1e-4
"""Share of the picture below which what was found is no tissue."""

_SATURATION_RANGE = (0.05, 0.12)
"""Otsu's threshold is kept within these: fat and pale stroma are tissue, too, beside what is strongly stained."""

_TINT = 1.15
"""No glass is more coloured than this; where there is none in the picture, no tissue is taken for it."""

_DARK = 90
"""Median brightness, of 255, below which the background is no glass in transmitted light."""


@dataclass(frozen=True, eq=False)
class Outline:
    """Where the tissue lies.

    Attributes
    ----------
    mask
        ``(h, w)`` bool over the whole image.
    size_px
        Width and height of the image at full resolution.
    """

    mask: BoolArray
    size_px: tuple[int, int]

    def holds(self, xy_px: NDArray[np.float64]) -> BoolArray:
        """Return ``(n,)`` whether each place, ``(n, 2)`` as (x, y) in full-resolution pixels, is on tissue."""
        height, width = self.mask.shape
        place = np.floor(xy_px * (width / self.size_px[0], height / self.size_px[1])).astype(np.int64)
        inside = ((place >= 0) & (place < (width, height))).all(axis=1)
        x, y = np.clip(place, 0, (width - 1, height - 1)).T
        return np.asarray(inside & self.mask[y, x])

    @property
    def box(self) -> NDArray[np.float64]:
        """Left, top, right and bottom of the tissue in full-resolution pixels, ``(4,)`` float64."""
        rows, cols = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        step_x, step_y = self.size_px[0] / self.mask.shape[1], self.size_px[1] / self.mask.shape[0]
        return np.array([cols[0] * step_x, rows[0] * step_y, (cols[-1] + 1) * step_x, (rows[-1] + 1) * step_y])

    @property
    def area_px(self) -> float:
        """Area of the tissue in full-resolution pixels."""
        return float(self.mask.mean()) * self.size_px[0] * self.size_px[1]


def find_outline(image: SlideImage) -> Outline:
    """Find the tissue on a small picture of the slide.

    The picture is smoothed and freed of the glass's tint, and its colour saturation cut at Otsu's threshold; then
    narrow gaps are closed, small holes filled and specks dropped, by the operations of ``scipy.ndimage``.

    Raises
    ------
    InputError
        When the background is dark, as in fluorescence, or no tissue is there.
    """
    from scipy import ndimage

    rgb = image.thumbnail(OUTLINE_PX)
    brightness = float(np.median(rgb.max(axis=2)))
    if brightness < _DARK:
        raise InputError(
            f"the background of {image.path.name} is dark (median brightness {brightness:.0f} of 255), as in "
            "fluorescence; an H&E slide in transmitted light is needed."
        )
    smooth = ndimage.gaussian_filter(rgb.astype(np.float32), (_SMOOTH_PX, _SMOOTH_PX, 0))
    mask = _cleaned(saturated(_on_white(smooth), _SATURATION_RANGE))
    if mask.mean() < _LEAST:
        raise InputError(
            f"no tissue is seen on {image.path.name} ({mask.mean():.2%} of it is stained); give coordinates, or "
            "--no-tissue-check to cover the whole slide, or all of --regions."
        )
    return Outline(mask, image.size_px)


def everywhere(image: SlideImage) -> Outline:
    """Take the whole image for tissue."""
    return Outline(np.ones((1, 1), dtype=bool), image.size_px)


def _on_white(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the tint of the glass, the brightest part of the picture, from all of it."""
    darkest = rgb.min(axis=2)
    glass = np.median(rgb[darkest >= np.percentile(darkest, 98)], axis=0)
    return np.asarray(rgb * np.clip(glass.max() / np.maximum(glass, 1.0), 1.0, _TINT), dtype=np.float32)


def _cleaned(mask: BoolArray) -> BoolArray:
    """Close narrow gaps, fill small holes, and drop specks."""
    from scipy import ndimage

    reach = np.arange(-_CLOSE_PX, _CLOSE_PX + 1)
    disc = reach[:, None] ** 2 + reach**2 <= _CLOSE_PX**2
    padded = np.pad(mask, _CLOSE_PX, mode="edge")  # tissue that reaches the border goes on beyond it
    core = slice(_CLOSE_PX, -_CLOSE_PX)
    closed = np.asarray(ndimage.binary_closing(padded, disc)[core, core])
    pieces, sizes = _pieces(closed)
    if not len(sizes):
        return closed
    largest = sizes.max()
    kept = np.concatenate([[False], sizes >= _SPECK * largest])[pieces]
    holes, sizes = _pieces(~kept)
    return np.asarray(kept | np.concatenate([[False], sizes < _HOLE * largest])[holes])


def _pieces(mask: BoolArray) -> tuple[NDArray[Any], NDArray[Any]]:
    """Label the connected pieces from 1, and return the size of each."""
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    return labels, np.bincount(labels.ravel(), minlength=n + 1)[1:]
