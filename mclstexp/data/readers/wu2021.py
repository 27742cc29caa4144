"""Visium sections of breast cancers (Wu et al. 2021, zenodo.org/record/4739739), its archives unpacked side by side.

``filtered_count_matrices/ID_filtered_count_matrix/`` (MEX, symbols alone), ``spatial/ID_spatial/`` and
``metadata/ID_metadata.csv`` (a row a barcode: subtype, patientid, Classification by a pathologist). The full-resolution
images are published elsewhere; one called ``ID.tif`` or the like is found in ``images/`` or beside those folders. The
paper's "Alex" sections are these.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.positions.files import parse_coords
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.matrices import read_mex
from mclstexp.data.readers.scale_factors import read_scale_factors
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.data.tables import read_table
from mclstexp.errors import InputError
from mclstexp.slide import Slide

NAME = "wu2021"
LOOKS_FOR = "filtered_count_matrices/ with spatial/ (Wu et al. 2021)"

_MATRICES, _SUFFIX = "filtered_count_matrices", "_filtered_count_matrix"


def matches(path: Path) -> bool:
    """Whether the path is a folder with the unpacked matrices."""
    return bool(_folders(path))


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the sections that have counts."""
    return [
        SlideSource(name, NAME, partial(_read, path, folder, name))
        for folder in _folders(path)
        for name in [folder.name.removesuffix(_SUFFIX)]
    ]


def _folders(path: Path) -> list[Path]:
    # The archive holds a folder of its own name, so unpacking it into one makes two.
    for root in (path / _MATRICES, path / _MATRICES / _MATRICES):
        folders = sorted(folder for folder in root.glob(f"*{_SUFFIX}") if folder.is_dir())
        if folders:
            return folders
    return []


def _read(root: Path, matrix: Path, name: str, size: PixelSize) -> Slide:
    outs = next(
        (root / part / f"{name}_spatial" for part in ("spatial", "spatial/spatial") if (root / part).is_dir()), None
    )
    places = [folder / "tissue_positions_list.csv" for folder in (outs, matrix / f"{name}_spatial") if folder]
    positions = next((path for path in places if path.is_file()), None)
    if positions is None:
        raise InputError(f"Slide {name} has no coordinates: {places[0]} does not exist.")
    image_path = next(
        (image for place in ("images", ".") if (image := find_image(root / place, name)) is not None), None
    ) or find_image(positions.parent)
    labels = _labels(root / "metadata" / f"{name}_metadata.csv")
    draft = Draft(
        slide_id=name,
        layout=NAME,
        coords=parse_coords(positions),
        counts=read_mex(matrix),
        image=open_image(image_path) if image_path else None,
        patient=name,
        cohort="Wu2021",
        labels=labels or None,
        sources=(matrix, positions, *([image_path] if image_path else [])),
        notes=("labels are the pathologist's (metadata/, Classification).",) if labels else (),
        extra={key: repr(value) for key, value in read_scale_factors(positions.parent, "").values.items()},
        without_image="no full-resolution image (Zenodo has none; thumbnails do not count): counts only.",
    )
    return build_slide(draft, size)


def _labels(path: Path) -> dict[str, str]:
    """Return the pathologist's words by barcode; none where there is no such file."""
    if not path.is_file():
        return {}
    frame = read_table(path)
    if "Classification" not in frame.columns:
        raise InputError(f"{path.name} has no column 'Classification'.")
    return dict(zip(frame.iloc[:, 0].astype(str), frame["Classification"].astype(str).str.strip(), strict=True))
