"""Pictures of a prediction. Drawn with matplotlib's own objects: no pyplot, no global state, no display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy import sparse

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import normalise
from mclstexp.errors import InputError
from mclstexp.metrics import pearson_by_gene
from mclstexp.panel import GenePanel
from mclstexp.predict.prediction import Prediction, scale_name
from mclstexp.settings import from_dict
from mclstexp.storage import check_output, new_file
from mclstexp.types import FloatArray, IdArray, StrPath

COLOURS = "magma"
"""Colour map of expression: even steps of lightness, readable without colour."""


def gene_map(
    prediction: Prediction | ad.AnnData,
    gene: str,
    path: StrPath,
    *,
    truth: ad.AnnData | FloatArray | None = None,
    force: bool = False,
) -> None:
    """Draw a gene's expected expression over the slide's thumbnail as a PNG.

    Parameters
    ----------
    prediction
        A prediction, or the AnnData of its file.
    gene
        Symbol, or Ensembl id.
    path
        The PNG.
    truth
        What was measured, drawn beside it with the correlation: ``(n,)`` values on the prediction's scale (NaN where
        unknown), or an AnnData of raw counts, matched by spot id and by symbol or Ensembl id (``var["gene_ids"]``), and
        normalised as the prediction was. The panel to normalise over is ``settings["panel_genes"]``, or else the
        predicted genes. Both maps have one colour scale.
    force
        Whether to replace an existing file.

    Raises
    ------
    InputError
        For an unknown gene, a gene without any value, or a truth that does not fit.
    ExistsAlreadyError
        When ``path`` exists and ``force`` is not set.
    StorageError
        When the operating system refuses the write.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"A gene map is a .png file, got {path.name!r}.")
    check_output(path, force=force)
    if isinstance(prediction, ad.AnnData):
        prediction = Prediction.from_anndata(prediction)
    column = gene_column(prediction, gene)
    symbol, values = prediction.genes.symbols[column], prediction.mean[:, column]
    panels = [("predicted", prediction.scale, values)]
    if truth is not None:
        measured, scale = _measured(prediction, column, truth)
        panels.append(("measured", scale, measured))
    _write(_draw(prediction, symbol, panels), path)


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


def _correlation(truth: FloatArray, predicted: FloatArray) -> float:
    """Correlation over the spots where both are known; NaN where it is not defined."""
    known = np.isfinite(truth) & np.isfinite(predicted)
    return float(pearson_by_gene(truth[known, None], predicted[known, None])[0])


def _measured(prediction: Prediction, column: int, truth: ad.AnnData | FloatArray) -> tuple[FloatArray, str]:
    """Return the measured values ``(n,)`` of the prediction's gene in ``column``, and their scale's name."""
    if not isinstance(truth, ad.AnnData):
        values = np.asarray(truth, dtype=np.float32)
        if values.shape != (len(prediction),):
            raise InputError(f"The truth has shape {values.shape}, the prediction {len(prediction)} spots.")
        return values, prediction.scale
    genes = _genes_of(truth)
    gene = int(genes.columns(prediction.genes.subset([column]))[0])
    if gene < 0:
        raise InputError(f"The truth has no gene {prediction.genes.symbols[column]!r} among its {truth.n_vars}.")
    rows = truth.obs_names.get_indexer(prediction.spot_ids.astype(object))
    if not (rows >= 0).any():
        one, other = truth.obs_names[0], str(prediction.spot_ids[0])
        raise InputError(f"Truth and prediction share no spot id; for example {one!r} and {other!r}.")
    settings = prediction.settings.get("normalisation")
    normalisation = Normalisation() if settings is None else from_dict(Normalisation, settings)
    counts = sparse.csr_matrix(truth.X)
    if np.any(counts.data < 0) or np.any(counts.data != np.floor(counts.data)):
        raise InputError("The truth's X are not raw counts; give measured values as an array instead.")
    totalled = counts[:, _panel_columns(genes, prediction)] if normalisation.total == "panel" else counts
    total = np.asarray(totalled.sum(axis=1)).ravel()
    expression = normalise(counts[:, [gene]].toarray(), total, normalisation)[:, 0]
    values = np.where(rows >= 0, expression[rows], np.nan).astype(np.float32)
    return values, scale_name(normalisation)


