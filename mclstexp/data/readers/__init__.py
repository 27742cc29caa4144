"""Readers of reference slides: what a folder holds is found by its layout, and read slide by slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mclstexp.data.positions.tissue import looks_misplaced
from mclstexp.data.readers import h5ad, her2st, slides_csv, space_ranger
from mclstexp.data.readers.source import SlideSource
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import duplicates

__all__ = ["SlideReport", "inspect_slides", "read_slides"]

_DEPTH = 3
"""How many folders deep slides are looked for."""

_LAYOUTS = (her2st, h5ad, space_ranger)


@dataclass(frozen=True)
class SlideReport:
    """What was found of one slide.

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


def read_slides(
    refs: Path,
    *,
    mpp: float | None = None,
    only: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Slide]:
    """Read every slide under a path; of the images only the headers.

    Parameters
    ----------
    refs
        A folder of the HER2+ layout, a Space Ranger output, .h5ad files with their images, a ``slides.csv`` (which wins
        where there is one), or a folder of such folders; or one .h5ad or .csv file.
    mpp
        Pixel size in um of all these slides, above what their files say.
    only
        Names of the slides to read.
    on_progress
        Called with (slides read, slides).

    Returns
    -------
    The slides in the order of their names.

    Raises
    ------
    InputError
        For the first thing that is wrong.
    """
    sources = _discover(refs)
    repeated = duplicates(source.slide_id for source in sources)
    if repeated:
        raise InputError(f"{refs} holds more than one slide named {repeated[0]!r}; rename one.")
    if only is not None:
        known = {source.slide_id for source in sources}
        unknown = [name for name in only if name not in known]
        if unknown:
            raise InputError(f"{refs} has no slide {unknown[0]!r}; it has {_some(sorted(known))}.")
        sources = [source for source in sources if source.slide_id in set(only)]
    slides = []
    for done, source in enumerate(sources, start=1):
        slides.append(source.load(mpp))
        if on_progress:
            on_progress(done, len(sources))
    return slides


def inspect_slides(
    refs: Path, *, mpp: float | None = None, on_progress: Callable[[int, int], None] | None = None
) -> list[SlideReport]:
    """Read every slide under a path and report on each; images are looked at, too.

    Parameters
    ----------
    refs, mpp, on_progress
        As in ``read_slides``.

    Raises
    ------
    InputError
        Only when there is nothing to report on: no such path, or no slide in it.
    """
    sources = _discover(refs)
    repeated = set(duplicates(source.slide_id for source in sources))
    reports = []
    for done, source in enumerate(sources, start=1):
        report = _inspect(source, mpp)
        if source.slide_id in repeated:
            problem = f"another slide is named {source.slide_id!r}, too; rename one."
            report = replace(report, problems=(*report.problems, problem))
        reports.append(report)
        if on_progress:
            on_progress(done, len(sources))
    return reports


def _inspect(source: SlideSource, mpp: float | None) -> SlideReport:
    try:
        slide = source.load(mpp)
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
            warnings.append(
                f"{name} unknown: name it in slides.csv or {slides_csv.METADATA_NAME} (slide,patient,cohort)."
            )
    return SlideReport(source.slide_id, source.layout, slide, tuple(problems), tuple(warnings))


def _discover(refs: Path) -> list[SlideSource]:
    refs = Path(refs)
    if not refs.exists():
        raise InputError(f"{refs} does not exist.")
    if refs.is_file():
        if refs.suffix.lower() == ".h5ad":
            return [h5ad.find_file(refs)]
        if refs.suffix.lower() == ".csv":
            return sorted(slides_csv.find(refs), key=lambda source: source.slide_id)
        raise InputError(f"{refs} is neither a folder, nor an .h5ad, nor a slides.csv.")
    try:
        sources = _walk(refs, _DEPTH)
    except OSError as error:
        raise InputError(f"{error.filename or refs} cannot be read: {error.strerror or error}.") from error
    if not sources:
        raise InputError(
            f"{refs} holds no slides: no slides.csv, no ST-cnts/ (HER2+ layout), no Space Ranger output and no .h5ad, "
            f"here or {_DEPTH} folders down."
        )
    return sorted(sources, key=lambda source: source.slide_id)


def _walk(folder: Path, depth: int) -> list[SlideSource]:
    if (folder / slides_csv.FILE_NAME).is_file():
        return slides_csv.find(folder / slides_csv.FILE_NAME)
    layout = next((layout for layout in _LAYOUTS if layout.matches(folder)), None)
    if layout is not None:
        found = layout.find(folder)
    elif depth > 0:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        found = [source for path in below for source in _walk(path, depth - 1)]
    else:
        found = []
    metadata = slides_csv.read_metadata(folder)
    return [_with_metadata(source, metadata[source.slide_id], folder) if source.slide_id in metadata else source
            for source in found]  # fmt: skip


def _with_metadata(source: SlideSource, row: dict[str, str], folder: Path) -> SlideSource:
    def load(mpp: float | None) -> Slide:
        own = slides_csv.number(row, "mpp", folder / slides_csv.METADATA_NAME)
        slide = source.load(mpp if mpp is not None else own)
        return replace(slide, patient=row.get("patient") or slide.patient, cohort=row.get("cohort") or slide.cohort)

    return SlideSource(source.slide_id, source.layout, load)


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
