"""Maps of genes over the slide: expected, beside what was measured and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mclstexp.data.anndata_file import is_anndata
from mclstexp.errors import InputError
from mclstexp.outputs.maps.spots import PANEL, draw_slide, draw_values, limits_of, panel_height
from mclstexp.outputs.maps.style import (
    DPI,
    EXPRESSION,
    SURENESS,
    check_picture,
    new_figure,
    save_figure,
    shortened,
    style,
)
from mclstexp.outputs.maps.truth import Truth, check_same_slide, correlation, measured
from mclstexp.predict.prediction import Prediction
from mclstexp.types import FloatArray, StrPath

if TYPE_CHECKING:
    import anndata as ad

MOST_GENES = 40
"""Genes that one picture may show."""

Shown = Literal["expression", "uncertainty", "both"]

_BAR = 0.75
"""Width of a colour bar with its label, in inches."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One map: its title, its values ``(n,)``, and which colours and colour bar it has."""

    title: str
    values: FloatArray
    label: str
    colours: str


def gene_maps(
    prediction: Prediction | ad.AnnData,
    genes: Sequence[str],
    path: StrPath,
    *,
    truth: Truth | None = None,
    show: Shown = "both",
    dpi: int = DPI,
    force: bool = False,
) -> None:
    """Draw genes over the slide, a row a gene, as a PNG, PDF or SVG.

    Parameters
    ----------
    prediction
        A prediction, or the AnnData of its file.
    genes
        Symbols or Ensembl ids.
    path
        The picture; its suffix says the format.
    truth
        What was measured, drawn beside the expected on one colour scale, with the correlation over the spots: ``(n,)``
        values on the prediction's scale (NaN where unknown; for one gene), or an AnnData of raw counts, matched by spot
        id and by symbol or Ensembl id (``var["gene_ids"]``), and normalised as the prediction was. The panel to
        normalise over is ``settings["panel_genes"]``, or else the predicted genes.
    show
        ``expression``; ``uncertainty`` (width of the interval and spread of the neighbours); or ``both``: expression
        with the interval's width beside it, or the spread where there is no interval.
    dpi
        Pixels an inch of a PNG, and of the slide's image inside a PDF or SVG, where spots and text are vectors.
    force
        Whether to replace an existing file.

    Raises
    ------
    InputError
        For an unknown gene, a gene without any value, a truth that does not fit or is of another slide.
    ExistsAlreadyError, StorageError
        When ``path`` exists and ``force`` is not set; when the operating system refuses the write.
    """
    path = check_picture(path, force=force)
    if not 1 <= len(genes) <= MOST_GENES:
        raise InputError(f"A picture shows 1 to {MOST_GENES} genes, got {len(genes)}; draw several pictures.")
    if is_anndata(prediction):
        prediction = Prediction.from_anndata(prediction)
    if is_anndata(truth):
        check_same_slide(prediction, truth)
    columns = [gene_column(prediction, gene) for gene in genes]
    rows = [gene_panels(prediction, column, truth, show) for column in columns]
    with style():
        save_figure(draw_rows(prediction, rows), path, dpi=dpi)


def gene_column(prediction: Prediction, gene: str) -> int:
    """Return the column of a gene by symbol or Ensembl id (with or without version).

    Raises
    ------
    InputError
        When the prediction does not have it (near names are given), or knows nothing of it.
    """
    genes = prediction.genes
    column = genes.find(gene)
    if column is None:
        near = genes.near(gene)
        names = f"near: {', '.join(near)}" if near else f"it has {', '.join(genes.symbols[:3])}, ..."
        raise InputError(
            f"The prediction has no gene {gene!r} among its {len(genes)}; {names}; "
            f"mst query --genes predicts any gene that the references measured."
        )
    if not np.isfinite(prediction.mean[:, column]).any():
        reasons = prediction.var.get("missing_reason")
        why = str(reasons[column]) if reasons is not None else ""
        raise InputError(f"Nothing is known of {gene!r} on this slide: {why or 'no neighbour measured it'}.")
    return column