def _genes_of(truth: ad.AnnData) -> GenePanel:
    ensembl = tuple(truth.var["gene_ids"].astype(str)) if "gene_ids" in truth.var else ()
    return GenePanel(tuple(truth.var_names.astype(str)), ensembl)


def _panel_columns(genes: GenePanel, prediction: Prediction) -> IdArray:
    """Return the columns of ``genes`` that a spot's total is taken over: those of the model's panel."""
    names = prediction.settings.get("panel_genes")
    columns = genes.columns(prediction.genes if names is None else GenePanel(tuple(names)))
    return np.unique(columns[columns >= 0])


def _draw(prediction: Prediction, symbol: str, panels: Sequence[tuple[str, str, FloatArray]]) -> Figure:
    x0, x1, y0, y1 = _window(prediction)
    height = 5.0 * min(2.0, max(0.5, (y1 - y0) / (x1 - x0)))
    figure = Figure(figsize=(6.4 * len(panels), height + 0.9), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    limits = _colour_range([values for _, _, values in panels])
    for i, (kind, scale, values) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        _spots(axes, prediction, values, limits)
        axes.set(xlim=(x0, x1), ylim=(y1, y0), xticks=[], yticks=[], aspect="equal")
        known = int(np.isfinite(values).sum())
        missing = f", {len(values) - known} without a value" if known < len(values) else ""
        axes.set_title(f"{kind}{missing}\n{scale}", fontsize=9)
    title = f"{symbol} on {prediction.slide_id}"
    if len(panels) > 1:
        title += f", PCC {_correlation(panels[1][2], panels[0][2]):.3f}"
    figure.suptitle(title, fontsize=13)
    return figure


def _window(prediction: Prediction) -> tuple[float, float, float, float]:
    """Return the part of the slide that has spots, with a margin, in full-resolution pixels."""
    low, high = prediction.xy_px.min(axis=0), prediction.xy_px.max(axis=0)
    margin = prediction.spot_diameter_px + 0.04 * float((high - low).max())
    return low[0] - margin, high[0] + margin, low[1] - margin, high[1] + margin


def _colour_range(panels: Sequence[FloatArray]) -> tuple[float, float]:
    """Return the one range of all panels: predicted and measured values are read off one scale."""
    known = np.concatenate([values[np.isfinite(values)] for values in panels])
    low, high = (float(value) for value in np.percentile(known, [1, 99])) if len(known) else (0.0, 1.0)
    return low, high if high > low else low + 1.0


def _spots(axes: Axes, prediction: Prediction, values: FloatArray, limits: tuple[float, float]) -> None:
    if prediction.thumbnail is not None and prediction.thumbnail_scale is not None:
        height, width = (side / prediction.thumbnail_scale for side in prediction.thumbnail.shape[:2])
        axes.imshow(prediction.thumbnail, extent=(0, width, height, 0), interpolation="bilinear", alpha=0.75)
    known = np.isfinite(values)
    size = np.full(len(values), prediction.spot_diameter_px)
    circles = EllipseCollection(
        size[known],
        size[known],
        np.zeros(int(known.sum())),
        units="xy",
        offsets=prediction.xy_px[known],
        offset_transform=axes.transData,
        cmap=COLOURS,
        norm=Normalize(*limits),
        linewidths=0,
    )
    circles.set_array(values[known])
    axes.add_collection(circles)
    axes.plot(prediction.xy_px[~known, 0], prediction.xy_px[~known, 1], "x", color="black", markersize=4)
    if axes.figure is not None:
        axes.figure.colorbar(circles, ax=axes, shrink=0.8)


def _write(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})  # the same bytes whatever the version says
    with new_file(path, force=True) as whole:
        whole.write_bytes(picture.getvalue())
