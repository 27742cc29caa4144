"""Space Ranger output, versions 1 to 4: counts as HDF5 or MEX, positions with or without a header, HD bins."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.images.pixels import plausible_mpp
from mclstexp.data.paths import read_json
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.positions.files import parse_coords
from mclstexp.data.readers.matrices import read_counts
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import some

NAME = "space_ranger"
LOOKS_FOR = "Space Ranger's filtered_feature_bc_matrix(.h5) with spatial/"

_MATRICES = (
    "*filtered_feature_bc_matrix.h5",
    "*filtered_feature_bc_matrix",
    "*filtered_count_matrix",
    "*raw_feature_bc_matrix.h5",
    "*raw_feature_bc_matrix",
)
_MOST = 1e12
_HD_BINS = ("square_016um", "square_008um")


def matches(path: Path) -> bool:
    """Whether the path is an ``outs`` folder (or holds one), whatever it is called."""
    if not path.is_dir():
        return False
    outs = _outs(path)
    return bool(_matrices(outs) or _positions(outs) or (outs / "spatial").is_dir()) and not list(path.glob("*.h5ad"))


def find(path: Path) -> list[SlideSource]:
    """Return the one slide of the folder, named after it (or after the parent of ``outs``)."""
    folder = path.absolute()
    name = (folder.parent if folder.name == "outs" else folder).name
    return [SlideSource(name, NAME, partial(_read, folder, name))]


def accepts(path: Path) -> bool:
    """Whether the path is a folder that is not itself a MEX folder of counts."""
    return path.is_dir() and not list(path.glob("*matrix.mtx*"))


def read(path: Path, slide_id: str, *, coords: Coordinates | None = None) -> Draft:
    """Read one Space Ranger output.

    Parameters
    ----------
    path
        The ``outs`` folder, or the one that holds it.
    slide_id
        Name of the slide.
    coords
        Coordinates from elsewhere, in place of the output's own.

    Raises
    ------
    InputError
        When counts or positions are missing, several, or damaged.
    """
    outs = _outs(path)
    matrix = _one(outs, _matrices(outs), f"Slide {slide_id} has no counts", "filtered_feature_bc_matrix(.h5)")
    scale_path = next(iter(sorted((outs / "spatial").glob("*scalefactors_json.json"))), None)
    scale = _scale_factors(scale_path) if scale_path else {}
    sources = [matrix, *([scale_path] if scale_path else [])]
    if coords is None:
        wanted = "spatial/tissue_positions(_list).csv"
        positions = _one(outs, _positions(outs), f"Slide {slide_id} has no coordinates", wanted)
        coords, sources = parse_coords(positions), [*sources, positions]
    image_path = _image(path, outs)
    bin_um = re.search(r"square_(\d+)um", str(outs.absolute()))
    return Draft(
        slide_id=slide_id,
        layout=NAME,
        coords=replace(coords, pitch_um=float(bin_um[1])) if bin_um else coords,
        counts=read_counts(matrix),
        image=open_image(image_path) if image_path else None,
        stated_mpp=plausible_mpp(scale.get("microns_per_pixel")),
        sources=(*sources, *([image_path] if image_path else [])),
        notes=(f"Visium HD bins of {int(bin_um[1])} um.",) if bin_um else (),
        extra={key: repr(value) for key, value in scale.items()},
        without_image="no full-resolution image beside the counts (thumbnails do not count): counts only.",
    )


def _read(folder: Path, slide_id: str, mpp: float | None) -> Slide:
    return build_slide(read(folder, slide_id), mpp=mpp)


def _outs(folder: Path) -> Path:
    outs = folder / "outs" if (folder / "outs").is_dir() else folder
    for name in _HD_BINS:
        if (outs / "binned_outputs" / name).is_dir():
            return outs / "binned_outputs" / name
    return outs


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


def _image(folder: Path, outs: Path) -> Path | None:
    places = [outs, folder, outs / "spatial"]
    places += [folder.parent] if folder.name == "outs" else []
    images = (find_image(place) for place in dict.fromkeys(places))
    return next((image for image in images if image is not None), None)


def _scale_factors(path: Path) -> dict[str, float]:
    values = read_json(path, "Scale factors")
    if not isinstance(values, dict):
        raise InputError(f"Scale factors {path}: names and numbers are needed; copy the file again.")
    numbers = {str(key): value for key, value in values.items() if isinstance(value, int | float)}
    return {key: float(value) for key, value in numbers.items() if abs(value) < _MOST}  # NaN is not, either
