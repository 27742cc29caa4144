"""The grid that spots were printed on: distance between neighbours, array coordinates, pixel size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError
from mclstexp.slide import MppSource, SlideImage, check_mpp

LEGACY_ST_PITCH_UM = 200.0
LEGACY_ST_2K_PITCH_UM = 150.0
"""Of the later arrays of 2,000 spots, whose neighbours lie along the grid's diagonals."""

VISIUM_PITCH_UM = 100.0

MPP_TOLERANCE = 0.10
"""Pixel sizes that differ by more contradict each other: a patch then holds a fifth more or less tissue. What the pitch
says differs by less than 1 % between sections of one scanner, and a nominal 0.5 um is 0.49 to 0.51 in truth."""

MPP_NOTED = 0.05
"""Pixel sizes that differ by more are said."""

_MAX_STEPS = 1e6
"""Spots across a slide that no technology reaches: the finest bins, 0.5 um, make 30,000."""

_SAME_STEP = 1.3
"""Rows and columns whose steps differ by less are alike: in half steps, those of a hexagonal grid differ by 1.73."""

_LEAST_HEXAGONAL = 24
"""Fewer spots are no array that can be told."""

_ROW_STEP = math.sqrt(3) / 2  # rows of a hexagonal grid lie this much of the pitch apart


