"""Whether spots lie where they were measured: their outline against the tissue's, and against other placements of it.

Spots that were selected by tissue repeat its outline: they lie on it, and the empty places of their array beside it.
The contrast of a placement is the tissue share of the spots less that of the empty places. It is highest at the true
placement; coordinates that are mirrored, turned, shifted or of another scale have less than another placement of the
same spots would have. Spots that were not selected by tissue (a whole array, a region of interest) have no such
outline, and nothing is said of them. ``benchmarks/placement.py`` has how often it is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from operator import lt

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

_LEAST_PLACES = 100
"""Arrays of fewer places tell no scale and no turn of spots that lie on tissue: a few places at the edge decide."""

_LEAST_EMPTY = 0.06
"""Share of the array's places that have to be empty: below it, the array was not selected by tissue."""

_OUTLINED = 0.2
"""The same where the spots lie on tissue as given, and the empty places alone say that they are too close."""

_CLEAN = 0.25
"""The empty places' share of tissue over the spots', at the best placement: above it, the outline is another one."""

_CLEARLY_CLEAN = 0.12
"""The same where a scale or a turn is to be believed although the spots lie on tissue as given."""


@dataclass(frozen=True)
class _Limits:
    """Below all of them, a scale or a turn is believed: each is a share of what it reaches at its best shift.

    Attributes
    ----------
    given, moved
        Contrast as given, and at the best shift alone: a true placement that was moved by less than a spot has lost
        contrast to the shift, and to no scale or turn.
    share
        Tissue share of the spots as given.
    """

    given: float
    moved: float
    share: float


_ANY = float("inf")
_LIMITS = {
    # Spots that are too close together lie on tissue all the same, and their empty places do, too.
    "apart": (_Limits(0.85, 0.95, 1.2), _Limits(0.87, 0.97, 1.2)),
    "together": (_Limits(0.85, 0.95, SHARE_REFUSED), _Limits(0.87, 0.97, SHARE_DOUBTED)),
    "turned": (_Limits(_ANY, 0.94, 0.98), _Limits(_ANY, 0.975, 1.0)),
}
"""By kind: where it is refused, and where it is doubted."""

