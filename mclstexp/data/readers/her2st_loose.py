"""HER2+ sections out of their folders: ``A1.tsv.gz`` and ``A1_selection.tsv`` in one place, or Zenodo's three folders.

Zenodo's archive of the cohort (record 4751624) has ``count-matrices/``, ``spot-selections/`` and ``images/HE/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import IMAGE_SUFFIXES, open_image
from mclstexp.data.positions.files import parse_selection
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.her2st import UNDETERMINED, read_labels
from mclstexp.data.readers.matrices import read_count_table
from mclstexp.data.readers.source import SlideSource
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import some

NAME = "her2st_loose"
LOOKS_FOR = "A1.tsv(.gz) with A1_selection.tsv (HER2+ files without their folders)"

_COUNTS, _SPOTS, _IMAGES, _LABELS = (
    ("", "count-matrices"),
    ("", "spot-selections", "spot-selection"),
    ("", "images/HE", "images"),
    ("", "meta"),
)
_SELECTION = re.compile(r"(.+)_selection\.tsv(?:\.gz)?")


def matches(path: Path) -> bool:
    """Whether the path is a folder with counts and selection of one section at least."""
    return path.is_dir() and any(_counts(path, name) for name, _ in _selections(path))


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the sections that have a selection file."""
    selections = dict(_selections(path))
    alone = len(selections) == 1
    return [SlideSource(name, NAME, partial(_read, path, name, selections[name], alone)) for name in sorted(selections)]


def _read(folder: Path, name: str, spots: Path, alone: bool, size: PixelSize) -> Slide:
    counts = _counts(folder, name)
    if counts is None:
        raise InputError(f"Slide {name} has no counts: {folder / name}.tsv(.gz) does not exist.")
    image_path, notes = _image(folder, name, alone)
    published = re.fullmatch(r"([A-H])[1-6]", name)
    if published:
        notes.append("named as a section of the HER2+ cohort: the letter was taken for its patient.")
    labels = next((path for path in _in(folder, _LABELS, f"{name}_labeled_coordinates.tsv")), None)
    if labels:
        notes.append(f"labels are the pathologist's; {UNDETERMINED!r} counts as no label.")
    draft = Draft(
        slide_id=name,
        layout=NAME,
        coords=parse_selection(spots),
        counts=read_count_table(counts),
        image=open_image(image_path) if image_path else None,
        patient=published[1] if published else "",
        cohort="her2st" if published else "",
        labels={s: text for s, text in read_labels(labels).items() if text != UNDETERMINED} if labels else None,
        sources=(counts, spots, *([image_path] if image_path else []), *([labels] if labels else [])),
        notes=tuple(notes),
        without_image="no image whose name has that of the section: counts only.",
    )
    return build_slide(draft, size)


def _selections(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in _in(folder, _SPOTS, "*_selection.tsv*"):
        name = _SELECTION.fullmatch(path.name)
        if name:
            yield name[1], path


def _counts(folder: Path, name: str) -> Path | None:
    return next((path for end in (".tsv.gz", ".tsv") for path in _in(folder, _COUNTS, f"{name}{end}")), None)


def _in(folder: Path, places: tuple[str, ...], pattern: str) -> Iterator[Path]:
    for place in places:
        yield from sorted((folder / place).glob(pattern))


def _image(folder: Path, name: str, alone: bool) -> tuple[Path | None, list[str]]:
    """Return the image whose name has the section's as a word, else the only image of the only section."""
    images = [path for path in _in(folder, _IMAGES, "*") if path.suffix.lower() in IMAGE_SUFFIXES]
    own = [path for path in images if name in re.split(r"[^A-Za-z0-9]+", path.stem)]
    if len(own) > 1:
        raise InputError(f"{folder} has several images of {name} ({some(path.name for path in own)}); keep one.")
    if own:
        return own[0], []
    if alone and len(images) == 1:
        return images[0], ["the one image there was taken for the one section's."]
    return None, []
