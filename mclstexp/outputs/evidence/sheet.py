"""A sheet of evidence: a query patch and its neighbours' patches at one scale, each with its place on its slide."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mclstexp.errors import InputError
from mclstexp.index.reference import Reference
from mclstexp.outputs.evidence.patches import Tile, neighbour_tiles, query_tile
from mclstexp.outputs.evidence.spot import SpotEvidence, spot_evidence
from mclstexp.outputs.images import View, view_of
from mclstexp.outputs.maps.style import DPI, INK, bare, check_picture, save_figure, scale_bar, shortened, style
from mclstexp.predict.evidence import spot_neighbours
from mclstexp.predict.prediction import Prediction
from mclstexp.types import StrPath

MARK = "#D55E00"
"""Colour of the ring at a spot's place."""

MOST = 60
"""Neighbours that a sheet may show."""

_ACROSS = 4
_MARGIN, _LEFT, _CELL, _PATCH, _SMALL, _CAPTION, _LINE = 0.25, 3.0, 2.65, 1.45, 1.0, 0.62, 0.165
"""In inches: margin; the query's column; a cell, its patch, its slide in small, its caption; a line of the header."""


def evidence_sheet(
    prediction: Prediction,
    spot: str,
    path: StrPath,
    *,
    reference: Reference,
    gene: str | None = None,
    n: int = 12,
    images: StrPath | None = None,
    beside: StrPath = ".",
    dpi: int = DPI,
    force: bool = False,
) -> None:
    """Draw the patch of a spot beside those of its nearest neighbours as a PNG, PDF or SVG.

    Where an image is not at hand (it was never there, has moved or has changed) the tile says so.

    Parameters
    ----------
    spot
        Id of a spot of the query slide.
    reference
        What the prediction was made from.
    gene
        A gene whose value and contribution each neighbour shows.
    n
        Most neighbours to show, the most similar first.
    images
        Folder to look for images of reference slides that have moved.
    beside
        Folder against which a relative path of the query's image is tried, too.

    Raises
    ------
    InputError, MismatchError
        There is no such spot or gene; the reference is another one.
    ExistsAlreadyError, StorageError
        When ``path`` exists and ``force`` is not set; when the operating system refuses the write.
    """
    path = check_picture(path, force=force)
    if not 1 <= n <= MOST:
        raise InputError(f"A sheet shows 1 to {MOST} neighbours, got {n}.")
    reference.check_neighbours(spot_neighbours(prediction.evidence, spot, prediction.slide_id))
    evidence = spot_evidence(prediction, spot, gene, reference)
    shown, view = evidence.neighbours.head(n), view_of(prediction)
    query = query_tile(prediction, spot, view, beside=beside)
    tiles = neighbour_tiles(shown, reference, view, images=images)
    with style():
        save_figure(draw_sheet(evidence, query, tiles, view), path, dpi=dpi)