_LEAST_CONTRAST = 0.25
_SCALES = tuple(percent / 100 for percent in range(70, 150, 5) if percent != 100)
_TURNS = tuple(step / 2 for step in range(-30, 31, 5) if step)
_STEP_PX = 4
_GRID_PX = (96, 512)
_ALIKE, _PLAINLY, _NEAR, _SMALLER = 0.97, 0.85, 0.06, 0.95


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
    scale
        How many times as far apart the spots are at the best placement.
    """

    contrast: float
    best: float
    share: float
    best_share: float
    change: str
    verdict: str
    scale: float = 1.0

    def __str__(self) -> str:
        around, best_around = self.share - self.contrast, self.best_share - self.best
        return (
            f"their outline would fit the tissue's if they were {self.change}: {self.best_share:.0%} of the spots' "
            f"area and {best_around:.0%} of the empty places' would then be tissue, in place of {self.share:.0%} and "
            f"{around:.0%}"
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
    found = [_Fit(other, *search.best_shift(other.change, other.scale)) for other in _others(size)]
    best = _outline(search, given, found, size)
    return best if best.verdict == "wrong" else _scaled_or_turned(search, given, found, size) or best


@dataclass(frozen=True)
class _Other:
    """Another placement: in words, as a function of points, and its scale."""

    words: str
    change: Change
    scale: float = 1.0
    degrees: float = 0.0


@dataclass(frozen=True)
class _Fit:
    """Another placement at its best shift, in columns and rows, and its contrast there."""

    other: _Other
    shift: tuple[int, int]
    contrast: float


def _outline(search: _Search, given: tuple[float, float], found: list[_Fit], size: tuple[int, int]) -> Placement:
    """Return the plainest of those that fit alike: a shift before a mirror, a mirror before a scale."""
    top = max(fit.contrast for fit in found)
    alike = [fit for fit in found if fit.other.scale == 1 and fit.contrast >= _ALIKE * top]
    scaled = [one for one in found if one.other.scale != 1]
    fit = alike[0] if alike else max(scaled, key=lambda one: one.contrast)
    best, around = _compared(search, given, fit)
    verdict = _verdict(best, around)
    if not alike:
        best = _plainly_scaled(_compared(search, given, max(scaled, key=_weighed))[0], search, size)
    return replace(best, verdict=verdict)


def _weighed(fit: _Fit) -> float:
    """Return the contrast, less where spots are drawn together: a smaller outline fits in more places by chance."""
    return _SMALLER * fit.contrast if fit.other.scale < 1 else fit.contrast


def _compared(search: _Search, given: tuple[float, float], fit: _Fit) -> tuple[Placement, float]:
    share, around = search.at(fit.other.change, fit.shift, fit.other.scale)
    words = search.in_words(fit.other, fit.shift)
    return Placement(given[0] - given[1], share - around, given[0], share, words, "right", fit.other.scale), around


def _plainly_scaled(best: Placement, search: _Search, size: tuple[int, int]) -> Placement:
    """Prefer a scale that fits almost as well where nothing is moved: coordinates of another resolution."""
    near = [other for other in _others(size) if other.scale != 1 and abs(other.scale - best.scale) < _NEAR]
    plain = [(*search.at(_same, (0, 0), other.scale), other) for other in near]
    share, around, other = max(plain, key=lambda one: one[0] - one[1])
    if share - around < max(_PLAINLY * best.best, best.contrast):
        return best
    return replace(best, best=share - around, best_share=share, change=other.words, scale=other.scale)


def _verdict(placement: Placement, around: float) -> str:
    gain = placement.best - placement.contrast
    if placement.best < _LEAST_CONTRAST or around > _CLEAN * placement.best_share:
        return "unknown"
    contrast, share = placement.contrast / placement.best, placement.share / placement.best_share
    if gain < LEAST_GAIN or contrast >= DOUBTED or share >= SHARE_DOUBTED:
        return "right"
    return "wrong" if contrast < REFUSED and share < SHARE_REFUSED else "doubtful"


def _scaled_or_turned(
    search: _Search, given: tuple[float, float], found: list[_Fit], size: tuple[int, int]
) -> Placement | None:
    """Return a scale or a turn that fits where no shift does, however much of the spots lies on tissue as given."""
    if search.n_places < _LEAST_PLACES:
        return None
    kinds = {
        "apart": [fit for fit in found if fit.other.scale > 1 and search.empty_share >= _OUTLINED],
        "together": [fit for fit in found if fit.other.scale < 1],
        "turned": [fit for fit in found if fit.other.degrees],
    }
    told = []
    for kind, fits in ((kind, fits) for kind, fits in kinds.items() if fits):
        fit = max(fits, key=lambda one: one.contrast)
        best, around = _compared(search, given, fit)
        if best.best < _LEAST_CONTRAST or around > _CLEARLY_CLEAN * best.best_share:
            continue
        shares = best.contrast / best.best, found[0].contrast / best.best, best.share / best.best_share
        refused, doubted = (all(map(lt, shares, astuple(limits))) for limits in _LIMITS[kind])
        if refused or doubted:
            best = best if fit.other.scale == 1 else _plainly_scaled(best, search, size)
            told.append((not refused, -_weighed(fit), replace(best, verdict="wrong" if refused else "doubtful")))
    return min(told, key=lambda one: one[:2])[2] if told else None


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
        self.n_places = len(spots) + len(empty)
        self.empty_share = len(empty) / self.n_places
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

    def in_words(self, other: _Other, shift: tuple[int, int]) -> str:
        """Say what was changed, with the shift where there is nothing else."""
        if other.scale != 1 and shift != (0, 0):
            return f"{other.scale:g} times as far apart, about another place than the upper left corner"
        if other.words:
            return other.words
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


def _others(size: tuple[int, int]) -> list[_Other]:
    """Return every other placement that is tried, each at its best shift; plainest first."""
    width, height = size
    others = [
        _Other("", _same),
        _Other("taken with x and y exchanged", lambda xy: xy[:, ::-1]),
        _Other("mirrored left to right", lambda xy: xy * (-1, 1) + (width, 0)),
        _Other("mirrored top to bottom", lambda xy: xy * (1, -1) + (0, height)),
        _Other("turned by 180 degrees", lambda xy: xy * (-1, -1) + (width, height)),
        _Other("turned by 90 degrees", lambda xy: xy[:, ::-1] * (-1, 1) + (height, 0)),
        _Other("turned by 270 degrees", lambda xy: xy[:, ::-1] * (1, -1) + (0, width)),
        _Other("turned by 90 degrees and mirrored", lambda xy: xy[:, ::-1] * (-1, -1) + (height, width)),
    ]
    others += [_Other(f"{scale:g} times as far from the upper left corner", _same, scale) for scale in _SCALES]
    centre = np.array([width / 2, height / 2])
    for degrees in _TURNS:
        turn = _turn(np.deg2rad(degrees))
        others.append(
            _Other(f"turned by {degrees:g} degrees", partial(_turned, turn=turn, centre=centre), 1.0, degrees)
        )
    return others


def _turned(xy: Points, turn: Points, centre: Points) -> Points:
    return np.asarray((xy - centre) @ turn.T + centre)


def _same(xy: Points) -> Points:
    return xy


def _turn(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _shrunk(mask: BoolArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    from PIL import Image

    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    shrunk = np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BOX), dtype=np.float32)
    return shrunk / np.float32(255)
