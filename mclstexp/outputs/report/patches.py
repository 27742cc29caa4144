"""Patches of reference spots, read from the reference's own slides where they are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.data.images import open_image
from mclstexp.data.images.base import ImageFile
from mclstexp.data.images.pixels import resize
from mclstexp.errors import FormatError, InputError
from mclstexp.index.reference import Reference
from mclstexp.index.store.schema import SlideEntry
from mclstexp.outputs.report.evidence import PageEvidence
from mclstexp.outputs.report.pack import base64_text, packed
from mclstexp.outputs.report.pictures import existing, jpeg_bytes
from mclstexp.predict.prediction import Prediction
from mclstexp.storage import sha256_file
from mclstexp.types import IdArray, Progress, StrPath

PATCH_PX = 72
"""Side of a patch in a page."""

SHEET_SIDE = 24
"""Patches along a side of one sheet."""

HASHED_BYTES = 2**30
"""Images up to this size are compared with their hash before a patch is shown; larger ones by their size in pixels."""


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of some of a page's neighbours.

    Attributes
    ----------
    sheets
        JPEGs of `SHEET_SIDE` by `SHEET_SIDE` patches.
    position
        ``(R,)`` number of each distinct neighbour's patch; -1 where there is none.
    fov_um
        Side of a patch in um.
    missing
        Slide to why it has no patches.
    """

    sheets: list[bytes]
    position: IdArray
    fov_um: float
    missing: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return what the page reads."""
        return {
            "sheets": [base64_text(sheet) for sheet in self.sheets],
            "side": PATCH_PX,
            "columns": SHEET_SIDE,
            "position": packed(self.position, "i4"),
            "fov_um": self.fov_um,
            "missing": self.missing,
        }


def prediction_reference(
    prediction: Prediction, folder: Path, reference: StrPath | None = None, *, cache: bool = True
) -> tuple[Reference | None, str]:
    """Open the reference of a prediction at its version.

    Parameters
    ----------
    prediction, folder
        The prediction names its reference; a relative path is looked for in the working folder, then in ``folder``.
    reference
        Where the reference is now.
    cache
        Whether image features that it computes are kept on disk.

    Returns
    -------
    The reference, or None and why it is not at hand.

    Raises
    ------
    InputError, MismatchError
        When ``reference`` was given and is none, or is not the one that the prediction was made from.
    """
    settings = prediction.settings
    named = str(settings.get("reference", "")) if reference is None else str(reference)
    if not named:
        return None, "the prediction names no reference"
    path = existing(Path(named), folder)
    if path is None and reference is None:
        return None, f"the reference {named} is not where it was; name it with --reference"
    try:
        opened = Reference.open(path or named, version=settings.get("reference_version"), cache=cache)
    except (InputError, FormatError) as error:
        if reference is not None:
            raise
        return None, str(error)
    digest = opened.store.identity.model_digest
    if digest != settings.get("model"):
        told = f"the reference {named} holds the model {digest[:12]}, the prediction was made with another"
        if reference is not None:
            raise InputError(f"{told}; name its own reference with --reference.")
        return None, told
    return opened, ""


def field_of_view_um(prediction: Prediction) -> float:
    """Side in um of the patches that a prediction was made from."""
    patch = prediction.settings.get("patch", {})
    return float(patch.get("size_px", 224)) * float(patch.get("mpp") or 0.5)


def reference_image(entry: SlideEntry, folder: Path) -> tuple[ImageFile | None, str]:
    """Open the image of a reference's slide, where it is still what it was; else None and why."""
    if not entry.has_image or not entry.image_path:
        return None, "it has no image"
    path = existing(Path(entry.image_path), folder)
    if path is None:
        return None, f"{Path(entry.image_path).name} is not where it was"
    if entry.mpp is None:
        return None, "its pixel size is unknown"
    try:
        changed = entry.image_sha256 and path.stat().st_size <= HASHED_BYTES and sha256_file(path) != entry.image_sha256
        return (None, f"{path.name} has changed") if changed else (open_image(path), "")
    except (InputError, OSError) as error:
        return None, str(error)


