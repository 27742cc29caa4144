"""Maps of what is known of each spot as a whole: familiarity, similarity, how many neighbours, and their share."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from mclstexp.errors import InputError
from mclstexp.outputs.columns import SPOT_COLUMNS
from mclstexp.outputs.maps.spots import PANEL, draw_slide, draw_values, limits_of, panel_height
from mclstexp.outputs.maps.style import DPI, SURENESS, check_picture, new_figure, save_figure, shortened, style
from mclstexp.predict.prediction import Prediction
from mclstexp.types import FloatArray, StrPath

_ACROSS = 3


def field_maps(prediction: Prediction, path: StrPath, *, dpi: int = DPI, force: bool = False) -> None:
    """Draw familiarity, similarity, effective neighbours and shares over the slide as a PNG, PDF or SVG.

    Raises
    ------
    InputError
        When the prediction has none of them.
    ExistsAlreadyError, StorageError
        When ``path`` exists and ``force`` is not set; when the operating system refuses the write.
    """
    path = check_picture(path, force=force)
    known = {name: np.asarray(prediction.obs[name], np.float32) for name in SPOT_COLUMNS if name in prediction.obs}
    if not known:
        raise InputError(f"The prediction has none of {', '.join(SPOT_COLUMNS)}; repeat mst query.")
    with style():
        save_figure(draw_fields(prediction, known), path, dpi=dpi)


def draw_fields(prediction: Prediction, fields: dict[str, FloatArray]) -> Figure:
    """Draw a map a field, each with a colour scale of its own; familiarity always from 0 to 100."""
    across = min(_ACROSS, len(fields))
    down = math.ceil(len(fields) / across)
    figure = new_figure(across * (PANEL + 0.75), down * (panel_height(prediction) + 0.35) + 0.3)
    figure.suptitle(shortened(prediction.slide_id, 60), fontsize=10, x=0.01, ha="left")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for i, (name, values) in enumerate(fields.items()):
        title, label = SPOT_COLUMNS[name]
        draw_slide(grid[i], prediction, title, bar=i == 0)
        limits = (0.0, 100.0) if name == "familiarity" else limits_of([values])
        drawn = draw_values(grid[i], prediction, values, SURENESS, limits)
        bar = figure.colorbar(drawn, ax=grid[i], shrink=0.8, aspect=24, pad=0.02, label=label)
        bar.outline.set_visible(False)  # type: ignore[operator]
    for axes in grid[len(fields) :]:
        axes.set_axis_off()
    return figure
