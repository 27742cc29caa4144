"""Human skin squamous cell carcinoma (Ji et al. 2020, GSE144240), files as GEO has them.

``GSM4284316_P2_ST_rep1_stdata.tsv.gz``, ``GSM4284316_spot_data-selection-P2_ST_rep1.tsv.gz`` and
``GSM4284316_P2_ST_rep1.jpg.gz``, with or without the number in front, packed or not.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import IMAGE_SUFFIXES, open_image
from mclstexp.data.positions.files import parse_selection
from mclstexp.data.positions.lattice import LEGACY_ST_2K_PITCH_UM
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.matrices import read_count_table
from mclstexp.data.readers.source import SlideSource
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import some

NAME = "cscc"
LOOKS_FOR = "P2_ST_rep1_stdata.tsv with spot_data-selection-P2_ST_rep1.tsv (cSCC, GSE144240)"

_GEO = r"(?:GSM\d+_)?"
_COUNTS = re.compile(_GEO + r"((P\d+)_ST_rep\d+)_stdata\.tsv(?:\.gz)?")


def matches(path: Path) -> bool:
    """Whether the path is a folder with counts of this cohort, by their names."""
    return path.is_dir() and any(_COUNTS.fullmatch(file.name) for file in path.glob("*_stdata.tsv*"))


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the sections that have counts."""
    names = (_COUNTS.fullmatch(file.name) for file in path.glob("*_stdata.tsv*"))
    return [SlideSource(name, NAME, partial(_read, path, name)) for name in sorted({m[1] for m in names if m})]


def _read(folder: Path, name: str, size: PixelSize) -> Slide:
    counts = _only(folder, rf"{name}_stdata\.tsv(?:\.gz)?", f"Slide {name} has no counts", f"{name}_stdata.tsv")
    wanted = f"spot_data-selection-{name}.tsv"
    spots = _only(folder, rf"spot_data-selection-{name}\.tsv(?:\.gz)?", f"Slide {name} has no coordinates", wanted)
    suffixes = "|".join(map(re.escape, IMAGE_SUFFIXES))
    images = _named(folder, rf"{name}(?:{suffixes})")
    if len(images) > 1:
        raise InputError(f"{folder} has several images of {name} ({some(path.name for path in images)}); keep one.")
    packed = _named(folder, rf"{name}(?:{suffixes})\.gz")
    draft = Draft(
        slide_id=name,
        layout=NAME,
        coords=replace(parse_selection(spots), pitch_um=LEGACY_ST_2K_PITCH_UM),
        counts=read_count_table(counts),
        image=open_image(images[0]) if images else None,
        patient=name.split("_")[0],
        cohort="cSCC",
        sources=(counts, spots, *images),
        notes=(
            f"neighbouring spots were taken to be {LEGACY_ST_2K_PITCH_UM:g} um apart, as on arrays of 2,000 spots.",
        ),
        without_image=(
            "the image is packed: unpack it with gunzip; counts only." if packed else "no image: counts only."
        ),
    )
    return build_slide(draft, size)


def _named(folder: Path, name: str) -> list[Path]:
    pattern = re.compile(_GEO + name, re.IGNORECASE)
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))


def _only(folder: Path, name: str, problem: str, wanted: str) -> Path:
    paths = _named(folder, name)
    if not paths:
        raise InputError(f"{problem}: {folder} holds no {wanted}(.gz).")
    if len(paths) > 1:
        raise InputError(f"{folder} has several of {wanted} ({some(path.name for path in paths)}); keep one.")
    return paths[0]
