"""Spatial means against the plain loop."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import square_um

from mclstexp.model.space.neighbourhood import CUTOFF, SpatialMean


class TestSpatialMean:
    def test_equals_the_plain_loop(self) -> None:
        rng = np.random.default_rng(0)
        xy, values, width = rng.uniform(0, 2000, size=(60, 2)) // 50 * 50, rng.normal(size=(60, 3)), 200.0
        xy = np.unique(xy, axis=0)
        values = values[: len(xy)]
        expected = np.empty_like(values)
        for i, here in enumerate(xy):
            distance = np.linalg.norm(xy - here, axis=1)
            weight = np.where(distance <= CUTOFF * width, np.exp(-(distance**2) / (2 * width**2)), 0)
            expected[i] = weight @ values / weight.sum()
        np.testing.assert_allclose(SpatialMean(xy, width).apply(values), expected, rtol=1e-10)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 40), st.floats(1, 500), st.integers(0, 10))
    def test_a_constant_stays_and_order_is_free(self, n: int, width: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        xy, values = rng.uniform(0, 1000, size=(n, 2)), rng.normal(size=(n, 2))
        mean = SpatialMean(xy, width)
        np.testing.assert_allclose(mean.apply(np.ones((n, 1))), 1.0, rtol=1e-9)
        order = rng.permutation(n)
        shuffled = SpatialMean(xy[order], width).apply(values[order])
        np.testing.assert_allclose(shuffled, mean.apply(values)[order], rtol=1e-7, atol=1e-9)

    def test_dense_bins_share_cells_and_come_close_to_the_exact_mean(self) -> None:
        xy = square_um(4900, pitch_um=8.0)
        values = np.sin(xy / 200.0)
        coarse = SpatialMean(xy, 100.0)
        middle = int(np.argmin(np.linalg.norm(xy - xy.mean(axis=0), axis=1)))
        distance = np.linalg.norm(xy - xy[middle], axis=1)
        weight = np.where(distance <= CUTOFF * 100, np.exp(-(distance**2) / (2 * 100**2)), 0)
        assert coarse._weights is not None
        assert coarse._weights.shape[0] < len(xy) / 3
        np.testing.assert_allclose(coarse.apply(values)[middle], weight @ values / weight.sum(), atol=0.03)

    def test_zero_width_leaves_values_alone(self) -> None:
        values = np.arange(6.0).reshape(3, 2)
        np.testing.assert_array_equal(SpatialMean(square_um(3), 0.0).apply(values), values)
