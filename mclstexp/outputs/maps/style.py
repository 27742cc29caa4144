"""How every picture looks: sizes, fonts, colours for colour-blind readers, and how it is written."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mclstexp.errors import InputError
from mclstexp.storage import check_output, new_file
from mclstexp.types import StrPath

FORMATS = (".png", ".pdf", ".svg")
"""File names that a picture may have."""

DPI = 200
"""Pixels an inch of a PNG, and of the image inside a PDF or SVG."""

EXPRESSION, SURENESS = "viridis", "cividis"
"""Colour maps of expression, and of how sure it is: even steps of lightness, read alike by colour-blind eyes."""

CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#882255")
"""Colours of slides, patients, cohorts and labels (Okabe and Ito, with Tol's wine for black)."""

OTHERS = "#AAAAAA"
"""Colour of what is not told apart."""

INK = "#222222"

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # names are names: a dollar begins no formula
    "pdf.fonttype": 42,  # text that an editor can change
    "svg.hashsalt": "mclstexp",  # the same bytes each time
}
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and write inside the block in the one style; what the caller has set of matplotlib is back after it."""
    with rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def check_picture(path: StrPath, *, force: bool = False) -> Path:
    """Refuse, before any work, a picture of another kind or one that exists.

    Raises
    ------
    InputError, ExistsAlreadyError
        The name ends otherwise or its folder is missing; the file exists and ``force`` is not set.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"A picture is a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, got {path.name!r}; give it such a suffix."
        )
    check_output(path, force=force)
    return path


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches; neither pyplot nor a display is needed."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.03))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write a figure in the format that the name says, whole or not at all; the same figure gives the same bytes.

    Raises
    ------
    InputError
        When it would have more pixels than a picture can have.
    StorageError
        When the operating system refuses the write.
    """
    kind = path.suffix.lower().lstrip(".")
    side = max(figure.get_size_inches()) * dpi
    if side >= 2**16:
        raise InputError(
            f"At {dpi} dpi the picture would be {side:,.0f} px long, 65,535 is the limit; give fewer genes."
        )
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=dpi, metadata=_METADATA[kind])
    with new_file(path, force=True) as whole:
        whole.write_bytes(picture.getvalue())


def bare(axes: Axes) -> None:
    """Take ticks and frame from axes that show a picture."""
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def scale_bar(axes: Axes, mpp: float | None, *, unknown: bool = True, corner: str = "lower right") -> None:
    """Draw a scale bar in um on axes in full-resolution pixels; say so where no pixel size is known."""
    if mpp is None:
        if unknown:
            at = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "fontsize": 6.5}
            axes.text(0.99, 0.01, "no pixel size, no scale", **at)  # type: ignore[arg-type]
        return
    from matplotlib_scalebar.scalebar import ScaleBar

    axes.add_artist(
        ScaleBar(
            mpp,
            "um",
            length_fraction=0.25,
            location=corner,
            box_alpha=0.75,
            color=INK,
            width_fraction=0.012,
            pad=0.25,
            sep=2,
            font_properties={"size": 7},
            scale_formatter=_length,
        )
    )


def _length(value: float, unit: str) -> str:
    """Write a length without mathematical markup, in which scale bars have their micro sign."""
    return f"{value:g} {'um' if 'mu' in unit else unit}"


def shortened(text: str, limit: int = 28) -> str:
    """Return a text, its middle left out where it is longer than ``limit``.

    Examples
    --------
    >>> shortened("a_very_long_name_of_a_slide.ome", 15)
    'a_very_…ide.ome'
    """
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"
