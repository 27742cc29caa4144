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
            help="Folder of slides: HER2+ layout, legacy ST, Space Ranger, .h5ad with images, or a slides.csv.",
            show_default=False,
        ),
    ],
    mpp: options.Mpp = None,
    as_json: options.AsJson = False,
) -> None:
    """List what was found of every slide, and what is wrong with it.

    Exits with 1 when a slide cannot be used. What is merely missing (an image, the patient) is said on stderr.

    Example: mst check refs/
    """
    from mclstexp.data.readers import inspect_slides

    reports = inspect_slides(refs, mpp=mpp, on_progress=progress())
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
