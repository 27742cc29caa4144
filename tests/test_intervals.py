"""Measures of intervals against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mclstexp import intervals
from mclstexp.errors import InputError


def test_coverage_by_hand():
    truth = np.array([[0.0, 1.0], [2.0, np.nan]])
    low, high = truth - np.array([[1, 0], [-1, 0]]), truth + np.array([[1, 0], [2, 0]])
    assert intervals.interval_coverage(truth, low, high) == pytest.approx((2 / 3, (2 + 0 + 1) / 3))
    with pytest.raises(InputError, match="lower bound above"):
        intervals.interval_coverage(truth, high + 1, low)


def test_pinball_by_hand_and_of_true_quantiles():
    truth, low, high = np.array([[1.0], [5.0], [3.0]]), np.full((3, 1), 2.0), np.full((3, 1), 4.0)
    # at 0.1 and 0.9: below both, above both, between
    by_hand = np.mean([(0.9 * 1 + 0.1 * 3) / 2, (0.1 * 3 + 0.9 * 1) / 2, (0.1 * 1 + 0.1 * 1) / 2])
    assert intervals.pinball_loss(truth, low, high, 0.8) == pytest.approx(by_hand)
    values = np.random.default_rng(0).normal(size=(4000, 1))
    losses = [intervals.pinball_loss(values, values * 0 - z, values * 0 + z, 0.8) for z in (0.6, 1.28, 2.5)]
    assert losses[1] < min(losses[0], losses[2])


@given(st.floats(0, 1), st.integers(0, 5))
def test_the_constant_interval_holds_what_it_should(coverage, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.normal(size=(2, 50, 4))
    truth[:, 3] = np.nan
    low, high = intervals.constant_interval(truth, predicted, [1.0, 2.0, 0.5, 1.0], coverage)
    inside, _ = intervals.interval_coverage(truth, low, high)
    assert inside == pytest.approx(coverage, abs=1 / 150)
    np.testing.assert_allclose((high - low)[0], (high - low)[-1])
    assert (high - low)[0, 1] == pytest.approx(2 * (high - low)[0, 0])