def read_patch(image: ImageFile, mpp: float, xy_px: tuple[float, float], fov_um: float, side: int) -> Any:
    """Return ``(side, side, 3)`` uint8 of the square of ``fov_um`` around a spot; white outside the image."""
    width = max(1, round(fov_um / mpp))
    x, y = round(xy_px[0] - width / 2), round(xy_px[1] - width / 2)
    return resize(image.read_region(x, y, width, width), (side, side))


def chosen(evidence: PageEvidence, most: int) -> IdArray:
    """Return the positions of the distinct neighbours that get a patch: every spot's nearest, then every second..."""
    ranked = evidence.spot.T.ravel()
    ranked = ranked[ranked >= 0]
    _, first = np.unique(ranked, return_index=True)
    return np.sort(ranked[np.sort(first)][:most])


def page_patches(
    evidence: PageEvidence,
    reference: Reference,
    fov_um: float,
    *,
    most: int,
    on_progress: Progress | None = None,
) -> Patches:
    """Read patches of a page's nearest neighbours, a slide at a time.

    Parameters
    ----------
    evidence
        The neighbours.
    reference
        Holds the slides that they lie on.
    fov_um
        Side of a patch.
    most
        How many patches are read.
    """
    wanted = chosen(evidence, most)
    missing: dict[str, str] = {}
    tiles: list[NDArray[np.uint8]] = []
    position = np.full(len(evidence.row_id), -1, dtype=np.int64)
    entries = {entry.slide_id: entry for entry in reference.store.entries}
    folder = Path(str(reference.path)).parent
    for number, (name, _, _) in enumerate(evidence.slides):
        here = wanted[evidence.slide[wanted] == number]
        if on_progress is not None:
            on_progress("reading patches", number, len(evidence.slides))
        if not len(here):
            continue
        entry = entries.get(name)
        image, why = (None, "it is not in the reference") if entry is None else reference_image(entry, folder)
        if image is None or entry is None:
            missing[name] = why
            continue
        position[here] = np.arange(len(tiles), len(tiles) + len(here))
        with image:
            places = zip(evidence.x_px[here], evidence.y_px[here], strict=True)
            mpp = float(entry.mpp or 1)
            tiles += [read_patch(image, mpp, (float(x), float(y)), fov_um, PATCH_PX) for x, y in places]
    if on_progress is not None:
        on_progress("reading patches", len(evidence.slides), len(evidence.slides))
    return Patches(list(_sheets(tiles)), position, fov_um, missing)


def _sheets(tiles: list[NDArray[np.uint8]]) -> Iterator[bytes]:
    per_sheet = SHEET_SIDE * SHEET_SIDE
    for start in range(0, len(tiles), per_sheet):
        part = tiles[start : start + per_sheet]
        rows = -(-len(part) // SHEET_SIDE)
        sheet = np.full((rows * PATCH_PX, SHEET_SIDE * PATCH_PX, 3), 255, np.uint8)
        for i, tile in enumerate(part):
            row, col = divmod(i, SHEET_SIDE)
            sheet[row * PATCH_PX : (row + 1) * PATCH_PX, col * PATCH_PX : (col + 1) * PATCH_PX] = tile
        yield jpeg_bytes(sheet)


def neighbour_row(reference: Reference, row_id: int) -> tuple[SlideEntry, tuple[float, float]]:
    """Return the slide and the place of a reference's spot.

    Raises
    ------
    InputError
        When the version has no such spot.
    """
    store = reference.store
    ids = np.array([row_id], dtype=np.int64)
    spot: pa.Table = store.spots(ids, ["x_px", "y_px"])
    place = spot.to_pylist()[0]
    return store.entries[int(store.slide_numbers(ids)[0])], (float(place["x_px"]), float(place["y_px"]))