def fit_grid(
    xy_px: NDArray[np.float64], array_row: NDArray[np.int64], array_col: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Fit pixels = matrix @ (array_col, array_row) + offset, without the spots that lie off the fit.

    Returns
    -------
    The ``(2, 2)`` float64 matrix in pixels per array step, or None where the array coordinates cannot tell (spots on
    one line, or pixels that do not follow the array).
    """
    design = np.column_stack([array_col, array_row, np.ones(len(xy_px))]).astype(np.float64)
    kept = np.ones(len(xy_px), dtype=bool)
    matrix: NDArray[np.float64] = np.zeros((2, 2))
    residual: NDArray[np.float64] = np.zeros(len(xy_px))
    for _ in range(3):
        if kept.sum() < 4 or np.linalg.matrix_rank(design[kept] - design[kept].mean(axis=0)) < 2:
            return None
        solution = np.linalg.lstsq(design[kept], xy_px[kept], rcond=None)[0]
        matrix = np.asarray(solution[:2].T, dtype=np.float64)
        residual = np.asarray(np.hypot(*(xy_px - design @ solution).T))
        kept = residual <= max(4 * float(np.median(residual)), 1.0)
    step = math.sqrt(abs(float(np.linalg.det(matrix))))
    return matrix if step > 0 and float(np.median(residual)) < 0.5 * step else None


def is_staggered(array_row: NDArray[np.int64], array_col: NDArray[np.int64]) -> bool:
    """Whether every other place of the array is empty, as on Visium and 2K arrays: row + column has one parity."""
    return len(array_row) > 2 and len(np.unique((array_row + array_col) % 2)) == 1


def mpp_from_array(
    xy_px: NDArray[np.float64], array_row: NDArray[np.int64], array_col: NDArray[np.int64], pitch_um: float
) -> float | None:
    """Pixel size in um from how far apart in pixels the array steps are, or None where they cannot tell."""
    matrix = fit_grid(xy_px, array_row, array_col)
    if matrix is None:
        return None
    step_area_um = pitch_um**2
    if is_staggered(array_row, array_col):
        column, row = np.linalg.norm(matrix, axis=0)
        step_area_um *= 0.5 if max(column, row) < _SAME_STEP * min(column, row) else 0.5 * _ROW_STEP
    return math.sqrt(step_area_um / abs(float(np.linalg.det(matrix))))


def pitch_px(xy_px: NDArray[np.float64]) -> float | None:
    """Median distance in pixels from a spot to its nearest neighbour, or None with fewer than two spots."""
    from scipy.spatial import cKDTree

    if len(xy_px) < 2:
        return None
    distance = np.asarray(cKDTree(xy_px).query(xy_px, k=2)[0])[:, 1]
    median = float(np.median(distance))
    return median if median > 0 else None


def is_hexagonal(xy_px: NDArray[np.float64], pitch: float) -> bool:
    """Whether spots have six neighbours at the distance ``pitch``, those within the array."""
    from scipy.spatial import cKDTree

    neighbours = cKDTree(xy_px).query_ball_point(xy_px, 1.25 * pitch, return_length=True) - 1
    return float(np.percentile(neighbours, 90)) > 4.5


def spacing_off(xy_px: NDArray[np.float64], mpp: float) -> tuple[float, float] | None:
    """Compare the distance between hexagonal spots with Visium's, the only array that is printed so.

    Parameters
    ----------
    xy_px
        ``(n, 2)`` spot centres in pixels.
    mpp
        Pixel size in um that does not follow from the spots themselves.

    Returns
    -------
    The distance in um and Visium's over it, or None where they agree within ``MPP_NOTED`` or the spots are not
    hexagonal.
    """
    pitch = pitch_px(xy_px)
    if pitch is None or len(xy_px) < _LEAST_HEXAGONAL or not is_hexagonal(xy_px, pitch):
        return None
    spacing = pitch * mpp
    return None if _agree(spacing, VISIUM_PITCH_UM, MPP_NOTED) else (spacing, VISIUM_PITCH_UM / spacing)


def derive_array(xy_px: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lay array coordinates over spots that have none, starting at 0.

    On a hexagonal layout rows are 0.87 of the pitch apart and columns half of it, as Visium counts them; on any other
    layout both are one pitch.

    Returns
    -------
    ``array_row`` and ``array_col``, ``(n,)`` int64 each.

    Raises
    ------
    InputError
        When the spots are so unevenly apart that no array fits them.
    """
    pitch = pitch_px(xy_px)
    if pitch is None:
        return np.zeros(len(xy_px), dtype=np.int64), np.zeros(len(xy_px), dtype=np.int64)
    column_px, row_px = (pitch / 2, pitch * _ROW_STEP) if is_hexagonal(xy_px, pitch) else (pitch, pitch)
    shifted = xy_px - xy_px.min(axis=0)
    if shifted.max() / pitch > _MAX_STEPS:
        raise InputError(
            f"neighbouring spots are {pitch:.3g} px apart and the farthest {shifted.max():.3g}: these are no spots of "
            "one array; correct their coordinates."
        )
    return (
        np.rint(shifted[:, 1] / row_px).astype(np.int64),
        np.rint(shifted[:, 0] / column_px).astype(np.int64),
    )


def resolve_mpp(
    slide_id: str,
    *,
    given: float | None,
    image: SlideImage | None,
    stated: float | None,
    pitch: float | None,
    believed: MppSource | None = None,
    strict: bool = False,
) -> tuple[float | None, MppSource | None, list[str]]:
    """Choose a slide's pixel size: given, else stated by its files, else from the spot pitch.

    Parameters
    ----------
    slide_id
        For messages.
    given
        What the user said, in um.
    image
        The slide's image, whose header may state a pixel size.
    stated
        What another file of the slide states (scale factors, metadata), in um.
    pitch
        Pixel size that follows from the distance between spots, in um.
    believed
        Which of them the user believes, whatever the others say.
    strict
        Whether a given size has to agree with one of the others, where there are others.

    Returns
    -------
    The pixel size, its source, and what has to be said about it.

    Raises
    ------
    InputError
        When the given size is absurd, or they disagree by more than ``MPP_TOLERANCE``: the coordinates are of another
        resolution, or one of the sizes is wrong.
    """
    if given is not None:
        check_mpp(slide_id, given)
    in_file = stated if stated is not None else (image.mpp if image is not None else None)
    sizes: dict[MppSource, float | None] = {"given": given, "file": in_file, "pitch": pitch}
    known: dict[MppSource, float] = {name: size for name, size in sizes.items() if size is not None}
    if believed is not None and believed not in known:
        raise InputError(f"Slide {slide_id}: --mpp-from {believed}, but that says no pixel size: {_all_three(sizes)}.")
    if not known:
        return None, None, []
    source = next(iter(known)) if believed is None else believed
    others = {name: size for name, size in known.items() if name != source}
    against = [name for name, size in others.items() if not _agree(known[source], size, MPP_TOLERANCE)]
    alone = bool(against) and len(against) == len(others)
    if alone and believed is None and (source == "file" or strict):
        factor = others[against[-1]] / known[source]
        raise InputError(
            f"Slide {slide_id}: pixel sizes disagree: {_all_three(sizes)}. The coordinates are of another resolution "
            f"than the image (by {factor:.3g}), or a size is wrong; give coordinates at full resolution, or say which "
            "is right: --mpp-from given, file or pitch."
        )
    noted = [name for name, size in others.items() if not _agree(known[source], size, MPP_NOTED)]
    notes = [f"the pixel size is taken from {_SAID[source]}, and others differ: {_all_three(sizes)}."] if noted else []
    return known[source], source, notes


_SAID: dict[MppSource, str] = {"given": "--mpp", "file": "the file", "pitch": "the distance between spots"}


def _agree(one: float, other: float, tolerance: float) -> bool:
    return abs(math.log(one / other)) <= math.log1p(tolerance)


def _all_three(sizes: dict[MppSource, float | None]) -> str:
    return ", ".join(
        f"{_SAID[source]} says {'nothing' if size is None else f'{size:.4g} um'}" for source, size in sizes.items()
    )
