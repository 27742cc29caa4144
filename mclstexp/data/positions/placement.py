"""Whether spots lie where they were measured: their outline against the tissue's, and against other placements of it.

Spots that were selected by tissue repeat its outline: they lie on it, and the empty places of their array beside it.
The contrast of a placement is the tissue share of the spots less that of the empty places. It is highest at the true
placement; coordinates that are mirrored, turned, shifted or of another scale have less than another placement of the
same spots would have. Spots that were not selected by tissue (a whole array, a region of interest) have no such
outline, and nothing is said of them. ``benchmarks/placement.py`` has how often it is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.positions.lattice import pitch_px
from mclstexp.types import BoolArray

Points = NDArray[np.float64]
Change = Callable[[Points], Points]

REFUSED, DOUBTED = 0.85, 0.90
"""Share of the best placement's contrast below which a placement is refused, or doubted."""

SHARE_REFUSED, SHARE_DOUBTED = 0.92, 0.98
"""The same of the spots' own share of tissue: where they lie on tissue as well as anywhere, their outline is no reason
to refuse them, as that of a marked region within the tissue."""

LEAST_GAIN = 0.08
"""How much contrast another placement has to gain."""

MIN_SPOTS = 24
"""Fewer spots have no outline."""

_LEAST_EMPTY = 0.06
"""Share of the array's places that have to be empty: below it, the array was not selected by tissue."""

_CLEAN = 0.25
"""The empty places' share of tissue over the spots', at the best placement: above it, the outline is another one."""

_LEAST_CONTRAST = 0.25
_SCALES = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3)
_TURNS = (-15, -10, -5, 5, 10, 15)
_STEP_PX = 4
_GRID_PX = (96, 512)
_ALIKE, _PLAINLY = 0.97, 0.85


@dataclass(frozen=True)
class Placement:
    """How spots lie on the tissue, and the best other way that was found.

    Attributes
    ----------
    contrast, best
        Tissue share of the spots less that of the array's empty places, as given and at the best placement.
    share, best_share
        Tissue share of the spots alone.
    change
        What leads from the given placement to the best, in words.
    verdict
        "right" when nothing speaks against it, "doubtful" or "wrong"; "unknown" where the spots have no outline.
    """

    contrast: float
    best: float
    share: float
    best_share: float
    change: str
    verdict: str

    def __str__(self) -> str:
        return (
            f"{self.share:.0%} of the spots' area is tissue, and {self.best_share:.0%} if they were {self.change} (the "
            "outline of the spots then fits that of the tissue)"
        )


UNKNOWN = Placement(0.0, 0.0, 0.0, 0.0, "", "unknown")


def judge(mask: BoolArray, size: tuple[int, int], xy_px: Points) -> Placement:
    """Compare a placement of spots with its mirrors, turns, shifts and scales.

    Parameters
    ----------
    mask
        ``(h, w)`` bool, tissue of the whole image.
    size
        Width and height of the image at full resolution.
    xy_px
        ``(n, 2)`` spot centres as (x, y) at full resolution.
    """
    pitch = pitch_px(xy_px)
    if pitch is None or len(xy_px) < MIN_SPOTS or not mask.any():
        return UNKNOWN
    empty = empty_places(xy_px, pitch)
    if len(empty) < _LEAST_EMPTY * (len(xy_px) + len(empty)):
        return UNKNOWN
    search = _Search(mask, size, xy_px, empty, pitch)
    given = search.at(_same, (0, 0), 1.0)
    found = [(*search.best_shift(change, scale), words, change, scale) for words, change, scale in _changes(size)]
    # The plainest of those that fit alike: a shift before a mirror, a mirror before a scale.
    top = max(contrast for _, contrast, *_ in found)
    kinds = [[one for one in found if (one[4] != 1) == scaled] for scaled in (False, True)]
    alike = [one for one in kinds[0] if one[1] >= _ALIKE * top] or [max(kinds[1], key=lambda one: one[1])]
    shift, _, words, change, scale = alike[0]
    share, around = search.at(change, shift, scale)
    best = Placement(given[0] - given[1], share - around, given[0], share, search.in_words(words, shift), "right")
    verdict = _verdict(best, around)
    if scale != 1:
        best = _plainly_scaled(best, search, size)
    return replace(best, verdict=verdict)


def _plainly_scaled(best: Placement, search: _Search, size: tuple[int, int]) -> Placement:
    """Prefer a scale that fits almost as well where nothing is moved: coordinates of another resolution."""
    plain = [(*search.at(change, (0, 0), scale), words) for words, change, scale in _changes(size) if scale != 1]
    share, around, words = max(plain, key=lambda one: one[0] - one[1])
    if share - around < _PLAINLY * best.best:
        return best
    return replace(best, best=share - around, best_share=share, change=words)


def _verdict(placement: Placement, around: float) -> str:
    gain = placement.best - placement.contrast
    if placement.best < _LEAST_CONTRAST or around > _CLEAN * placement.best_share:
        return "unknown"
    contrast, share = placement.contrast / placement.best, placement.share / placement.best_share
    if gain < LEAST_GAIN or contrast >= DOUBTED or share >= SHARE_DOUBTED:
        return "right"
    return "wrong" if contrast < REFUSED and share < SHARE_REFUSED else "doubtful"


