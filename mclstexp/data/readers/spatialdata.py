"""SpatialData stores (``NAME.zarr``): a table of spots, bins or cells, the shapes that it annotates, and an RGB image.

Element names and ``uns["spatialdata_attrs"]`` are those of the SpatialData documentation; the image is any of three
channels. Read through the package itself, which comes with ``pip install "mclstexp[spatialdata]"``.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.positions.lattice import VISIUM_PITCH_UM, is_staggered
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.damage import reading
from mclstexp.data.readers.h5ad import counts_of
from mclstexp.data.readers.pooling import pool
from mclstexp.data.readers.source import SlideSource
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import some

NAME = "spatialdata"
LOOKS_FOR = "a SpatialData NAME.zarr"

_ROOTS = ("zarr.json", ".zattrs")
_BINS = re.compile(r"square_(\d{3})um")


def matches(path: Path) -> bool:
    """Whether the path is a folder whose Zarr attributes say that it is a SpatialData store."""
    roots = [path / name for name in _ROOTS if (path / name).is_file()]
    return any(_is_store(root) for root in roots)


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """Return the one slide of the store, named after it."""
    name = path.absolute().name.removesuffix(".zarr")
    return [SlideSource(name, NAME, partial(_read, path, name, choices))]


def _is_store(root: Path) -> bool:
    try:
        values = json.loads(root.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    values = values.get("attributes", values) if isinstance(values, dict) else {}
    return isinstance(values, dict) and "spatialdata_attrs" in values


def _read(path: Path, name: str, choices: Choices, size: PixelSize) -> Slide:
    draft = _draft(path, name, choices)
    if choices.pool_um is not None:
        draft = pool(draft, choices.pool_um, size)
    return build_slide(draft, size)


def _draft(path: Path, name: str, choices: Choices) -> Draft:
    try:
        import spatialdata
    except ImportError as error:
        raise InputError(
            f'{path} is a SpatialData store; reading one needs pip install "mclstexp[spatialdata]".'
        ) from error
    with reading(path, folder=True):
        store = spatialdata.read_zarr(path, selection=("images", "shapes", "labels", "tables"))
        table_name = _table(store, name, choices)
        table = store.tables[table_name]
        region, instances = _annotated(table, store, f"{name}, table {table_name!r}")
        image_name = _image(store, name)
        ids, xy = _middles(store, region, image_name)
        row_of = {value: row for row, value in enumerate(ids)}
        rows = np.array([row_of.get(value, -1) for value in instances], dtype=np.int64)
        kept = (rows >= 0) & _in_tissue(table)
        if not kept.any():
            raise InputError(
                f"Slide {name}: table {table_name!r} and its shapes {region!r} share no spot ({instances[0]!r} and the "
                f"like, {ids[0]!r} and the like)."
            )
        counts = counts_of(table, path, kept)
        array, pitch = _array(table, kept), _pitch(table_name, table, kept)
        coords = Coordinates(counts.ids, xy[rows[kept]], array, pitch_um=pitch, rows=np.flatnonzero(kept) + 1)
    image = open_image(path / "images" / image_name) if image_name is not None else None
    return Draft(
        slide_id=name,
        layout=NAME,
        coords=coords,
        counts=counts,
        image=image,
        sources=(path,),
        notes=(*_dropped(kept), f"table {table_name!r} of shapes {region!r} was read."),
        without_image="no image of three channels in the store: counts only.",
    )


def _table(store: Any, name: str, choices: Choices) -> str:
    """Return the one table; of tables of bins that of the size that was chosen, else the largest."""
    names: list[str] = sorted(store.tables)
    if not names:
        raise InputError(f"Slide {name} has no counts: the store has no table.")
    bins = {int(match[1]): table for table in names if (match := _BINS.search(table))}
    others = [table for table in names if table not in bins.values()]
    if choices.bin_um is not None and bins:
        if choices.bin_um not in bins:
            sizes = ", ".join(map(str, sorted(bins)))
            raise InputError(f"Slide {name} has no bins of {choices.bin_um} um (--bin-um); it has {sizes}.")
        return bins[choices.bin_um]
    if bins and not choices.cells:
        return bins[max(bins)]
    if len(others) != 1:
        raise InputError(
            f"Slide {name} has {len(others)} tables beside bins ({some(others or names)}); write one with one table."
        )
    return others[0]


def _annotated(table: Any, store: Any, what: str) -> tuple[str, list[Any]]:
    """Return the element that the table annotates, and the element's row of each of the table's."""
    said = table.uns.get("spatialdata_attrs", {})
    regions = said.get("region")
    regions = [regions] if isinstance(regions, str) else list(regions if regions is not None else [])
    if len(regions) != 1:
        raise InputError(f"Slide {what}, annotates {len(regions)} elements ({some(regions)}); write one store a slide.")
    if regions[0] not in store.shapes and regions[0] not in store.labels:
        raise InputError(f"Slide {what}, annotates {regions[0]!r}, which the store does not have.")
    return regions[0], table.obs[said["instance_key"]].tolist()


def _image(store: Any, name: str) -> str | None:
    """Return the largest image of three channels, None where there is none."""
    sizes = {}
    for image_name, image in store.images.items():
        full = image["scale0"]["image"] if hasattr(image, "children") else image  # a pyramid is a tree of arrays
        sizes[image_name] = int(full.sizes["y"]) * int(full.sizes["x"]) if full.sizes.get("c") == 3 else 0
    largest = [image_name for image_name, size in sizes.items() if size and size == max(sizes.values())]
    if len(largest) > 1:
        raise InputError(f"Slide {name} has several images of one size ({some(largest)}); write one with one image.")
    return largest[0] if largest else None


def _middles(store: Any, region: str, image_name: str | None) -> tuple[list[Any], NDArray[np.float64]]:
    """Return the names of shapes, and their middles in pixels of the image, or of their own where there is none."""
    from spatialdata import get_centroids
    from spatialdata.transformations import get_transformation_between_coordinate_systems

    shapes = store[region]
    systems = shapes.attrs["transform"]
    middles = get_centroids(shapes, coordinate_system=next(iter(systems))).compute()
    own = np.linalg.inv(_affine(systems[next(iter(systems))]))
    to_px = np.eye(3)
    if image_name is not None:
        to_px = _affine(get_transformation_between_coordinate_systems(store, shapes, store[image_name]))
    xy = np.column_stack([middles[["x", "y"]].to_numpy(dtype=np.float64), np.ones(len(middles))])
    return middles.index.tolist(), np.asarray((xy @ (to_px @ own).T)[:, :2], dtype=np.float64)


def _affine(transformation: Any) -> NDArray[np.float64]:
    return np.asarray(transformation.to_affine_matrix(("x", "y"), ("x", "y")), dtype=np.float64)


def _in_tissue(table: Any) -> NDArray[np.bool_]:
    if "in_tissue" not in table.obs:
        return np.ones(table.n_obs, dtype=bool)
    return np.asarray(table.obs["in_tissue"].astype(str).str.lower().isin(["1", "1.0", "true"]))


def _dropped(kept: NDArray[np.bool_]) -> tuple[str, ...]:
    n = int((~kept).sum())
    return (f"{n} of {len(kept)} spots are off the tissue or have no shape and were dropped.",) if n else ()


def _array(table: Any, kept: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    if not {"array_row", "array_col"} <= set(table.obs):
        return None
    return np.asarray(table.obs[["array_row", "array_col"]].to_numpy()[kept], dtype=np.int64)


def _pitch(table_name: str, table: Any, kept: NDArray[np.bool_]) -> float | None:
    bins, array = _BINS.search(table_name), _array(table, kept)
    if bins:
        return float(bins[1])
    return VISIUM_PITCH_UM if array is not None and is_staggered(array[:, 0], array[:, 1]) else None
