"""Space Ranger output of spots or of one size of bins: HDF5 or MEX, positions with or without a header, or Parquet."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.images.pixels import plausible_mpp
from mclstexp.data.positions.bins import parse_bins
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.positions.files import parse_coords
from mclstexp.data.readers.choices import DEFAULT, Choices
from mclstexp.data.readers.matrices import read_counts
from mclstexp.data.readers.scale_factors import read_scale_factors
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import some

NAME = "space_ranger"
LOOKS_FOR = "Space Ranger's filtered_feature_bc_matrix(.h5) with spatial/"

_OWN_NAMES = re.compile(r"outs|binned_outputs|segmented_outputs|square_\d+um")
"""Folders that Space Ranger names, and not the user."""

_MATRICES = (
    "*filtered_feature_bc_matrix.h5",
    "*filtered_feature_bc_matrix",
    "*filtered_count_matrix",
    "*raw_feature_bc_matrix.h5",
    "*raw_feature_bc_matrix",
)


def matches(path: Path) -> bool:
    """Whether the path is an ``outs`` folder (or holds one), whatever it is called."""
    if not path.is_dir():
        return False
    outs = _outs(path)
    return bool(_matrices(outs) or _positions(outs) or (outs / "spatial").is_dir()) and not list(path.glob("*.h5ad"))


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """Return the one slide of the folder, named after it (or after the parent of ``outs``)."""
    name = name_of(path)
    return [SlideSource(name, NAME, partial(_read, path.absolute(), name))]


def name_of(path: Path) -> str:
    """Return the name of an output: the first folder upwards whose name is not Space Ranger's."""
    folder = path.absolute()
    while folder.parent != folder and (_OWN_NAMES.fullmatch(folder.name)):
        folder = folder.parent
    return folder.name


def accepts(path: Path) -> bool:
    """Whether the path is a folder that is not itself a MEX folder of counts."""
    return path.is_dir() and not list(path.glob("*matrix.mtx*"))


def read(
    path: Path,
    slide_id: str,
    *,
    coords: Coordinates | None = None,
    choices: Choices = DEFAULT,
    image: Path | None = None,
) -> Draft:
    """Read one Space Ranger output.

    Parameters
    ----------
    path
        The ``outs`` folder, or the one that holds it.
    slide_id
        Name of the slide.
    coords
        Coordinates from elsewhere, in place of the output's own.
    choices
        Of no use here.
    image
        The full-resolution image where it lies elsewhere.

    Raises
    ------
    InputError
        When counts or positions are missing, several, or damaged.
    """
    outs = _outs(path)
    matrix = _one(outs, _matrices(outs), f"Slide {slide_id} has no counts", "filtered_feature_bc_matrix(.h5)")
    scale = read_scale_factors(outs)
    sources = [matrix, *scale.sources]
    if coords is None:
        wanted = "spatial/tissue_positions(_list).csv"
        positions = _one(outs, _positions(outs), f"Slide {slide_id} has no coordinates", wanted)
        parse = parse_bins if positions.suffix == ".parquet" else parse_coords
        coords, sources = parse(positions), [*sources, positions]
    image_path = image or find_full_image(path, outs)
    bin_um = re.search(r"square_(\d+)um", str(outs.absolute()))
    return Draft(
        slide_id=slide_id,
        layout=NAME,
        coords=replace(coords, pitch_um=float(bin_um[1])) if bin_um else coords,
        counts=read_counts(matrix),
        image=open_image(image_path) if image_path else None,
        stated_mpp=plausible_mpp(scale.values.get("microns_per_pixel")),
        sources=(*sources, *([image_path] if image_path else [])),
        notes=(f"Visium HD bins of {int(bin_um[1])} um.",) if bin_um else (),
        extra={key: repr(value) for key, value in scale.values.items()},
        without_image="no full-resolution image beside the counts (thumbnails do not count): counts only.",
    )


def _read(folder: Path, slide_id: str, size: PixelSize) -> Slide:
    return build_slide(read(folder, slide_id), size)


def _outs(folder: Path) -> Path:
    return folder / "outs" if (folder / "outs").is_dir() else folder


def _matrices(outs: Path) -> list[Path]:
    return next((paths for pattern in _MATRICES if (paths := sorted(outs.glob(pattern)))), [])


def _positions(outs: Path) -> list[Path]:
    for folder in (outs / "spatial", outs):
        for suffix in ("csv", "csv.gz", "parquet"):
            names = (f"*tissue_positions.{suffix}", f"*tissue_positions_list.{suffix}")
            paths = {path for name in names for path in folder.glob(name)}
            if paths:
                return sorted(paths)
    return []


def _one(outs: Path, paths: list[Path], problem: str, wanted: str) -> Path:
    if not paths:
        raise InputError(f"{problem}: {outs} holds no {wanted}.")
    if len(paths) > 1:
        names = some(path.name for path in paths)
        raise InputError(f"{outs} holds several of {wanted} ({names}); give each slide a folder of its own.")
    return paths[0]


def find_full_image(folder: Path, outs: Path) -> Path | None:
    """Find the full-resolution image: in ``outs``, beside it, or in one of the folders that 10x puts it into."""
    places = [outs, folder, outs / "spatial", outs / "microscope_image"]
    places += [place.parent for place in (folder, outs) if place.name == "outs"]
    images = (find_image(place) for place in dict.fromkeys(places))
    return next((image for image in images if image is not None), None)
