"""Regions that limit where a slide is predicted: the GeoJSON that QuPath exports."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.paths import require_file
from mclstexp.errors import InputError
from mclstexp.types import BoolArray, StrPath

MOST_BYTES = 500_000_000
"""A file of annotations larger than this is something else."""

_AREAS = ("Polygon", "MultiPolygon")


@dataclass(frozen=True, eq=False)
class Regions:
    """Polygons on an image, with their holes.

    Attributes
    ----------
    shape
        Their union, a ``shapely`` Polygon or MultiPolygon in full-resolution pixels.
    name
        What messages call them.
    notes
        What was left out or mended, one sentence each.
    """

    shape: Any
    name: str
    notes: tuple[str, ...] = ()

    def holds(self, xy_px: NDArray[np.float64]) -> BoolArray:
        """Return ``(n,)`` whether each place, ``(n, 2)`` as (x, y) in pixels, lies inside."""
        import shapely

        shapely.prepare(self.shape)
        return np.asarray(shapely.contains_xy(self.shape, xy_px[:, 0], xy_px[:, 1]), dtype=bool)

    @property
    def box(self) -> NDArray[np.float64]:
        """Left, top, right and bottom in pixels, ``(4,)`` float64."""
        return np.asarray(self.shape.bounds, dtype=np.float64)

    @property
    def rings(self) -> tuple[NDArray[np.float64], ...]:
        """Their outlines, holes too, each ``(k, 2)`` float64 as (x, y) in pixels."""
        import shapely

        polygons = [part for part in shapely.get_parts(self.shape) if part.geom_type == "Polygon"]
        return tuple(np.asarray(ring.coords)[:, :2] for one in polygons for ring in (one.exterior, *one.interiors))

    def on(self, size_px: tuple[int, int]) -> Regions:
        """Return what of them lies on an image.

        Raises
        ------
        InputError
            When nothing does, with both ranges.
        """
        import shapely

        inside = shapely.intersection(self.shape, shapely.box(0, 0, *size_px))
        if not inside.area > 0:
            x0, y0, x1, y1 = self.box
            raise InputError(
                f"{self.name}: its regions lie outside the image (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}; "
                f"image {size_px[0]} x {size_px[1]} px); export them from this image, in pixels of full resolution."
            )
        beyond = 1 - inside.area / self.shape.area
        note = (f"{beyond:.0%} of the regions' area lies outside the image.",) if beyond > 0.005 else ()
        return Regions(inside, self.name, (*self.notes, *note))


def read_regions(path: StrPath) -> Regions:
    """Read the areas of a GeoJSON file, in pixels of full resolution, as QuPath exports annotations.

    Polygons and multipolygons are taken, with their holes; points and lines are no areas and left out.

    Raises
    ------
    InputError
        When the file is missing, is no GeoJSON, holds no area, coordinates that are no finite numbers, or degrees.
    """
    path = require_file(path, "Regions")
    document = _document(path)
    _check_frame(document, path)
    areas, left_out = [], 0
    for number, geometry in enumerate(_geometries(document, path), 1):
        if geometry.get("type") in _AREAS:
            areas.append(_area(geometry, number, path))
        else:
            left_out += 1
    notes = [f"{left_out} objects of {path.name} are points or lines, no areas, and were left out."] if left_out else []
    return _joined(areas, path, notes)


def _joined(areas: list[Any], path: Path, notes: list[str]) -> Regions:
    import shapely

    crossing = sum(not area.is_valid for area in areas)
    if crossing:
        notes = [*notes, f"{crossing} outlines of {path.name} cross themselves and were mended."]
        areas = [shapely.make_valid(area) for area in areas]
    union = shapely.union_all(areas) if areas else None
    if union is None or not union.area > 0:
        raise InputError(f"{path.name} holds no polygon; draw annotations in QuPath and export them as GeoJSON.")
    polygons = [part for part in shapely.get_parts(union) if part.area > 0]
    return Regions(shapely.union_all(polygons), path.name, tuple(notes))


def _document(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"{path.name} is {size / 1e6:,.0f} MB; annotations are at most {MOST_BYTES / 1e6:,.0f}.")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"{path.name} is no GeoJSON ({reason}); copy it again, or export annotations from QuPath."
        ) from error


def _check_frame(document: Any, path: Path) -> None:
    """Refuse places on the earth: pixels have no coordinate reference system."""
    frame = document.get("crs") if isinstance(document, dict) else None
    if frame:
        name = frame.get("properties", {}).get("name", frame) if isinstance(frame, dict) else frame
        raise InputError(
            f"{path.name} is in the reference system {str(name)[:60]!r}, a map's; regions in pixels of the image, as "
            "QuPath exports them, are needed."
        )


def _geometries(document: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield every geometry, whatever holds it: a collection, a list of features, a feature, or itself."""
    waiting = deque([document])
    while waiting:
        item = waiting.popleft()
        if isinstance(item, list):
            waiting.extendleft(reversed(item))
            continue
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise InputError(f"{path.name} is no GeoJSON: it holds {str(item)[:40]!r} where an object is needed.")
        kind = item["type"]
        if kind in ("FeatureCollection", "GeometryCollection"):
            inner = item.get("features" if kind == "FeatureCollection" else "geometries")
            if not isinstance(inner, list):
                raise InputError(f"{path.name} is no GeoJSON: its {kind} holds no list.")
            waiting.extendleft(reversed(inner))
        elif kind == "Feature":
            if item.get("geometry"):
                waiting.appendleft(item["geometry"])
        else:
            yield item


def _area(geometry: dict[str, Any], number: int, path: Path) -> Any:
    import shapely
    from shapely.geometry import shape

    coordinates = geometry.get("coordinates")
    if not _finite(coordinates):
        raise InputError(f"{path.name}: object {number} has coordinates that are no finite numbers; export it again.")
    try:
        return shape({"type": geometry["type"], "coordinates": coordinates})
    except (shapely.errors.ShapelyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{path.name}: object {number} is no {geometry['type']}: {str(error)[:80]}.") from error


def _finite(coordinates: Any) -> bool:
    """Whether nested lists hold finite numbers and nothing else."""
    waiting = [coordinates]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item):
            return False
    return isinstance(coordinates, list)
