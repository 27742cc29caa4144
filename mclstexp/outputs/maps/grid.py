"""Where a slide is predicted: its tissue's outline, its regions and its grid, to be looked at before it is believed."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mclstexp.data.positions.lattice import pitch_px
from mclstexp.data.positions.outline import Outline
from mclstexp.errors import InputError
from mclstexp.outputs.maps.style import (
    CATEGORIES,
    DPI,
    INK,
    bare,
    check_picture,
    new_figure,
    save_figure,
    scale_bar,
    shortened,
    style,
)
from mclstexp.slide import Slide
from mclstexp.text import counted
from mclstexp.types import StrPath

PICTURE_PX = 1500
LONGEST = (7.0, 5.0)
"""Longer side of the slide in inches, alone and where there are two panels."""

_SMALL = 0.6
"""Where the spots take a smaller share of the slide's longer side than this, they are drawn large in a second panel."""

_TISSUE, _REGIONS, _SPOTS = CATEGORIES[2], CATEGORIES[5], CATEGORIES[0]

Window = tuple[float, float, float, float]


def grid_map(slide: Slide, path: StrPath, *, dpi: int = DPI, force: bool = False) -> None:
    """Draw the slide with the outline of its tissue, its regions and the places that are predicted.

    Parameters
    ----------
    slide
        As `mclstexp.read_query` returns it, with an image.
    path
        A PNG, PDF or SVG.

    Raises
    ------
    InputError
        When the slide has no image, or no picture can have this name.
    ExistsAlreadyError, StorageError
        When ``path`` exists and ``force`` is not set; when the operating system refuses the write.
    """
    path = check_picture(path, force=force)
    if slide.image is None:
        raise InputError(f"Slide {slide.slide_id} has no image to draw its grid on.")
    with style():
        save_figure(draw_grid(slide, slide.image.thumbnail(PICTURE_PX), slide.image.size_px), path, dpi=dpi)
    slide.image.close()


def draw_grid(slide: Slide, picture: NDArray[np.uint8], size: tuple[int, int]) -> Figure:
    """Draw the whole slide and, where the spots lie on little of it, that part apart."""
    whole, near = (0.0, float(size[0]), 0.0, float(size[1])), _around(slide, size)
    share = max((near[1] - near[0]) / size[0], (near[3] - near[2]) / size[1])
    windows = [whole] if share > _SMALL else [whole, near]
    shapes = [_shape(window, LONGEST[len(windows) - 1]) for window in windows]
    figure = new_figure(sum(width for width, _ in shapes), max(height for _, height in shapes) + 0.35)
    panels = figure.subplots(1, len(windows), squeeze=False, width_ratios=[width for width, _ in shapes]).ravel()
    for axes, window in zip(panels, windows, strict=True):
        axes.imshow(picture, extent=(0, size[0], size[1], 0), interpolation="bilinear")
        _outlines(axes, slide, size)
        if window is windows[-1]:
            _spots(axes, slide)
        else:
            axes.add_patch(_frame(near))
        axes.set(xlim=window[:2], ylim=(window[3], window[2]), aspect="equal")
        bare(axes)
        scale_bar(axes, slide.mpp, corner=_emptiest(slide, window))
    panels[0].set_title(f"{shortened(slide.slide_id, 40)}: {counted(len(slide), 'spot')}")
    return figure


def _shape(window: Window, longest: float) -> tuple[float, float]:
    """Width and height in inches of a part of the slide."""
    width, height = window[1] - window[0], window[3] - window[2]
    scale = longest / max(width, height)
    return max(1.5, width * scale), max(1.5, height * scale)


def _around(slide: Slide, size: tuple[int, int]) -> Window:
    """Return the part of the slide that has tissue, or spots where no tissue was looked for, with a margin."""
    low, high = slide.spots.xy_px.min(axis=0), slide.spots.xy_px.max(axis=0)
    if slide.tissue is not None and not slide.regions:
        box = Outline(slide.tissue, size).box
        low, high = np.minimum(low, box[:2]), np.maximum(high, box[2:])
    margin = 0.05 * float((high - low).max()) + (pitch_px(slide.spots.xy_px) or 50.0) / 2
    x0, y0 = np.maximum(low - margin, 0.0)
    x1, y1 = np.minimum(high + margin, size)
    return float(x0), float(x1), float(y0), float(y1)


def _emptiest(slide: Slide, window: Window) -> str:
    """Return the corner of a panel that has the fewest spots: the place of the scale bar."""
    x0, x1, y0, y1 = window
    x, y = (slide.spots.xy_px[:, 0] - x0) / (x1 - x0), (slide.spots.xy_px[:, 1] - y0) / (y1 - y0)
    right, left, lower, upper = x > 0.65, x < 0.35, y > 0.85, y < 0.15
    corners = {"lower right": right & lower, "lower left": left & lower, "upper right": right & upper}
    corners["upper left"] = left & upper
    return min(corners, key=lambda name: int(corners[name].sum()))


def _frame(window: Window) -> Artist:
    from matplotlib.patches import Rectangle

    x0, x1, y0, y1 = window
    return Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=INK, linewidth=0.7, linestyle=(0, (3, 2)))


def _outlines(axes: Axes, slide: Slide, size: tuple[int, int]) -> None:
    if slide.tissue is not None and min(slide.tissue.shape) > 1:
        mask = np.pad(slide.tissue, 1).astype(np.float32)  # closed also where tissue meets the border
        height, width = slide.tissue.shape
        x = (np.arange(-1, width + 1) + 0.5) * size[0] / width
        y = (np.arange(-1, height + 1) + 0.5) * size[1] / height
        axes.contour(x, y, mask, levels=[0.5], colors=[_TISSUE], linewidths=0.9)
    for ring in slide.regions:
        axes.plot(*ring.T, color=_REGIONS, linewidth=1.1)


def _spots(axes: Axes, slide: Slide) -> None:
    xy = slide.spots.xy_px
    diameter = 0.45 * (pitch_px(xy) or 100.0)
    side = np.full(len(xy), diameter)
    circles = EllipseCollection(
        side, side, np.zeros(len(xy)), units="xy", offsets=xy, offset_transform=axes.transData, linewidths=0.9,
        facecolors=to_rgba(_SPOTS, 0.25), edgecolors=_SPOTS,
    )  # fmt: skip
    circles.set_rasterized(True)
    axes.add_collection(circles)
