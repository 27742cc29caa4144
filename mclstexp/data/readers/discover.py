"""Which slides a path holds, by the first layout that fits each folder."""

from __future__ import annotations

from pathlib import Path

from mclstexp.data.paths import is_url
from mclstexp.data.readers import (
    cscc,
    h5ad,
    her2st,
    her2st_loose,
    hest,
    legacy_st,
    slides_csv,
    space_ranger,
    spatialdata,
    transcripts,
    visium_hd,
    wu2021,
    xenium,
)
from mclstexp.data.readers.choices import DEFAULT, Choices, require_use
from mclstexp.data.readers.layout import Layout
from mclstexp.data.readers.loose import loose_files
from mclstexp.data.readers.metadata import read_metadata, with_metadata
from mclstexp.data.readers.source import SlideSource
from mclstexp.errors import InputError
from mclstexp.types import StrPath

LAYOUTS: tuple[Layout, ...] = (
    slides_csv, her2st, wu2021, cscc, legacy_st, her2st_loose, hest, spatialdata, h5ad, xenium, transcripts, visium_hd,
    space_ranger,
)  # fmt: skip
"""Every layout, in the order in which they are asked: a ``slides.csv`` wins."""

DEPTH = 3
"""How many folders deep slides are looked for."""


def discover(refs: StrPath, choices: Choices = DEFAULT) -> list[SlideSource]:
    """List the slides under a path, in the order of their names.

    Raises
    ------
    InputError
        When there is no such path, no slide in it, or a choice says nothing to any of them.
    """
    if is_url(refs):
        raise InputError(f"{refs} is a URL; download the slides and give their folder.")
    refs = Path(refs)
    try:
        if not refs.exists():
            raise InputError(f"{refs} does not exist; correct the path.")
        sources = _walk(refs, DEPTH, choices)
    except OSError as error:
        raise InputError(f"{error.filename or refs} cannot be read: {error.strerror or error}.") from error
    if not sources and not refs.is_dir():
        raise InputError(f"{refs} is neither a folder, nor an .h5ad, nor a slides.csv; one of them is needed.")
    if not sources:
        looked_for = ", ".join(layout.LOOKS_FOR for layout in LAYOUTS)
        raise InputError(
            f"{refs} holds no slides: looked for {looked_for}, here and {DEPTH} folders down{loose_files(refs, DEPTH)}."
        )
    require_use(choices, {source.layout for source in sources}, str(refs))
    return sorted(sources, key=lambda source: source.slide_id)


def _walk(path: Path, depth: int, choices: Choices) -> list[SlideSource]:
    layout = next((layout for layout in LAYOUTS if layout.matches(path)), None)
    sources: list[SlideSource] = []
    if layout is not None:
        sources = layout.find(path, choices)
    elif depth > 0 and path.is_dir():
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        sources = [source for folder in folders for source in _walk(folder, depth - 1, choices)]
    if layout is slides_csv:  # it says itself what metadata.csv would
        return sources
    return with_metadata(sources, read_metadata(path), path)
