"""The pixel size that a TIFF states."""

from __future__ import annotations

import re
from typing import Any

from mclstexp.data.images.pixels import plausible_mpp

_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # ResolutionUnit: inch, centimetre

_OME_UNITS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3}


def stated_mpp(tiff: Any, page: Any) -> float | None:
    """Return the pixel size in um from Aperio or OME metadata or the resolution tags, or None."""
    text = page.description or ""
    aperio = re.search(r"\bMPP\s*=\s*([0-9.]+)", text)
    if aperio:
        return plausible_mpp(_number(aperio[1]))
    if tiff.is_ome:
        x, y = (_ome_size(tiff.ome_metadata or "", axis) for axis in "XY")
        if x is not None:
            return plausible_mpp(x, y)
    unit = page.tags.get("ResolutionUnit")
    um = _UM_PER_UNIT.get(int(unit.value) if unit else 2)
    sizes = [_tag_size(page.tags.get(name), um) for name in ("XResolution", "YResolution")]
    return plausible_mpp(*sizes)


def _tag_size(tag: Any, um: float | None) -> float | None:
    if tag is None or um is None:
        return None
    numerator, denominator = (tag.value, 1) if isinstance(tag.value, int | float) else tag.value
    return um * denominator / numerator if numerator else None


def _ome_size(xml: str, axis: str) -> float | None:
    value = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', xml)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', xml)
    scale = _OME_UNITS.get(unit[1] if unit else "µm")
    number = _number(value[1]) if value else None
    return number * scale if number is not None and scale is not None else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
