"""Space Ranger output, versions 1 to 4: counts as HDF5 or MEX, positions with or without a header, HD bins."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.images.pixels import plausible_mpp
from mclstexp.data.positions.files import Coordinates, parse_coords
from mclstexp.data.readers.matrices import read_counts
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.errors import InputError
from mclstexp.slide import Slide

LAYOUT = "space_ranger"

_MATRICES = (
    "*filtered_feature_bc_matrix.h5",
    "*filtered_feature_bc_matrix",
    "*filtered_count_matrix",
    "*raw_feature_bc_matrix.h5",
    "*raw_feature_bc_matrix",
)
_HD_BINS = ("square_016um", "square_008um")


def matches(folder: Path) -> bool:
    """Whether the folder is an ``outs`` folder (or holds one), whatever it is called."""
    outs = _outs(folder)
    return bool(_matrices(outs) or _positions(outs) or (outs / "spatial").is_dir()) and not list(folder.glob("*.h5ad"))


def find(folder: Path) -> list[SlideSource]:
    """Return the one slide of the folder, named after it (or after the parent of ``outs``)."""
    folder = folder.absolute()
    name = (folder.parent if folder.name == "outs" else folder).name
    return [SlideSource(name, LAYOUT, partial(_read, folder, name))]


def read_folder(folder: Path, slide_id: str) -> Draft:
    """Read one Space Ranger output.

    Raises
    ------
    InputError
        When counts or positions are missing, several, or damaged.
    """
    outs = _outs(folder)
    matrix = _one(outs, _matrices(outs), f"Slide {slide_id} has no counts", "filtered_feature_bc_matrix(.h5)")
    positions = _one(
        outs, _positions(outs), f"Slide {slide_id} has no coordinates", "spatial/tissue_positions(_list).csv"
    )
    image_path, notes = _image(folder, outs)
    scale_path = next(iter(sorted((outs / "spatial").glob("*scalefactors_json.json"))), None)
    scale = _scale_factors(scale_path) if scale_path else {}
    coords = parse_coords(positions)
    bin_um = re.search(r"square_(\d+)um", str(outs.absolute()))
    if bin_um:
        notes.append(f"Visium HD bins of {int(bin_um[1])} um.")
        coords = Coordinates(
            coords.ids, coords.xy, coords.array, coords.units, pitch_um=float(bin_um[1]), notes=coords.notes
        )
    sources = [matrix, positions, *([scale_path] if scale_path else []), *([image_path] if image_path else [])]
    return Draft(
        slide_id=slide_id,
        layout=LAYOUT,
        coords=coords,
        counts=read_counts(matrix),
        image=open_image(image_path) if image_path else None,
        stated_mpp=plausible_mpp(scale.get("microns_per_pixel")),
        sources=tuple(sources),
        notes=tuple(notes),
        extra={key: repr(value) for key, value in scale.items()},
    )


def _read(folder: Path, slide_id: str, mpp: float | None) -> Slide:
    return build_slide(read_folder(folder, slide_id), mpp=mpp)


def _outs(folder: Path) -> Path:
    outs = folder / "outs" if (folder / "outs").is_dir() else folder
    for name in _HD_BINS:
        if (outs / "binned_outputs" / name).is_dir():
            return outs / "binned_outputs" / name
    return outs


def _matrices(outs: Path) -> list[Path]:
    for pattern in _MATRICES:
        found = sorted(outs.glob(pattern))
        if found:
            return found
    return []


def _positions(outs: Path) -> list[Path]:
    for folder in (outs / "spatial", outs):
        for suffix in ("csv", "csv.gz", "parquet"):
            found = sorted(
                {*folder.glob(f"*tissue_positions.{suffix}"), *folder.glob(f"*tissue_positions_list.{suffix}")}
            )
            if found:
                return found
    return []


def _one(outs: Path, found: list[Path], problem: str, wanted: str) -> Path:
    if not found:
        raise InputError(f"{problem}: {outs} holds no {wanted}.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{outs} holds several of {wanted} ({names}); give each slide a folder of its own.")
    return found[0]


def _image(folder: Path, outs: Path) -> tuple[Path | None, list[str]]:
    places = [outs, folder, outs / "spatial"]
    places += [folder.parent] if folder.name == "outs" else []
    for place in dict.fromkeys(places):
        image = find_image(place)
        if image is not None:
            return image, []
    return None, ["no full-resolution image beside the counts (thumbnails do not count): counts only."]


def _scale_factors(path: Path) -> dict[str, float]:
    try:
        values = json.loads(path.read_text())
        return {str(key): float(value) for key, value in values.items() if isinstance(value, int | float)}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}.") from error
