"""A slide's spots on its image: what every map has in common."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from mclstexp.outputs.maps.style import bare, scale_bar
from mclstexp.predict.prediction import Prediction
from mclstexp.types import FloatArray

PANEL = 3.1
"""Width of a map in inches."""

PALE = 0.3
"""Contrast of the slide's image under the spots."""

VECTOR_SPOTS = 6000
"""Spots that a PDF or SVG holds as circles; more become pixels."""

Window = tuple[float, float, float, float]


def window(prediction: Prediction) -> Window:
    """Return the part of the slide that has spots, with a margin: x0, x1, y0, y1 in full-resolution pixels."""
    low, high = prediction.xy_px.min(axis=0), prediction.xy_px.max(axis=0)
    margin = prediction.spot_diameter_px + 0.04 * float((high - low).max())
    return low[0] - margin, high[0] + margin, low[1] - margin, high[1] + margin


def panel_height(prediction: Prediction) -> float:
    """Return the height of a map in inches, of one that is ``PANEL`` wide."""
    x0, x1, y0, y1 = window(prediction)
    return PANEL * min(2.0, max(0.5, (y1 - y0) / (x1 - x0)))


def draw_slide(axes: Axes, prediction: Prediction, title: str, *, bar: bool = True) -> None:
    """Draw the slide's small image, pale and grey so that it takes no part in the colours, with a scale bar."""
    x0, x1, y0, y1 = window(prediction)
    if prediction.thumbnail is not None and prediction.thumbnail_scale is not None:
        pixels, extent = _part(prediction.thumbnail, prediction.thumbnail_scale, (x0, x1, y0, y1))
        grey = 255 - PALE * (255 - pixels.astype(np.float32).mean(axis=2))
        axes.imshow(grey, extent=extent, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    axes.set(xlim=(x0, x1), ylim=(y1, y0), aspect="equal")
    bare(axes)
    axes.set_title(title)
    scale_bar(axes, prediction.mpp, unknown=bar, corner=_emptiest(prediction))


def _part(pixels: NDArray[np.uint8], scale: float, box: Window) -> tuple[NDArray[np.uint8], Window]:
    """Return what of a thumbnail lies in a window, and its extent as matplotlib wants it (y downwards)."""
    height, width = pixels.shape[:2]
    left, right = (int(np.clip(value * scale, 0, width)) for value in (box[0], box[1] + 1 / scale))
    top, bottom = (int(np.clip(value * scale, 0, height)) for value in (box[2], box[3] + 1 / scale))
    if right - left < 1 or bottom - top < 1:
        left, right, top, bottom = 0, width, 0, height
    return pixels[top:bottom, left:right], (left / scale, right / scale, bottom / scale, top / scale)


def _emptiest(prediction: Prediction) -> str:
    """Return the corner of the map that has the fewest spots: the place of the scale bar."""
    x0, x1, y0, y1 = window(prediction)
    x, y = (prediction.xy_px[:, 0] - x0) / (x1 - x0), (prediction.xy_px[:, 1] - y0) / (y1 - y0)
    spots = {
        "lower right": int(((x > 0.68) & (y > 0.85)).sum()),
        "lower left": int(((x < 0.32) & (y > 0.85)).sum()),
        "upper right": int(((x > 0.68) & (y < 0.15)).sum()),
        "upper left": int(((x < 0.32) & (y < 0.15)).sum()),
    }
    return min(spots, key=lambda corner: spots[corner])


def draw_values(
    axes: Axes, prediction: Prediction, values: FloatArray, colours: str, limits: tuple[float, float]
) -> EllipseCollection:
    """Draw a value for each spot; spots without one are small crosses."""
    known = np.isfinite(values)
    circles = _circles(axes, prediction, known)
    circles.set(cmap=colours, norm=Normalize(*limits))
    circles.set_array(values[known])
    axes.plot(prediction.xy_px[~known, 0], prediction.xy_px[~known, 1], "x", color="black", markersize=3, mew=0.7)
    return circles


def draw_colours(axes: Axes, prediction: Prediction, colours: list[str]) -> None:
    """Draw each spot in a colour of its own."""
    _circles(axes, prediction, np.ones(len(prediction), dtype=bool)).set_facecolor(colours)


def _circles(axes: Axes, prediction: Prediction, shown: NDArray[np.bool_]) -> EllipseCollection:
    size = np.full(int(shown.sum()), prediction.spot_diameter_px)
    circles = EllipseCollection(
        size, size, np.zeros(len(size)), units="xy", offsets=prediction.xy_px[shown],
        offset_transform=axes.transData, linewidths=0,
    )  # fmt: skip
    circles.set_rasterized(len(size) > VECTOR_SPOTS)
    axes.add_collection(circles)
    return circles


def limits_of(parts: list[FloatArray]) -> tuple[float, float]:
    """Return the one range of some values: percentiles 1 and 99, so that single spots do not decide the colours."""
    known = np.concatenate([values[np.isfinite(values)] for values in parts])
    low, high = (float(value) for value in np.percentile(known, [1, 99])) if len(known) else (0.0, 1.0)
    return low, high if high > low else low + 1.0
