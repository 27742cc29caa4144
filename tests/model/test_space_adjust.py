"""The local linear correction, and bringing a slide to its level."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mclstexp.model.space.adjust import correct_toward_query, relevel
from mclstexp.model.space.shared import SharedSpace


class TestCorrection:
    def test_full_strength_follows_a_linear_truth(self, space: SharedSpace) -> None:
        slope = space.expression_per_coordinate()
        query, near = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32) * 0.05
        mean = 20 + near @ slope
        np.testing.assert_allclose(
            correct_toward_query(mean, query, near, slope, strength=1.0), 20 + query @ slope, rtol=1e-4
        )
        np.testing.assert_array_equal(correct_toward_query(mean, query, near, slope, strength=0.0), mean)

    def test_a_component_that_counts_for_nothing_corrects_nothing(self, space: SharedSpace) -> None:
        muted = dataclasses.replace(space, gain=np.zeros_like(space.gain))
        np.testing.assert_array_equal(muted.expression_per_coordinate(), 0)


class TestRelevel:
    def test_the_mean_goes_to_the_level_and_contrasts_stay(self) -> None:
        rng = np.random.default_rng(0)
        values, level = rng.normal(9, 1, (400, 5)), rng.normal(9, 1, 5)
        moved = relevel(values.astype(np.float32), level.astype(np.float32), trust=0)
        np.testing.assert_allclose(moved.mean(axis=0), level, rtol=1e-4)
        np.testing.assert_allclose(moved - moved.mean(axis=0), values - values.mean(axis=0), atol=1e-4)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 10**6), st.integers(2, 80), st.floats(0, 3), st.floats(0.01, 3))
    def test_nothing_goes_below_zero_and_the_mean_is_kept(self, seed: int, n: int, centre: float, level: float) -> None:
        values = np.random.default_rng(seed).normal(centre, 1, (n, 1)).astype(np.float32)
        moved = relevel(values, np.array([level], np.float32), trust=0)
        assert moved.min() >= 0
        np.testing.assert_allclose(moved.mean(), level, rtol=1e-4)
        assert (np.diff(moved[np.argsort(values[:, 0]), 0]) >= -1e-6).all()

    def test_one_spot_hardly_moves(self) -> None:
        one = relevel(np.full((1, 2), 6, np.float32), np.array([0, 17], np.float32), trust=10)
        np.testing.assert_allclose(one, [[6 - 6 / 11, 6 + 11 / 11]], rtol=1e-5)

    def test_the_unknown_stays_unknown(self) -> None:
        values = np.array([[np.nan, 1, 1], [4, 3, np.nan]], np.float32)
        moved = relevel(values, np.array([5, np.nan, 2], np.float32), trust=0)
        np.testing.assert_array_equal(moved, np.array([[np.nan, 1, 2], [5, 3, np.nan]], np.float32))
