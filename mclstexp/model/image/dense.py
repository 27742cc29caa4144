"""Encoding tissue once, tile by tile, in place of once a spot.

Spots on a fine grid see the same tissue many times: a 157 um patch holds 96 centres of a 16 um grid. A convolutional
backbone without global operations gives nearly the same maps for a large tile as for the patches in it, so the tile is
encoded once, its maps are reduced to cells (`mclstexp.model.image.cells`), and every spot's fields of view are pooled
from cells. Tiles lie on a grid of the image, so that a spot's features depend on the image and its place alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mclstexp.config import PatchSpec
from mclstexp.data.ahead import ahead
from mclstexp.data.patches import read_patch
from mclstexp.device import keep_freed_memory
from mclstexp.errors import InputError
from mclstexp.model.image.backbone import Backbone
from mclstexp.model.image.cells import CELL_PX, Cells, Pool, Windows, joined, reduce_map
from mclstexp.slide import Slide
from mclstexp.types import FloatArray, IdArray

CORE = 20
"""Cells along a tile that are kept."""

MARGIN = 1
"""Cells around them that are encoded and left out. A patch has none: its border always sees the padding."""

FINEST = 1.0
"""Fields of view narrower than the patch are pooled from the pass at the patch's pixel size: a pass at half of it would
cost four times as much as all others together."""

TILE_PX = (CORE + 2 * MARGIN) * CELL_PX

GLOBAL = ("squeezeexcite", "semodule", "ecamodule", "attention", "attn", "groupnorm", "instancenorm")
"""Parts of the names of modules that look at all of a map at once."""


@dataclass(frozen=True)
class Field:
    """A field of view: its scale, and what takes its features.

    ``take`` is called with places ``(b,)`` among the spots that are encoded, where in the field's vector the numbers
    begin, and the numbers ``(b, w)`` float32; with each number of each spot once.
    """

    scale: float
    take: Callable[[IdArray, int, FloatArray], None]


@dataclass(frozen=True)
class _Tile:
    row: int
    column: int
    pixels: NDArray[np.uint8]


def check_dense(member: Backbone) -> None:
    """Refuse a backbone that cannot encode tissue tile by tile.

    Raises
    ------
    InputError
        When it looks at all of a map at once, or its maps have no place.
    """
    names = {type(module).__name__.lower() for module in member.model.modules()}
    blocking = sorted(name for name in names if any(part in name for part in GLOBAL))
    why = f"it has {blocking[0]}, which looks at the whole patch at once" if blocking else member.why_not_dense(TILE_PX)
    if why:
        raise InputError(
            f"Encoder {member.spec.name} cannot encode tissue tile by tile: {why}. Leave encoder.dense out, or take a "
            "convolutional encoder such as tf_efficientnet_lite0, resnet50 or densenet121."
        )


def passes(scales: Sequence[float]) -> dict[float, list[float]]:
    """Return which fields of view are pooled from which pass, both as multiples of the patch's side.

    Examples
    --------
    >>> passes((0.5, 1.0, 2.0))
    {1.0: [0.5, 1.0], 2.0: [2.0]}
    """
    by_pass: dict[float, list[float]] = {}
    coarse = sorted(scale for scale in scales if scale >= FINEST) or [FINEST]
    for scale in scales:
        at = max((one for one in coarse if one <= scale), default=coarse[0])
        by_pass.setdefault(at, []).append(scale)
    return by_pass


def n_tiles(slide: Slide, member: Backbone, patch: PatchSpec, rows: IdArray) -> int:
    """Return how many tiles the passes over these spots take."""
    grids = [_Grid.of(slide, member, patch, rows, at, scales) for at, scales in passes(member.spec.scales).items()]
    return sum(len(grid.tiles) for grid in grids)


def encode_dense(
    slide: Slide,
    member: Backbone,
    patch: PatchSpec,
    rows: IdArray,
    fields: Sequence[Field],
    on_tile: Callable[[], None] = lambda: None,
) -> None:
    """Fill in the features of spots, ``rows`` of the slide, at several fields of view, in the memory of two tile rows.

    ``on_tile`` is called after each tile.
    """
    by_scale = {field.scale: field.take for field in fields}
    for at, scales in passes([field.scale for field in fields]).items():
        grid = _Grid.of(slide, member, patch, rows, at, scales)
        kept: dict[tuple[int, int], list[Cells]] = {}
        pools: list[Pool] = []
        left = np.arange(len(rows))
        tiles = grid.tiles
        with ahead(grid.read(slide)) as read:
            for number, tile in enumerate(read):
                pools, kept[tile.row, tile.column] = _reduced(member, tile.pixels)
                on_tile()
                if number + 1 < len(tiles) and tiles[number + 1][0] == tile.row:
                    continue
                complete = left[grid.last_row[left] <= tile.row]
                if len(complete):
                    _pool(grid, kept, pools, complete, by_scale)
                    left = np.setdiff1d(left, complete)
                needed = grid.first_row[left].min() if len(left) else tile.row + 1
                for place in [place for place in kept if place[0] < needed]:
                    del kept[place]


@dataclass(frozen=True)
class _Grid:
    """The tiles of one pass.

    Attributes
    ----------
    spec
        How a tile is cut.
    step
        Side of a cell in the slide's full-resolution pixels.
    centre
        ``(n, 2)`` spots in cells.
    sides
        Side of each field of view in cells, by scale.
    first_row, last_row
        ``(n,)`` rows of tiles that a spot's widest field of view touches.
    tiles
        (row, column) of every tile that is needed, row by row.
    """

    spec: PatchSpec
    mpp: float | None
    step: float
    centre: NDArray[np.float64]
    sides: dict[float, float]
    first_row: IdArray
    last_row: IdArray
    tiles: list[tuple[int, int]]

    @classmethod
    def of(
        cls, slide: Slide, member: Backbone, patch: PatchSpec, rows: IdArray, at: float, scales: Sequence[float]
    ) -> _Grid:
        side_px = member.spec.input_px[0] if member.spec.input_px else patch.size_px
        # The tile at the pixel size at which the encoder sees the patch.
        scale = patch.scale * at * patch.size_px / side_px
        spec = dataclasses.replace(patch, size_px=TILE_PX, scale=scale)
        step = spec.span_px(slide.mpp) / TILE_PX * CELL_PX
        centre = slide.spots.xy_px[rows] / step
        sides = {scale: side_px * scale / at / CELL_PX for scale in scales}
        widest = max(sides.values())
        low = np.floor(centre - widest / 2).astype(np.int64) // CORE
        high = (np.ceil(centre - widest / 2 + widest).astype(np.int64) - 1) // CORE
        return cls(spec, slide.mpp, step, centre, sides, low[:, 1], high[:, 1], _between(low, high))

    def read(self, slide: Slide) -> Iterator[_Tile]:
        """Yield the tiles, row by row."""
        if slide.image is None:
            return
        for row, column in self.tiles:
            middle = (np.array([column, row], dtype=np.float64) + 0.5) * CORE * self.step
            yield _Tile(row, column, read_patch(slide.image, middle, self.spec, self.mpp))


def _between(low: IdArray, high: IdArray) -> list[tuple[int, int]]:
    """Return the tiles (row, column) from ``low`` to ``high``, ``(n, 2)`` (column, row) each, row by row."""
    blocks = np.unique(np.concatenate([low, high], axis=1), axis=0)  # few, however many spots
    return sorted(
        {
            (row, column)
            for left, top, right, bottom in blocks.tolist()
            for row in range(top, bottom + 1)
            for column in range(left, right + 1)
        }
    )


def _reduced(member: Backbone, pixels: NDArray[np.uint8]) -> tuple[list[Pool], list[Cells]]:
    """Encode a tile and reduce its maps, in the order of the feature vector."""
    device = next(member.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        maps = member.maps(torch.from_numpy(pixels[None].copy()).to(device))
        pools = [Pool(kind, values.shape[1]) for kind, values in maps]
        return pools, [reduce_map(values, pool, MARGIN, CORE) for pool, (_, values) in zip(pools, maps, strict=True)]


def _pool(
    grid: _Grid,
    kept: dict[tuple[int, int], list[Cells]],
    pools: Sequence[Pool],
    spots: IdArray,
    by_scale: dict[float, Callable[[IdArray, int, FloatArray], None]],
) -> None:
    """Pool the fields of view of spots whose tiles are all there."""
    rows, columns = (np.array([place[axis] for place in kept]) for axis in (0, 1))
    origin = (int(rows.min()), int(columns.min()))
    shape = (int(rows.max()) - origin[0] + 1, int(columns.max()) - origin[1] + 1)
    cells = (origin[0] * CORE, origin[1] * CORE), (shape[0] * CORE, shape[1] * CORE)
    windows = {scale: Windows.of(grid.centre[spots], side, *cells) for scale, side in grid.sides.items()}
    start = 0
    for number, pool in enumerate(pools):
        whole = joined({place: parts[number] for place, parts in kept.items()}, origin, shape)
        for scale, window in windows.items():
            by_scale[scale](spots, start, window.pool(whole, pool))
        start += pool.width
