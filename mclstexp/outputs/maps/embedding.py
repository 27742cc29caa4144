"""A map of the space that is searched: reference spots and the query's patches, laid out flat by UMAP."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mclstexp.errors import InputError, MismatchError
from mclstexp.index.reference import Reference
from mclstexp.notes import inform
from mclstexp.outputs.maps.style import (
    CATEGORIES,
    DPI,
    INK,
    OTHERS,
    SURENESS,
    bare,
    check_picture,
    new_figure,
    save_figure,
    shortened,
    style,
)
from mclstexp.predict.prediction import Prediction
from mclstexp.types import FloatArray, StrPath

SAMPLE = 3000
"""Reference spots that are laid out, drawn at random; and as many of the query's."""

LEAST = 4
"""Points that UMAP needs."""

_SIDE = 3.6
_UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Layout:
    """Points on the plane.

    Attributes
    ----------
    reference, query
        ``(m, 2)`` and ``(n, 2)`` float32.
    groups
        Of each reference spot, by what: patient, slide and label.
    familiarity
        ``(n,)`` of the query's patches, NaN where not known.
    total
        Spots of the reference, of which the sample was drawn.
    """

    reference: FloatArray
    query: FloatArray
    groups: dict[str, list[str]]
    familiarity: FloatArray
    total: int


def embedding_map(
    prediction: Prediction,
    reference: Reference,
    path: StrPath,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
    dpi: int = DPI,
    force: bool = False,
) -> None:
    """Draw reference spots and the query's patches as UMAP lays them out, by patient, slide, label and familiarity.

    Parameters
    ----------
    reference
        What the prediction was made from, for its keys.
    sample
        Most reference spots to draw, and most of the query's; chosen at random.
    seed
        Of the sample and of UMAP: the same seed gives the same picture.

    Raises
    ------
    InputError
        When the prediction holds no embeddings.
    MismatchError
        When the reference is of another model.
    ExistsAlreadyError, StorageError
        When ``path`` exists and ``force`` is not set; when the operating system refuses the write.
    """
    path = check_picture(path, force=force)
    layout = lay_out(prediction, reference, sample=sample, seed=seed)
    with style():
        save_figure(draw_layout(layout, prediction.slide_id), path, dpi=dpi)


def lay_out(prediction: Prediction, reference: Reference, *, sample: int = SAMPLE, seed: int = 0) -> Layout:
    """Draw the sample and lay it out; see `embedding_map`."""
    if prediction.embedding is None:
        raise InputError("The prediction holds no embeddings, which earlier versions did not keep; repeat mst query.")
    store = reference.store
    model = prediction.settings.get("model")
    if model != store.identity.model_digest:
        raise MismatchError(
            f"The prediction was made with model {str(model)[:12]}, reference {store.root} with "
            f"{store.identity.model_digest[:12]}; name the right one with --reference."
        )
    rng = np.random.default_rng(seed)
    live = np.concatenate([np.arange(*entry.rows) for entry in store.entries])
    ids = np.sort(rng.choice(live, min(sample, len(live)), replace=False))
    shown = np.sort(rng.choice(len(prediction), min(sample, len(prediction)), replace=False))
    spots = store.spots(ids, ["slide_id", "patient", "label"])
    inform(f"laying out {len(ids) + len(shown):,} points by UMAP, which takes a quarter of a minute or more")
    plane = umap(np.concatenate([store.embeddings(ids), prediction.embedding[shown]]), seed)
    named = {"patient": "patient", "slide": "slide_id", "label": "label"}
    familiarity = np.asarray(prediction.obs.get("familiarity", np.full(len(prediction), np.nan)), np.float32)
    return Layout(
        reference=plane[: len(ids)],
        query=plane[len(ids) :],
        groups={by: [value or _UNKNOWN for value in spots[name].to_pylist()] for by, name in named.items()},
        familiarity=familiarity[shown],
        total=len(live),
    )


