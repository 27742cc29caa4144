"""``mst check``: what each slide has and lacks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, progress, table
from mclstexp.errors import InputError
from mclstexp.text import some

if TYPE_CHECKING:
    from mclstexp.data.readers import SlideReport

_NUMBER = re.compile(r"(?<![\w.'-])\d+(?:\.\d+)?(?![\w'])")
"""A number that stands alone: not a part of a name, and not quoted."""

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
    groups: dict[str, dict[str, str]] = {}
    for report in reports:
        for line in getattr(report, kind):
            text = line.removeprefix(f"Slide {report.slide_id}: ")
            groups.setdefault(_NUMBER.sub("#", text), {})[report.slide_id] = text
    return [f"{_slides(list(texts))}: {_with_ranges(list(texts.values()))}" for texts in groups.values()]


def _with_ranges(texts: list[str]) -> str:
    """Return the text of all, each number as the range that it has in them."""
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    ranges = iter([_range(sorted(set(column), key=float)) for column in columns])
    return _NUMBER.sub(lambda _: next(ranges), texts[0])


def _range(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


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
