"""What is there and what is wrong, slide by slide: what ``mst check`` prints."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mclstexp.data.assemble import PixelSize
from mclstexp.data.positions.tissue import looks_misplaced
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.discover import discover
from mclstexp.data.readers.metadata import METADATA_NAME
from mclstexp.data.readers.source import SlideSource
from mclstexp.data.readers.twins import said_of, twins
from mclstexp.errors import InputError
from mclstexp.slide import MppSource, Slide
from mclstexp.text import duplicates
from mclstexp.types import Progress, StrPath


@dataclass(frozen=True)
class SlideReport:
    """What was learnt of one slide.

    Attributes
    ----------
    slide_id, layout
        As in ``Slide``.
    slide
        The slide, or None where it cannot be read.
    problems
        What makes it unusable or wrong, one sentence each.
    warnings
        What is missing or was assumed, one sentence each.
    """

    slide_id: str
    layout: str
    slide: Slide | None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def inspect_slides(
    refs: StrPath,
    *,
    mpp: float | None = None,
    mpp_from: MppSource | None = None,
    bin_um: int | None = None,
    cells: bool = False,
    pool_um: float | None = None,
    on_progress: Progress | None = None,
) -> list[SlideReport]:
    """Read every slide under a path and report on each; images are looked at, too.

    Parameters
    ----------
    refs, mpp, mpp_from, bin_um, cells, pool_um, on_progress
        As in ``read_slides``.

    Raises
    ------
    InputError
        Only when there is nothing to report on: no such path, or no slide in it.
    """
    sources = discover(refs, Choices(bin_um, cells, pool_um))
    repeated = set(duplicates(source.slide_id for source in sources))
    reports = []
    for done, source in enumerate(sources, start=1):
        report = _inspect(source, PixelSize(mpp, mpp_from))
        if source.slide_id in repeated:
            problem = f"another slide is named {source.slide_id!r}, too; rename one."
            report = replace(report, problems=(*report.problems, problem))
        reports.append(report)
        if on_progress:
            on_progress("reading slides", done, len(sources))
    repeated_counts = twins(report.slide for report in reports if report.slide is not None)
    return [_with_twin(report, repeated_counts.get(report.slide_id)) for report in reports]


def _with_twin(report: SlideReport, same: str | None) -> SlideReport:
    return report if same is None else replace(report, warnings=(*report.warnings, said_of(report.slide_id, same)))


def _inspect(source: SlideSource, size: PixelSize) -> SlideReport:
    try:
        slide = source.load(size)
    except InputError as error:
        return SlideReport(source.slide_id, source.layout, None, (str(error),))
    problems: list[str] = []
    warnings = list(slide.notes)
    if slide.image is not None:
        try:
            misplaced = looks_misplaced(slide)
            problems += [f"{misplaced}."] if misplaced else []
        except InputError as error:
            problems.append(str(error))
        slide.image.close()
        if slide.mpp is None:
            problems.append("no pixel size: none given, in the files, or from a known pitch; give it with --mpp.")
    if not len(slide):
        problems.append("it has no spots.")
    for name in ("patient", "cohort"):
        if not getattr(slide, name):
            warnings.append(f"{name} unknown: name it in slides.csv or {METADATA_NAME} (slide,patient,cohort).")
    return SlideReport(source.slide_id, source.layout, slide, tuple(problems), tuple(warnings))
