"""Patches of reference spots, read from the reference's own slides where they are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.index.reference import Reference
from mclstexp.outputs.images import View, slide_image
from mclstexp.outputs.report.evidence import PageEvidence
from mclstexp.outputs.report.pack import base64_text, packed
from mclstexp.outputs.report.pictures import jpeg_bytes
from mclstexp.types import IdArray, Progress

PATCH_PX = 72
"""Side of a patch in a page."""

SHEET_SIDE = 24
"""Patches along a side of one sheet."""


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
    view = View(PATCH_PX, fov_um)
    for number, (name, _, _) in enumerate(evidence.slides):
        here = wanted[evidence.slide[wanted] == number]
        if on_progress is not None:
            on_progress("reading patches", number, len(evidence.slides))
        if not len(here):
            continue
        entry = entries.get(name)
        image, why = (None, "it is not in the reference") if entry is None else slide_image(entry, reference.path)
        if image is None or entry is None:
            missing[name] = why
            continue
        position[here] = np.arange(len(tiles), len(tiles) + len(here))
        with image:
            places = np.stack([evidence.x_px[here], evidence.y_px[here]], axis=1)
            tiles += [view.cut(image, place, entry.mpp) for place in places]
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