def empty_places(xy_px: Points, pitch: float) -> Points:
    """Return the places of the array without a spot, ``(m, 2)``, inside the smallest rectangle around the spots."""
    from scipy.spatial import ConvexHull, QhullError, cKDTree

    try:
        hull = xy_px[ConvexHull(xy_px).vertices]
    except QhullError:  # all on one line
        return np.zeros((0, 2))
    edges = np.roll(hull, -1, axis=0) - hull
    boxes = []
    for angle in np.arctan2(edges[:, 1], edges[:, 0]):
        turn = _turn(-angle)
        turned = hull @ turn.T
        low, high = turned.min(axis=0), turned.max(axis=0)
        boxes.append((float(np.prod(high - low)), turn, low, high))
    _, turn, low, high = min(boxes, key=lambda box: box[0])
    axes = [
        np.linspace(start, end, int(min(2000, max(2, round((end - start) / pitch) + 1))))
        for start, end in zip(low, high, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2) @ turn
    # Within a square array no place is farther from a spot than 0.71 of the pitch.
    return np.asarray(places[cKDTree(xy_px).query(places)[0] > 0.8 * pitch])


class _Search:
    """The contrast of every shift at once, by correlation on a thumbnail where the pitch is a few pixels."""

    def __init__(self, mask: BoolArray, size: tuple[int, int], spots: Points, empty: Points, pitch: float) -> None:
        from scipy import fft  # not above: commands that place nothing load this module, too

        longer = int(np.clip(_STEP_PX * max(size) / pitch, *_GRID_PX))
        self._scale = longer / max(size)
        self._shape = (max(1, round(size[1] * self._scale)), max(1, round(size[0] * self._scale)))
        self._spots, self._empty, self._pitch = spots, empty, pitch
        self._tissue = _shrunk(mask, self._shape)
        self._padded = tuple(fft.next_fast_len(2 * side, real=True) for side in self._shape)
        self._shares: dict[float, tuple[NDArray[np.float32], NDArray[np.complex64]]] = {}

    def at(self, change: Change, shift: tuple[int, int], scale: float) -> tuple[float, float]:
        """Return the tissue share of the spots and of the empty places."""
        shares = self._share(scale)[0]
        height, width = shares.shape
        means = []
        for points in (self._spots, self._empty):
            columns, rows = self._pixels(points, change, scale)
            columns, rows = columns + shift[0], rows + shift[1]
            inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
            means.append(
                float(np.where(inside, shares[rows.clip(0, height - 1), columns.clip(0, width - 1)], 0).mean())
            )
        return means[0], means[1]

    def best_shift(self, change: Change, scale: float) -> tuple[tuple[int, int], float]:
        """Return the shift (columns, rows) of the highest contrast, and the contrast."""
        from scipy import fft

        height, width = self._padded
        template = np.zeros(self._padded, dtype=np.float32)
        for points, weight in ((self._spots, 1.0), (self._empty, -1.0)):
            columns, rows = self._pixels(points, change, scale)
            # What lies outside the image is taken round: the padding is as wide as the image.
            np.add.at(template, (rows % height, columns % width), weight / len(points))
        contrast = fft.irfft2(self._share(scale)[1] * np.conj(fft.rfft2(template)), self._padded)
        row, column = np.unravel_index(int(np.argmax(contrast)), contrast.shape)
        top = float(contrast[row, column])
        down = int(row) - (height if row > height // 2 else 0)
        across = int(column) - (width if column > width // 2 else 0)
        return (across, down), top

    def in_words(self, words: str, shift: tuple[int, int]) -> str:
        """Say what was changed, with the shift where there is nothing else."""
        if words:
            return words
        across, down = (round(step / self._scale) for step in shift)
        return f"moved by {across:+d}, {down:+d} px"

    def _pixels(self, points: Points, change: Change, scale: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        changed = np.floor(change(points) * scale * self._scale).astype(np.int64)
        return changed[:, 0], changed[:, 1]

    def _share(self, scale: float) -> tuple[NDArray[np.float32], NDArray[np.complex64]]:
        from scipy import fft
        from scipy.ndimage import uniform_filter

        if scale not in self._shares:
            span = max(1, round(self._pitch * scale * self._scale))
            shares = uniform_filter(self._tissue, span, mode="constant")
            self._shares[scale] = (shares, fft.rfft2(shares, self._padded))
        return self._shares[scale]


def _changes(size: tuple[int, int]) -> list[tuple[str, Change, float]]:
    """Return every other placement that is tried, in words, as a function of points, and its scale; plainest first."""
    width, height = size
    turned: list[tuple[str, Change]] = [
        ("", _same),
        ("taken with x and y exchanged", lambda xy: xy[:, ::-1]),
        ("mirrored left to right", lambda xy: xy * (-1, 1) + (width, 0)),
        ("mirrored top to bottom", lambda xy: xy * (1, -1) + (0, height)),
        ("turned by 180 degrees", lambda xy: xy * (-1, -1) + (width, height)),
        ("turned by 90 degrees", lambda xy: xy[:, ::-1] * (-1, 1) + (height, 0)),
        ("turned by 270 degrees", lambda xy: xy[:, ::-1] * (1, -1) + (0, width)),
        ("turned by 90 degrees and mirrored", lambda xy: xy[:, ::-1] * (-1, -1) + (height, width)),
    ]
    changes: list[tuple[str, Change, float]] = [(words, change, 1.0) for words, change in turned]
    changes += [(f"{scale:g} times as far from the upper left corner", _same, scale) for scale in _SCALES]
    centre = np.array([width / 2, height / 2])
    for degrees in _TURNS:
        turn = _turn(np.deg2rad(degrees))
        changes.append((f"turned by {degrees} degrees", lambda xy, turn=turn: (xy - centre) @ turn.T + centre, 1.0))  # type: ignore[misc]
    return changes


def _same(xy: Points) -> Points:
    return xy


def _turn(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _shrunk(mask: BoolArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    from PIL import Image

    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    shrunk = np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BOX), dtype=np.float32)
    return shrunk / np.float32(255)
