"""An evaluation as a folder: one HTML page with its figures inside, the tables as CSV, and everything as JSON."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mclstexp.evaluate.result import DomainMap, EvaluationResult, GeneMap
from mclstexp.evaluate.scores import METRICS, MethodSummary
from mclstexp.metrics import cluster_agreement, pearson_by_gene
from mclstexp.model.chosen import choice_rule, figures_table, settings_table
from mclstexp.storage import new_folder
from mclstexp.text import harmless
from mclstexp.types import FloatArray

DPI = 110
CURVES_A_ROW = 4
_MARKERS = "osD^vP*X"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.warning { background: #fde8e4; border-left: 4px solid #c33; padding: .6rem 1rem; margin: .6rem 0 }
.scroll { overflow-x: auto } img { max-width: 100% } dt { font-family: monospace } dd { margin: 0 0 .3rem 1.5rem }
"""


def write_report(result: EvaluationResult, folder: Path, *, force: bool = False) -> Path:
    """Write ``report.html``, ``evaluation.json``, ``overall.csv``, ``slides.csv`` and ``genes.csv`` into a new folder.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ExistsAlreadyError
        When the folder exists and ``force`` is not set.
    StorageError
        When it cannot be written.
    """
    with new_folder(folder, force=force) as work:
        text = json.dumps(result.to_json(), indent=2, default=str, allow_nan=False)
        (work / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        _write_csv(work / "overall.csv", *overall_rows(result))
        _write_csv(work / "slides.csv", *result.slide_table())
        _write_csv(work / "genes.csv", *gene_rows(result))
        (work / "report.html").write_text(page(result), encoding="utf-8")
    return folder / "report.html"


def overall_rows(result: EvaluationResult) -> tuple[list[str], list[list[object]]]:
    """Return every measure of every method with its spread, a row each."""
    rows: list[list[object]] = [
        [summary.method, key, spread.mean, spread.sd_seeds, spread.sd_slides]
        for summary in result.summaries
        for key, spread in summary.values.items()
    ]
    return ["method", "measure", "mean", "sd_seeds", "sd_slides"], rows


def gene_rows(result: EvaluationResult) -> tuple[list[str], list[list[object]]]:
    """Return each gene's mean correlation, a column a method."""
    genes = list(dict.fromkeys(gene for summary in result.summaries for gene in summary.gene_pcc))
    rows: list[list[object]] = [[gene, *(summary.gene_pcc.get(gene) for summary in result.summaries)] for gene in genes]
    return ["gene", *(summary.method for summary in result.summaries)], rows


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(harmless, header))
        writer.writerows(["" if value is None else harmless(value) for value in row] for row in rows)


def page(result: EvaluationResult) -> str:
    """Return the report as one HTML document that needs no other file."""
    figures: list[tuple[str, Figure]] = [
        ("Correlation by slide: a dot is one held-out slide, the bar their mean.", slide_figure(result)),
        ("Correlation by gene, averaged over slides: quartiles, and the 5th and 95th percentile.", gene_figure(result)),
    ]
    covered = coverage_figure(result)
    if covered is not None:
        figures.append(("Share of measured values inside the predicted interval, by slide.", covered))
    maps = maps_figure(result.maps)
    if maps is not None:
        figures.append(
            (
                "The most variable genes of held-out slides: measured, and as each method predicts them. Each panel "
                "has its own colour range, from its lowest value (dark) to its highest.",
                maps,
            )
        )
    domains = domains_figure(result.domain_maps)
    if domains is not None:
        figures.append(
            (
                "Labels, and clusters of the expression in the colour of the label that they overlap most (grey: no "
                "label, not clustered). ARI is against the labels.",
                domains,
            )
        )
    warnings = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in result.warnings)
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in result.notes)
    words = "".join(f"<dt>{key}</dt><dd>{html.escape(text)}</dd>" for key, text in METRICS.items())
    pictures = "".join(
        f"<figure>{_image(figure)}<figcaption>{caption}</figcaption></figure>" for caption, figure in figures
    )
    protocol = "".join(f"<li>{html.escape(line)}</li>" for line in result.describe())
    body = [
        f"<h1>Evaluation</h1>{warnings}<h2>Protocol</h2><ul>{protocol}</ul>",
        f"<h2>Overall</h2>{_table(*result.table())}{pictures}",
        *_learned(result),
        f"<h2>By slide</h2>{_table(*result.slide_table())}",
        f"<h2>Known genes among the well predicted</h2>{_table(*enrichment_rows(result.summaries))}",
        f"<h2>What is measured</h2><dl>{words}</dl><h2>Notes</h2><ul>{notes or '<li>none</li>'}</ul>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _learned(result: EvaluationResult) -> list[str]:
    """Return what each training chose, a part a fold, method and seed."""
    parts = []
    for fold in result.folds:
        for choice in fold.get("learned", []):
            title = f"{choice['method']} without {fold['name']}" + (
                f", seed {choice['seed']}" if choice["seed"] else ""
            )
            figure = curves_figure(choice)
            parts.append(
                f"<h3>{html.escape(title)}</h3><p>Settings {html.escape(choice_rule(choice))}. "
                f"{html.escape(str(choice.get('verdict') or ''))}</p>{_table(*settings_table(choice))}"
                f"{_table(*figures_table(choice))}{'' if figure is None else _image(figure)}"
            )
    return ["<h2>What training chose</h2>", *parts] if parts else []


def enrichment_rows(summaries: Sequence[MethodSummary]) -> tuple[list[str], list[list[object]]]:
    """Return how rich the best-predicted tenth of the genes is in each known set, a row a method and set."""
    header = ["method", "set", "scored", "known", "top tenth", "of the set", "fold", "p hypergeometric", "p rank"]
    rows: list[list[object]] = [
        [s.method, e.name, e.n_scored, e.n_known, e.n_well, e.n_hits, e.fold, e.p_hypergeometric, e.p_mann_whitney]
        for s in summaries
        for e in s.enrichment
    ]
    return header, rows


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        if value is None:
            return "-"
        return f"{value:.4f}" if isinstance(value, float) else html.escape(str(value))

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>'


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Without a fixed entry the file would name matplotlib's version and differ between machines.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def slide_figure(result: EvaluationResult) -> Figure:
    """Draw PCC, HEG and HVG of every slide, a row a method."""
    keys = {"pcc": "PCC, all genes", "pcc_heg": "PCC, HEG-50", "pcc_hvg": "PCC, HVG-50"}
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(result.summaries)), layout="constrained")
    axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for axis, (key, title) in zip(axes, keys.items(), strict=True):
        _dots(axis, result, key)
        axis.set_title(title)
        axis.axvline(0, color="0.6", lw=0.8)
    slides = list(dict.fromkeys(score.slide_id for score in result.scores))
    if len(slides) <= len(_MARKERS):
        handles = [
            Line2D([], [], marker=marker, color="C0", alpha=0.6, ls="", mew=0, label=slide)
            for slide, marker in zip(slides, _MARKERS, strict=False)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(slides), frameon=False)
    return figure


