"""The HER2+ cohort as published (Andersson et al. 2021): one patient a letter, one section a number."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.positions.files import parse_selection
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.matrices import read_count_table
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.data.tables import numbers, read_table
from mclstexp.errors import InputError
from mclstexp.slide import Slide

NAME = "her2st"
LOOKS_FOR = "a folder ST-cnts/ (HER2+ as published)"

UNDETERMINED = "undetermined"
"""What the pathologist wrote where no label applied; the field's comparisons leave such spots out (Hist2ST)."""


def matches(path: Path) -> bool:
    """Whether the path is a folder of this layout."""
    return (path / "ST-cnts").is_dir()


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the sections that have counts or coordinates."""
    counts = {file.name.split(".")[0] for file in (path / "ST-cnts").glob("*.tsv*")}
    spots = {file.name.removesuffix("_selection.tsv") for file in (path / "ST-spotfiles").glob("*_selection.tsv")}
    names = sorted(counts | spots)
    return [SlideSource(name, NAME, partial(_read, path, name), _image_folder(path, name).is_dir()) for name in names]


def _image_folder(folder: Path, name: str) -> Path:
    patient = re.match(r"[A-Za-z]*", name)
    return folder / "ST-imgs" / (patient[0] if patient else "") / name


def _read(folder: Path, name: str, size: PixelSize) -> Slide:
    counts_path = next(iter(sorted((folder / "ST-cnts").glob(f"{name}.tsv*"))), None)
    spots_path = folder / "ST-spotfiles" / f"{name}_selection.tsv"
    if counts_path is None:
        raise InputError(f"Slide {name} has no counts: {folder / 'ST-cnts' / name}.tsv.gz does not exist.")
    if not spots_path.is_file():
        raise InputError(f"Slide {name} has no coordinates: {spots_path} does not exist.")
    patient = re.match(r"[A-Za-z]*", name)
    image_path = find_image(_image_folder(folder, name))
    labels = _labels(folder, name)
    sources = (counts_path, spots_path, *([image_path] if image_path else []), *([labels.path] if labels else []))
    draft = Draft(
        slide_id=name,
        layout=NAME,
        coords=parse_selection(spots_path),
        counts=read_count_table(counts_path),
        image=open_image(image_path) if image_path else None,
        patient=patient[0] if patient else "",
        cohort="her2st",
        labels=labels.by_spot if labels else None,
        sources=sources,
        notes=(labels.note,) if labels else (),
        extra={"labels": labels.source} if labels else {},
    )
    return build_slide(draft, size)


@dataclass(frozen=True)
class _Labels:
    """Labels by spot id, the file, whose they are, and what to say of them."""

    by_spot: dict[str, str]
    path: Path
    source: str
    note: str


def _labels(folder: Path, name: str) -> _Labels | None:
    """Return the pathologist's labels where there are any, else the published clusters."""
    pathologist = folder / "ST-pat" / "lbl" / f"{name}_labeled_coordinates.tsv"
    if pathologist.is_file():
        known = {spot: text for spot, text in read_labels(pathologist).items() if text != UNDETERMINED}
        note = f"labels are the pathologist's (ST-pat); {UNDETERMINED!r} counts as no label."
        return _Labels(known, pathologist, "the pathologist's (ST-pat)", note)
    clusters = next(iter(sorted((folder / "ST-cluster" / "lbl").glob(f"{name}-cluster-annotation.tsv*"))), None)
    if clusters is None:
        return None
    note = "labels are the published clusters of its expression (ST-cluster): no pathologist labelled it."
    return _Labels(read_labels(clusters), clusters, "published clusters of the measured expression (ST-cluster)", note)


def read_labels(path: Path) -> dict[str, str]:
    """Read labels by spot id from a table with the columns x, y and label.

    Raises
    ------
    InputError
        When it is damaged or lacks a column.
    """
    # By array coordinates: the pixels of these files are of another frame on some sections.
    frame = read_table(path)
    missing = {"x", "y", "label"} - set(frame.columns)
    if missing:
        raise InputError(f"{path.name} has no column {sorted(missing)[0]!r}.")
    grid = zip(numbers(frame, "x", path), numbers(frame, "y", path), frame["label"].str.strip(), strict=True)
    return {f"{round(x)}x{round(y)}": str(label) for x, y, label in grid if math.isfinite(x) and math.isfinite(y)}
