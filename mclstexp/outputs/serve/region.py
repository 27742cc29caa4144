"""A part of a slide predicted anew, on a grid of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mclstexp.config import Normalisation
from mclstexp.data.positions.tissue import tissue_mask, tissue_share
from mclstexp.errors import InputError
from mclstexp.index.filter import Filter
from mclstexp.index.reference import Reference
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import from_dict
from mclstexp.slide import Slide, SlideImage, SpotTable
from mclstexp.types import FloatArray

MOST_SQUARES = 256
"""Squares of a region; a larger region gets a coarser grid."""

LEAST_TISSUE = 0.3
"""Share of a square that has to be tissue."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels at full resolution."""

    x0: float
    y0: float
    x1: float
    y1: float

    def within(self, size_px: tuple[int, int]) -> Box:
        """Return the part inside an image.

        Raises
        ------
        InputError
            When nothing is inside.
        """
        x0, x1 = sorted((self.x0, self.x1))
        y0, y1 = sorted((self.y0, self.y1))
        box = Box(max(x0, 0), max(y0, 0), min(x1, size_px[0]), min(y1, size_px[1]))
        if not (box.x1 - box.x0 >= 1 and box.y1 - box.y0 >= 1):
            raise InputError("The region lies outside the slide.")
        return box


def region_slide(prediction: Prediction, image: SlideImage, box: Box) -> tuple[Slide, float]:
    """Return the region as a slide whose spots are squares on a grid, and the grid's step in pixels.

    The step is the diameter of the prediction's spots, or more where the region would have over `MOST_SQUARES`.
    Squares with little tissue are left out.

    Raises
    ------
    InputError
        When the pixel size is unknown, or no square holds tissue.
    """
    if prediction.mpp is None:
        raise InputError("A region needs the slide's pixel size; repeat mst query with --mpp.")
    box = box.within(image.size_px)
    width, height = box.x1 - box.x0, box.y1 - box.y0
    step = max(prediction.spot_diameter_px, float(np.sqrt(width * height / MOST_SQUARES)))
    columns, rows = max(1, int(width // step)), max(1, int(height // step))
    row, col = (index.ravel() for index in np.mgrid[:rows, :columns])
    left, top = box.x0 + (width - columns * step) / 2, box.y0 + (height - rows * step) / 2
    xy = np.stack([left + (col + 0.5) * step, top + (row + 0.5) * step], axis=1)
    kept = tissue_share(tissue_mask(image), image.size_px, xy, step) >= LEAST_TISSUE
    if not kept.any():
        raise InputError("The region holds no tissue.")
    ids = [f"{c}x{r}" for c, r in zip(col[kept].tolist(), row[kept].tolist(), strict=True)]
    spots = SpotTable(np.asarray(ids), xy[kept], row[kept], col[kept])
    return Slide(prediction.slide_id, "", "", spots, image, prediction.mpp, "given", layout="query"), step


def predict_region(
    prediction: Prediction, reference: Reference, image: SlideImage, box: Box, gene: str
) -> tuple[Prediction, FloatArray, float]:
    """Predict a gene in a region with the settings of the whole slide's prediction.

    The region is a slide of its own: its level, and the surroundings of its squares, end where it ends.

    Returns
    -------
    The region's prediction, ``(n,)`` expected expression, and the grid's step in pixels.

    Raises
    ------
    InputError
        When the region has no tissue or the reference no such gene.
    """
    slide, step = region_slide(prediction, image, box)
    settings = prediction.settings
    retrieval: dict[str, Any] = settings.get("retrieval", {})
    condition: dict[str, Any] = settings.get("filter") or {}
    normalisation = settings.get("normalisation")
    region = reference.query(
        slide,
        genes=[gene],
        filter=from_dict(Filter, condition) if condition else None,
        k=retrieval.get("k"),
        weights=retrieval.get("weights"),
        temperature=retrieval.get("temperature"),
        normalisation=None if normalisation is None else from_dict(Normalisation, normalisation),
        thumbnail=False,
    )
    return region, region.mean[:, 0], step