def draw_sheet(evidence: SpotEvidence, query: Tile, tiles: list[Tile], view: View) -> Figure:
    """Lay the sheet out: the sentences on top, the query on the left, neighbours in rows of four."""
    across = min(_ACROSS, len(tiles))
    down = -(-len(tiles) // across)
    width = 2 * _MARGIN + _LEFT + max(across, 2) * _CELL
    lines = [line for text in header(evidence, tiles) for line in textwrap.wrap(text, int(width / 0.067))]
    top = _MARGIN + 0.35 + _LINE * len(lines)
    height = top + max(down * (_PATCH + _CAPTION), 2 * (_LEFT - 0.6) + 0.8) + _MARGIN
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    page = _Page(figure, width, height)
    title = f"{shortened(evidence.slide, 60)}, spot {shortened(evidence.spot, 40)}: where its prediction comes from"
    page.text(_MARGIN, _MARGIN, title, fontsize=11, weight="bold")
    page.text(_MARGIN, _MARGIN + 0.3, "\n".join(lines), linespacing=1.35)
    _draw_query(page, query, view, top)
    for i, (tile, (rank, row)) in enumerate(zip(tiles, evidence.neighbours.head(len(tiles)).iterrows(), strict=True)):
        x = _MARGIN + _LEFT + (i % across) * _CELL
        y = top + (i // across) * (_PATCH + _CAPTION)
        _draw_neighbour(page, tile, view, (x, y), caption(int(rank), row, evidence))  # type: ignore[call-overload]
    return figure


class _Page:
    """A figure that is laid out in inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, x: float, y: float, text: str, **how: object) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, text, va="top", **how)  # type: ignore[arg-type]


def header(evidence: SpotEvidence, tiles: list[Tile]) -> list[str]:
    """Say how much the neighbours say, whose they are, and how many of them are shown."""
    text = evidence.sentences()
    for by, table in reversed(evidence.sums.items()):
        parts = [f"{shortened(str(name), 24)} {weight:.0%}" for name, weight in table["weight"].head(10).items()]
        more = f", {len(table) - 10} more" if len(table) > 10 else ""
        text.append(f"Weight by {by}: {', '.join(parts)}{more}.")
    held = evidence.neighbours["weight"].head(len(tiles)).sum()
    text.append(
        f"The {len(tiles)} most similar of {len(evidence.neighbours)} neighbours are shown; they hold {held:.1%} of "
        "the weight."
    )
    return text


def caption(rank: int, row: pd.Series, evidence: SpotEvidence) -> str:
    """Return the lines under a neighbour's patch."""
    patient = f"patient {row['patient']}" if row["patient"] else "patient unknown"
    lines = [
        shortened(f"{rank}. {row['slide']} {row['spot']}, {patient}", 44),
        f"similarity {row['similarity']:.4f}, weight {row['weight']:.4f}",
    ]
    if evidence.gene is not None:
        known = np.isfinite(row["value"])
        value = f"{row['value']:.2f}, contributes {row['contribution']:.4f}" if known else "not measured"
        lines.append(f"{shortened(evidence.gene.symbol, 16)} {value}")
    if row["label"]:
        lines.append(shortened(f"label: {row['label']}", 44))
    return "\n".join(lines)


def _draw_query(page: _Page, tile: Tile, view: View, top: float) -> None:
    side = _LEFT - 0.6
    axes = page.axes(_MARGIN, top, side, side)
    _draw_patch(axes, tile, view, bar=True)
    size = f"{view.side_um:.0f} um" if view.side_um is not None else f"{view.size_px} px, pixel size unknown"
    page.text(_MARGIN, top + side + 0.06, f"the query's patch; every patch is {size} wide")
    _draw_place(page.axes(_MARGIN, top + side + 0.35, side, side), tile, anchor="NW")


def _draw_neighbour(page: _Page, tile: Tile, view: View, at: tuple[float, float], text: str) -> None:
    x, y = at
    _draw_patch(page.axes(x, y, _PATCH, _PATCH), tile, view, bar=False)
    _draw_place(page.axes(x + _PATCH + 0.06, y + _PATCH - _SMALL, _SMALL, _SMALL), tile, anchor="SW")
    page.text(x, y + _PATCH + 0.05, text, fontsize=7, linespacing=1.2)


def _draw_patch(axes: Axes, tile: Tile, view: View, *, bar: bool) -> None:
    bare(axes)
    if tile.patch is None:
        axes.set_facecolor("#EEEEEE")
        why = "\n".join(textwrap.wrap(tile.absent, 22)[:6])
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=7)
        return
    axes.imshow(tile.patch, interpolation="lanczos")
    if bar and view.side_um is not None:
        scale_bar(axes, view.side_um / tile.patch.shape[1])


def _draw_place(axes: Axes, tile: Tile, *, anchor: str) -> None:
    """Draw the slide in small: its picture or its spots, and a ring where the patch lies."""
    bare(axes)
    small, (x, y) = tile.slide, tile.xy_px.tolist()
    if small.picture is not None and small.scale is not None:
        height, width = (side / small.scale for side in small.picture.shape[:2])
        axes.imshow(small.picture, extent=(0, width, height, 0), alpha=0.8)
    else:
        axes.scatter(small.spots[:, 0], small.spots[:, 1], s=1.2, color="#AAAAAA", linewidths=0)
    low, high = small.spots.min(axis=0), small.spots.max(axis=0)
    margin = max(0.1 * float((high - low).max()), 1.0)
    axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(high[1] + margin, low[1] - margin))
    axes.set_aspect("equal", anchor=anchor)
    axes.scatter(x, y, s=46, facecolors="none", edgecolors="white", linewidths=2.4)
    axes.scatter(x, y, s=46, facecolors="none", edgecolors=MARK, linewidths=1.3)
    axes.scatter(x, y, s=2, color=INK)