def gene_panels(prediction: Prediction, column: int, truth: Truth | None, show: Shown) -> list[Panel]:
    """Return a gene's maps: expected, measured where there is truth, how sure."""
    symbol, values = shortened(prediction.genes.symbols[column], 20), prediction.mean[:, column]
    sure = _uncertainty(prediction, column)
    if show == "uncertainty":
        if not sure:
            raise InputError("The prediction has neither intervals nor a spread of the neighbours to draw.")
        return [Panel(f"{symbol}, {part.title}", part.values, part.label, part.colours) for part in sure]
    panels = [Panel(f"{symbol}, predicted{_missing(values)}", values, prediction.scale, EXPRESSION)]
    if truth is not None:
        known, scale = measured(prediction, column, truth)
        agreement = correlation(known, values)
        pcc = f"PCC {agreement:.3f}" if np.isfinite(agreement) else "PCC not defined"
        panels.append(Panel(f"measured, {pcc}{_missing(known)}", known, scale, EXPRESSION))
    return panels + (sure[:1] if show == "both" else [])


def _uncertainty(prediction: Prediction, column: int) -> list[Panel]:
    """Return the width of the interval and the spread of the neighbours, where they are known."""
    parts = []
    if prediction.lower is not None and prediction.upper is not None:
        level = float(prediction.settings.get("interval_level", 0.9))
        width = prediction.upper[:, column] - prediction.lower[:, column]
        parts.append(Panel(f"width of the {level:.0%} interval", width, "width, same scale", SURENESS))
    if prediction.sd is not None:
        parts.append(Panel("spread of the neighbours", prediction.sd[:, column], "standard deviation", SURENESS))
    return [part for part in parts if np.isfinite(part.values).any()]


def _missing(values: FloatArray) -> str:
    lacking = int((~np.isfinite(values)).sum())
    return f", {lacking} without a value" if lacking else ""


def draw_rows(prediction: Prediction, rows: Sequence[Sequence[Panel]]) -> Figure:
    """Draw rows of maps; what has the same colours in a row has one colour scale."""
    across = 2 if len(rows) > 2 and max(map(len, rows)) <= 2 else 1
    each, down = max(map(len, rows)), -(-len(rows) // across)
    n_columns, n_bars = across * each, across * max(len({panel.colours for panel in row}) for row in rows)
    height = down * (panel_height(prediction) + 0.35) + 0.3
    figure = new_figure(n_columns * PANEL + n_bars * _BAR, height)
    figure.suptitle(shortened(prediction.slide_id, 60), fontsize=10, x=0.01, ha="left")
    grid = figure.subplots(down, n_columns, squeeze=False)
    for i, row in enumerate(rows):
        first = (i % across) * each
        _draw_row(figure, grid[i // across, first : first + len(row)].tolist(), prediction, row)
    for axes in grid.ravel()[[not axes.has_data() for axes in grid.ravel()]]:
        axes.set_axis_off()
    return figure


def _draw_row(figure: Figure, places: list[Axes], prediction: Prediction, row: Sequence[Panel]) -> None:
    for colours in dict.fromkeys(panel.colours for panel in row):
        same = [i for i, panel in enumerate(row) if panel.colours == colours]
        groups = [same] if colours == EXPRESSION else [[i] for i in same]
        for group in groups:
            limits = limits_of([row[i].values for i in group])
            for i in group:
                draw_slide(places[i], prediction, row[i].title, bar=i == 0)
                drawn = draw_values(places[i], prediction, row[i].values, colours, limits)
            bar = figure.colorbar(drawn, ax=[places[i] for i in group], shrink=0.8, aspect=24, pad=0.02)
            bar.set_label(row[group[0]].label)
            bar.outline.set_visible(False)  # type: ignore[operator]
