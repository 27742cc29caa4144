"""Whose spots a prediction is made from: the weight of each cohort, patient or slide, at each spot and in all."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mclstexp.errors import InputError
from mclstexp.outputs.maps.spots import PANEL, draw_colours, draw_slide, panel_height
from mclstexp.outputs.maps.style import (
    CATEGORIES,
    DPI,
    OTHERS,
    check_picture,
    new_figure,
    save_figure,
    shortened,
    style,
)
from mclstexp.predict.contributions import Group
from mclstexp.predict.prediction import Prediction
from mclstexp.types import StrPath


def contribution_map(
    prediction: Prediction, path: StrPath, *, by: Group = "cohort", dpi: int = DPI, force: bool = False
) -> None:
    """Draw whose neighbours weigh most at each spot, the weights of all spots stacked, and their sum.

    Parameters
    ----------
    by
        ``cohort``, ``patient`` or ``slide``. The heaviest have colours of their own, the others share one.

    Raises
    ------
    InputError
        When the prediction has no neighbours.
    ExistsAlreadyError, StorageError
        When ``path`` exists and ``force`` is not set; when the operating system refuses the write.
    """
    path = check_picture(path, force=force)
    weights = prediction.contributions(by)
    if not weights.shape[1]:
        raise InputError(
            "The prediction has no neighbours: give the .h5ad that mst query wrote, its Parquet beside it."
        )
    with style():
        save_figure(draw_contributions(prediction, weights, by), path, dpi=dpi)


def told_apart(weights: pd.DataFrame) -> pd.DataFrame:
    """Return the weights with all but the heaviest groups summed as one, the last column."""
    most = len(CATEGORIES)
    if weights.shape[1] <= most:
        return weights
    rest = weights.columns[most - 1 :]
    kept = weights.drop(columns=rest)
    kept[f"{len(rest)} others"] = weights[rest].sum(axis=1)
    return kept


def draw_contributions(prediction: Prediction, weights: pd.DataFrame, by: Group) -> Figure:
    """Draw the map, the stack and the sums side by side."""
    shown = told_apart(weights)
    own = [name for name in shown.columns if name in weights.columns]
    colours = {**dict.fromkeys(shown.columns, OTHERS), **dict(zip(own, CATEGORIES, strict=False))}
    height = max(panel_height(prediction), 0.28 * len(colours) + 0.8)
    figure = new_figure(PANEL + 6.6, height + 0.6)
    figure.suptitle(f"{shortened(prediction.slide_id, 60)}: neighbours by {by}", fontsize=10, x=0.01, ha="left")
    grid = figure.add_gridspec(1, 3, width_ratios=(PANEL, 3.2, 3.0))
    place, stack, total = (figure.add_subplot(grid[0, i]) for i in range(3))
    leading = weights.columns[weights.to_numpy().argmax(axis=1)]
    draw_slide(place, prediction, f"{by} with the largest share of each spot")
    draw_colours(place, prediction, [colours.get(name, OTHERS) for name in leading])
    _stack(stack, shown, colours, len(own))
    _totals(total, shown, colours, by)
    return figure


def _stack(axes: Axes, weights: pd.DataFrame, colours: dict[str, str], n_own: int) -> None:
    """Stack each spot's weights; spots are in the order of who leads them, and how far."""
    values = weights.to_numpy()
    leading = values[:, :n_own].argmax(axis=1)
    shown = values[np.lexsort((-values[:, :n_own].max(axis=1), leading))]
    edges = np.arange(len(shown) + 1)
    base = np.zeros(len(shown))
    for i, name in enumerate(weights.columns):
        axes.stairs(base + shown[:, i], edges, baseline=base, fill=True, color=colours[name], lw=0)
        base = base + shown[:, i]
    axes.set(xlim=(0, len(shown)), ylim=(0, 1), xlabel=f"{len(shown):,} spots, by who has the largest share")
    axes.set_ylabel("share of the weight")
    axes.set_title("share of the weight at each spot")
    axes.spines[["top", "right"]].set_visible(False)


def _totals(axes: Axes, weights: pd.DataFrame, colours: dict[str, str], by: Group) -> None:
    mean = weights.mean(axis=0)
    bars = axes.barh(np.arange(len(mean)), mean.to_numpy(), color=[colours[name] for name in mean.index], height=0.75)
    axes.bar_label(bars, [f" {value:.1%}" for value in mean], fontsize=7)
    axes.set_yticks(np.arange(len(mean)), [shortened(name, 24) for name in mean.index])
    axes.set(ylim=(max(len(mean), 4) - 0.4, -0.6), xlim=(0, 1.2 * float(mean.max())), xlabel="share of the weight")
    axes.set_title(f"over all spots, by {by}")
    axes.spines[["top", "right"]].set_visible(False)