def coverage_figure(result: EvaluationResult) -> Figure | None:
    """Draw the coverage of intervals by slide, or nothing where no method gives any."""
    if all(summary.values["coverage"].mean is None for summary in result.summaries):
        return None
    figure = Figure(figsize=(6, 1.2 + 0.42 * len(result.summaries)), layout="constrained")
    axis = figure.subplots()
    _dots(axis, result, "coverage")
    axis.set_title("coverage")
    axis.set_xlim(0, 1)
    return figure


def curves_figure(choice: Mapping[str, Any]) -> Figure | None:
    """Draw the score of a choice against each setting's values, the chosen one marked; nothing without curves."""
    curves = [curve for curve in choice.get("curves", []) if curve.get("values") and curve.get("score")]
    if not curves:
        return None
    rows = -(-len(curves) // CURVES_A_ROW)
    figure = Figure(figsize=(11, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, CURVES_A_ROW, squeeze=False).ravel()
    for axis, curve in zip(axes, curves, strict=False):
        points = list(zip(curve["values"], curve["score"], strict=False))
        score = np.array([np.nan if value is None else value for _, value in points], dtype=np.float64)
        axis.plot(range(len(score)), score, "o-", color="C0", ms=3, lw=1)
        if isinstance(curve.get("chosen"), int) and 0 <= curve["chosen"] < len(score):
            axis.plot(curve["chosen"], score[curve["chosen"]], "o", color="C3", ms=7)
        axis.set_xticks(range(len(score)), [str(value) for value, _ in points], fontsize=7)
        axis.set_title(str(curve.get("setting", "")), fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
    for axis in axes[len(curves) :]:
        axis.set_axis_off()
    return figure


def _dots(axis: Axes, result: EvaluationResult, key: str) -> None:
    slides = list(dict.fromkeys(score.slide_id for score in result.scores))
    for row, summary in enumerate(result.summaries):
        for score in result.scores:
            value = score.values[key]
            if score.method == summary.method and value is not None:
                marker = _MARKERS[slides.index(score.slide_id) % len(_MARKERS)]
                axis.plot(value, row, marker, color="C0", ms=5, alpha=0.6, mew=0)
        mean = summary.values[key].mean
        if mean is not None:
            axis.plot([mean, mean], [row - 0.32, row + 0.32], color="C3", lw=2)
    axis.set_yticks(range(len(result.summaries)), [summary.method for summary in result.summaries])
    axis.set_ylim(len(result.summaries) - 0.5, -0.5)
    axis.grid(axis="x", color="0.9")


def gene_figure(result: EvaluationResult) -> Figure:
    """Draw the distribution of the genes' correlation, a box a method."""
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(result.summaries)), layout="constrained")
    axis = figure.subplots()
    for row, summary in enumerate(result.summaries):
        values = np.array([value for value in summary.gene_pcc.values() if value is not None], dtype=np.float64)
        if len(values):
            low, q1, median, q3, high = np.percentile(values, [5, 25, 50, 75, 95])
            axis.hlines(row, low, high, color="C0", lw=1)
            axis.barh(row, q3 - q1, left=q1, height=0.5, color="C0", alpha=0.5)
            axis.vlines(median, row - 0.25, row + 0.25, color="C3", lw=2)
    axis.set_yticks(range(len(result.summaries)), [summary.method for summary in result.summaries])
    axis.set_ylim(len(result.summaries) - 0.5, -0.5)
    axis.axvline(0, color="0.6", lw=0.8)
    axis.set_xlabel("PCC")
    return figure


def maps_figure(maps: Sequence[GeneMap]) -> Figure | None:
    """Draw the kept gene maps: a row a slide and gene, the measured one first. Each panel has its own colour range."""
    maps = [picture for picture in maps if picture.predicted]
    if not maps:
        return None
    methods = list(dict.fromkeys(method for picture in maps for method in picture.predicted))
    figure, axes = _map_grid([picture.xy_px for picture in maps], 1 + len(methods))
    for row, picture in zip(axes, maps, strict=True):
        columns = {"measured": picture.measured, **{m: picture.predicted[m] for m in methods if m in picture.predicted}}
        for axis, (title, values) in zip(row, columns.items(), strict=False):
            text = title if title == "measured" else f"{title}  {_correlation(picture.measured, values)}"
            _draw_spots(axis, picture.xy_px, text, c=values, cmap="viridis")
        row[0].set_ylabel(f"{picture.slide_id}  {picture.gene}", fontsize=8)
    return figure


def domains_figure(maps: Sequence[DomainMap]) -> Figure | None:
    """Draw labels and clusters of a few labelled slides, a row a slide; nothing where no slide has labels."""
    if not maps:
        return None
    methods = list(dict.fromkeys(method for picture in maps for method in picture.clusters))
    figure, axes = _map_grid([picture.xy_px for picture in maps], 1 + len(methods))
    for row, picture in zip(axes, maps, strict=True):
        names = sorted(set(picture.labels.tolist()) - {""})
        codes = np.array([names.index(label) if label else -1 for label in picture.labels.tolist()], dtype=np.int64)
        _draw_spots(row[0], picture.xy_px, f"{len(names)} labels", c=_colours(codes))
        for axis, method in zip(row[1:], methods, strict=True):
            if method in picture.clusters:
                clusters = picture.clusters[method]
                ari, _ = cluster_agreement(clusters, picture.labels)
                matched = _match(clusters, codes, len(names))
                _draw_spots(axis, picture.xy_px, f"{method}  ARI {ari:.2f}", c=_colours(matched))
            else:
                axis.set_axis_off()
        row[0].set_ylabel(picture.slide_id, fontsize=8)
    return figure


def _match(clusters: NDArray[np.int64], codes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Give each cluster the number of the label that it overlaps most, one cluster a label."""
    known = clusters >= 0
    overlap = np.zeros((n, n), dtype=np.int64)
    np.add.at(overlap, (clusters[known], codes[known]), 1)
    _, label_of = linear_sum_assignment(overlap, maximize=True)
    return np.where(known, label_of[clusters], -1)


def _colours(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    palette = np.array(colormaps["tab20" if codes.max() >= 10 else "tab10"].colors)  # type: ignore[attr-defined]
    return np.where(codes[:, None] < 0, 0.85, palette[codes % len(palette)])


def _map_grid(places: Sequence[NDArray[np.float64]], n_columns: int) -> tuple[Figure, NDArray[np.object_]]:
    """Return panels as high as the slides are, a row a slide, room for a title above each."""
    width, title = 2.0, 0.25
    heights = []
    for xy in places:
        span = np.ptp(xy, axis=0)
        heights.append(width * float(np.clip(span[1] / span[0] if span[0] > 0 else 1.0, 0.4, 1.6)))
    # A fixed layout: the constrained one takes seconds for this many panels.
    mean = sum(heights) / len(heights)
    size = (n_columns * width * 1.05 + 0.35, sum(heights) + title * len(heights) + 0.05)
    figure = Figure(figsize=size)
    spacing = {
        "left": 0.3 / size[0],
        "right": 1 - 0.05 / size[0],
        "top": 1 - title / size[1],
        "bottom": 0.05 / size[1],
        "wspace": 0.05,
        "hspace": title / mean,
        "height_ratios": heights,
    }
    axes: NDArray[np.object_] = figure.subplots(len(places), n_columns, squeeze=False, gridspec_kw=spacing)
    return figure, axes


def _draw_spots(axis: Axes, xy: NDArray[np.float64], title: str, **colour: Any) -> None:
    x, y = xy.T
    axis.scatter(x, y, s=max(1.0, min(14.0, 2500 / max(len(x), 1))), linewidths=0, **colour)
    axis.set_title(title, fontsize=8, pad=3)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.set_yticks([])


def _correlation(measured: FloatArray, predicted: FloatArray) -> str:
    r = float(pearson_by_gene(measured[:, None], predicted[:, None])[0])
    return "constant" if np.isnan(r) else f"r {r:.2f}"
