"""``metadata.csv``: patient, cohort and pixel size of slides whose layout does not say them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mclstexp.data.assemble import PixelSize
from mclstexp.data.readers.slides_csv import number, read_rows
from mclstexp.data.readers.source import SlideSource
from mclstexp.slide import Slide

METADATA_NAME = "metadata.csv"


def read_metadata(folder: Path) -> dict[str, dict[str, str]]:
    """Read ``metadata.csv`` (slide, and patient, cohort or mpp) of a folder; empty where there is none.

    Raises
    ------
    InputError
        When it is damaged, has no column slide, or names a slide twice.
    """
    path = folder / METADATA_NAME
    if not path.is_file():
        return {}
    return {row["slide"]: row for row in read_rows(path, ("slide",))}


def with_metadata(sources: list[SlideSource], rows: dict[str, dict[str, str]], folder: Path) -> list[SlideSource]:
    """Return the sources, those that a row names with what it says."""
    return [
        _described(source, rows[source.slide_id], folder) if source.slide_id in rows else source for source in sources
    ]


def _described(source: SlideSource, row: dict[str, str], folder: Path) -> SlideSource:
    def load(size: PixelSize) -> Slide:
        slide = source.load(size.or_else(number(row, "mpp", folder / METADATA_NAME)))
        return replace(slide, patient=row.get("patient") or slide.patient, cohort=row.get("cohort") or slide.cohort)

    return SlideSource(source.slide_id, source.layout, load)