def umap(points: FloatArray, seed: int) -> FloatArray:
    """Lay unit vectors ``(n, d)`` out on the plane by UMAP over their cosine neighbours, ``(n, 2)`` float32."""
    if len(points) < LEAST:
        raise InputError(f"{len(points)} spots are too few for a map of embeddings; {LEAST} are needed.")
    from umap import UMAP

    # scanpy's own neighbours (1.11.5) fail with the newest scipy, so umap-learn, which it calls, is called here.
    start = "spectral" if len(points) > 50 else "random"
    flat = UMAP(n_neighbors=min(15, len(points) - 1), metric="cosine", random_state=seed, n_jobs=1, init=start)
    return np.asarray(flat.fit_transform(points), dtype=np.float32)


def draw_layout(layout: Layout, slide: str) -> Figure:
    """Draw the plane four times: by patient, slide and label of the reference, and by the query's familiarity."""
    figure = new_figure(4 * _SIDE, _SIDE + 1.35)
    size = f"{len(layout.reference):,} of {layout.total:,} reference spots (dots), {len(layout.query):,} patches"
    title = f"{shortened(slide, 60)}: {size} of the query (black rings), UMAP of the space that is searched"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    places = figure.subplots(1, 4)
    for axes, (by, names) in zip(places[:3], layout.groups.items(), strict=True):
        _by_group(axes, layout, by, names)
    _by_familiarity(places[3], layout)
    return figure


def _by_group(axes: Axes, layout: Layout, by: str, names: list[str]) -> None:
    _frame(axes, f"reference by {by}")
    counts = Counter(name for name in names if name != _UNKNOWN)
    if not counts:
        _points(axes, layout.reference, OTHERS)
        _rings(axes, layout.query)
        axes.text(0.5, -0.04, f"no {by} is known", transform=axes.transAxes, ha="center", va="top", fontsize=7)
        return
    largest = [name for name, _ in counts.most_common(len(CATEGORIES))]
    colours = dict(zip(sorted(largest), CATEGORIES, strict=False))
    _points(axes, layout.reference, [colours.get(name, OTHERS) for name in names])
    _rings(axes, layout.query)
    rest = len(counts) - len(colours)
    entries = [(shortened(name, 18), colour) for name, colour in colours.items()]
    entries += [(f"{rest} others", OTHERS)] if rest else []
    entries += [(_UNKNOWN, OTHERS)] if _UNKNOWN in names and not rest else []
    handles = [Line2D([], [], marker="o", ls="", ms=4, color=colour, label=name) for name, colour in entries]
    axes.legend(handles=handles, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False,
                handletextpad=0.1, columnspacing=0.8, borderaxespad=0.2)  # fmt: skip


def _by_familiarity(axes: Axes, layout: Layout) -> None:
    _frame(axes, "query by familiarity")
    _points(axes, layout.reference, "#DDDDDD")
    known = np.isfinite(layout.familiarity)
    _rings(axes, layout.query[~known])
    at, shades = layout.query[known], layout.familiarity[known]
    drawn = axes.scatter(
        at[:, 0], at[:, 1], c=shades, cmap=SURENESS, vmin=0, vmax=100, s=11, edgecolors=INK, linewidths=0.3,
        rasterized=len(at) > 2000,
    )  # fmt: skip
    if axes.figure is not None:
        place = axes.inset_axes((0.1, -0.07, 0.8, 0.035))
        bar = axes.figure.colorbar(drawn, cax=place, orientation="horizontal",
                                   label="familiarity: percentile among the reference's patches")  # fmt: skip
        bar.outline.set_visible(False)  # type: ignore[operator]


def _frame(axes: Axes, title: str) -> None:
    bare(axes)
    axes.set_title(title)
    axes.set_box_aspect(1)


def _points(axes: Axes, points: NDArray[np.float32], colours: list[str] | str) -> None:
    axes.scatter(points[:, 0], points[:, 1], c=colours, s=3, linewidths=0, alpha=0.8, rasterized=len(points) > 2000)


def _rings(axes: Axes, points: NDArray[np.float32]) -> None:
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=9,
        facecolors="none",
        edgecolors=INK,
        linewidths=0.5,
        rasterized=len(points) > 2000,
    )
