"""The grid under the spots: pixel size and array coordinates follow from it, or are not guessed."""

import math

import numpy as np
import pytest

from mclstexp.data.positions.lattice import derive_array, fit_grid, is_staggered, mpp_from_array, pitch_px


def grid(hexagonal, n=8, pitch=40.0):
    row, col = np.mgrid[0:n, 0:n]
    if hexagonal:
        array_col = 2 * col + row % 2
        xy = np.stack([array_col * pitch / 2, row * pitch * math.sqrt(3) / 2], axis=-1)
    else:
        array_col, xy = col, np.stack([col, row], axis=-1) * pitch
    return xy.reshape(-1, 2) + 100, row.ravel(), array_col.ravel()


@pytest.mark.parametrize("hexagonal", [True, False])
@pytest.mark.parametrize("angle", [0.0, 0.1, math.pi / 2])
def test_pixel_size_from_the_pitch(hexagonal, angle):
    xy, row, col = grid(hexagonal)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    noise = np.random.default_rng(0).normal(0, 0.5, xy.shape)
    noise[3] += 500  # one spot that was dragged away
    assert is_staggered(row, col) == hexagonal
    assert mpp_from_array(xy @ turn.T + noise, row, col, 100.0) == pytest.approx(2.5, rel=0.01)
    assert pitch_px(xy) == pytest.approx(40)


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_a_staggered_square_grid_has_its_neighbours_along_the_diagonals(angle):
    row, col = (part.ravel() for part in np.mgrid[0:9, 0:9])
    kept = (row + col) % 2 == 0
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    xy = np.stack([col, row], axis=1)[kept] * 30.0 @ turn.T
    assert pitch_px(xy) == pytest.approx(30 * math.sqrt(2))
    assert mpp_from_array(xy, row[kept], col[kept], 150.0) == pytest.approx(150 / (30 * math.sqrt(2)))


def test_pixel_size_is_not_guessed():
    xy, row, col = grid(hexagonal=False)
    assert mpp_from_array(xy[:8], row[:8], col[:8], 100.0) is None  # one line of spots
    assert fit_grid(np.random.default_rng(0).uniform(0, 1000, xy.shape), row, col) is None
    assert pitch_px(xy[:1]) is None


@pytest.mark.parametrize("hexagonal", [True, False])
def test_derived_array_is_the_array_in_any_order(hexagonal):
    xy, row, col = grid(hexagonal)
    order = np.random.default_rng(1).permutation(len(xy))
    derived_row, derived_col = derive_array(xy[order])
    np.testing.assert_array_equal(derived_row, row[order])
    np.testing.assert_array_equal(derived_col, col[order])
