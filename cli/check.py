"""``mst check``: what each slide has and lacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, progress, table
from mclstexp.errors import InputError
from mclstexp.text import gathered, some

if TYPE_CHECKING:
    from mclstexp.data.readers import SlideReport

_HEADER = ("slide", "layout", "patient", "cohort", "spots", "genes", "image", "mpp", "from", "problems")


def check(
    refs: Annotated[
        Path,
        typer.Argument(
            help="Folder of slides, of any layout listed above; also one .h5ad, .csv or table of transcripts.",
            show_default=False,
        ),
    ],
    mpp: options.Mpp = None,
    mpp_from: options.MppFrom = None,
    bin_um: options.BinUm = None,
    cells: options.Cells = False,
    pool_um: options.PoolUm = None,
    as_json: options.AsJson = False,
) -> None:
    """List what was found of every slide, and what is wrong with it.

    Exits with 1 when a slide cannot be used. What is merely missing (an image, the patient) is said on stderr.

    Layouts, each known by:

    \b
    slides_csv     slides.csv, which names everything and wins
    her2st         ST-cnts/, as github.com/almaan/her2st has it (HER2+)
    her2st_loose   A1.tsv.gz with A1_selection.tsv, out of their folders
    wu2021         filtered_count_matrices/ with spatial/ (Wu et al. 2021)
    cscc           P2_ST_rep1_stdata.tsv (cSCC, GSE144240)
    legacy_st      alignment_table_NAME.tsv with NAME.tsv.gz
    hest           st/ with wsis/ or HEST_v*.csv (HEST-1k)
    spatialdata    NAME.zarr of SpatialData
    h5ad           NAME.h5ad with NAME.tif
    xenium         experiment.xenium, pooled to pseudo-spots; --cells
    transcripts    NAME_transcripts.parquet or .csv (x, y, gene), pooled
    visium_hd      binned_outputs/ or segmented_outputs/; --bin-um, --cells
    space_ranger   filtered_feature_bc_matrix(.h5) with spatial/

    Example: mst check refs/
    """  # noqa: D301 - the b with a backslash keeps click from joining the lines
    from mclstexp.data.readers import inspect_slides

    reports = inspect_slides(
        refs, mpp=mpp, mpp_from=mpp_from, bin_um=bin_um, cells=cells, pool_um=pool_um, on_progress=progress()
    )
    if as_json:
        emit_json([_record(report) for report in reports])
    else:
        emit(table(_HEADER, [_row(report) for report in reports]))
        for kind in ("problems", "warnings"):
            for line in _grouped(reports, kind):
                note(f"{kind[:-1]}: {line}")
    wrong = [report.slide_id for report in reports if report.problems]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(reports)} slides have problems: {some(wrong, 10)}.")


def _grouped(reports: list[SlideReport], kind: str) -> list[str]:
    """One line for what several slides have in common, whatever its numbers."""
    lines = [
        (report.slide_id, line.removeprefix(f"Slide {report.slide_id}: "))
        for report in reports
        for line in getattr(report, kind)
    ]
    return [f"{_slides(names)}: {text}" for names, text in gathered(lines)]


def _slides(names: list[str]) -> str:
    return f"slide {names[0]}" if len(names) == 1 else f"{len(names)} slides ({some(names, 4)})"


def _row(report: SlideReport) -> list[object]:
    record = _record(report)
    size = record["image_px"]
    return [
        record["slide"],
        record["layout"],
        record["patient"] or "?",
        record["cohort"] or "?",
        record["spots"],
        record["genes"],
        f"{size[0]}x{size[1]}" if size else "-",
        record["mpp"],
        record["mpp_source"] or "-",
        len(report.problems),
    ]


def _record(report: SlideReport) -> dict[str, Any]:
    slide = report.slide
    image = slide.image if slide else None
    return {
        "slide": report.slide_id,
        "layout": report.layout,
        "patient": slide.patient if slide else None,
        "cohort": slide.cohort if slide else None,
        "spots": len(slide) if slide else None,
        "genes": len(slide.spots.genes) if slide and slide.spots.genes else None,
        "image": str(image.path) if image else None,
        "image_px": list(image.size_px) if image else None,
        "mpp": slide.mpp if slide else None,
        "mpp_source": slide.mpp_source if slide else None,
        "pitch_um": slide.pitch_um if slide else None,
        "labelled_spots": int((slide.spots.labels != "").sum()) if slide and slide.spots.labels is not None else 0,
        "problems": list(report.problems),
        "warnings": list(report.warnings),
    }
