"""How sure a model is: intervals that widen where it is strange, percentiles, and the state that rebuilds it."""

import dataclasses

import numpy as np
import pytest
from worlds import NOISY_LAYOUT, NOISY_PANEL, noisy_arrays

from mclstexp.config import ModelConfig, RetrievalConfig, SharedSpaceConfig
from mclstexp.errors import FormatError
from mclstexp.model.calibration import MAX_WIDENING, Calibration, smaller_percentile
from mclstexp.predict.calibrate import calibrate

CONFIG = ModelConfig(shared=SharedSpaceConfig(context_um=0.0), retrieval=RetrievalConfig(k=60, temperature=0.2))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(noisy_arrays(3), NOISY_LAYOUT, CONFIG, NOISY_PANEL)


def test_strange_patches_get_wider_intervals(calibration: Calibration) -> None:
    near = np.linspace(calibration.nearness[0] - 0.5, calibration.nearness[-1], 50).astype(np.float32)
    usual = np.full(50, np.median(calibration.strangeness), dtype=np.float32)
    wide = calibration.widening(near, usual)
    assert (np.diff(wide) <= 1e-6).all()
    assert wide[0] > 1.5 * wide[-1]
    far = calibration.widening(near, usual + 10 * np.float32(calibration.strangeness[-1]))
    assert (far >= wide).all()
    assert (far > 1.5 * wide)[-10:].all()
    assert far.max() <= MAX_WIDENING * calibration.factor.max() * (1 + 1e-6)
    features = np.random.default_rng(0).normal(size=(20, NOISY_LAYOUT.width)).astype(np.float32) * 30
    assert (calibration.familiarity(calibration.distance(features)) == 0).all()


def test_an_interval_is_the_widened_quantile_around_the_mean(calibration: Calibration) -> None:
    rng = np.random.default_rng(2)
    mean, sd = rng.uniform(0, 3, (2, 7, 3)).astype(np.float32)
    columns = np.array([5, 0, 29])
    nearness = rng.uniform(0.5, 1, 7).astype(np.float32)
    distance = rng.uniform(0.5, 2, 7).astype(np.float32)
    lower, upper = calibration.interval(mean, sd, columns, nearness=nearness, distance=distance)
    widening = calibration.widening(nearness, distance)
    for i in range(7):
        for g, column in enumerate(columns):
            half = widening[i] * (sd[i, g] + calibration.floor[column]) * calibration.quantile[column]
            assert upper[i, g] == pytest.approx(mean[i, g] + half, rel=1e-5)
            assert lower[i, g] == pytest.approx(max(mean[i, g] - half, 0), rel=1e-4, abs=1e-6)


def test_familiarity_is_the_share_that_is_at_least_as_far_out(calibration: Calibration) -> None:
    ends = np.array([calibration.strangeness[0] - 1, calibration.strangeness[-1] + 1], np.float32)
    assert calibration.familiarity(ends).tolist() == [100, 0]
    some = calibration.strangeness[[3, 70, 200]]
    expected = [100 * np.mean(calibration.strangeness >= one) for one in some]
    np.testing.assert_allclose(calibration.familiarity(some), expected, rtol=1e-5)


def test_held_out_patches_have_every_familiarity() -> None:
    slides = noisy_arrays(8, seed=3)
    calibration = calibrate(slides[:5], NOISY_LAYOUT, CONFIG, NOISY_PANEL)
    percent = np.concatenate([calibration.familiarity(calibration.distance(s.features)) for s in slides[5:]])
    assert 30 < np.median(percent) < 70
    assert np.quantile(percent, 0.1) > 1


def test_the_smaller_percentile_is_one_again() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 100, (2, 20_000)).astype(np.float32)
    both = smaller_percentile(a, b)
    np.testing.assert_allclose(np.quantile(both, [0.05, 0.5, 0.95]), [5, 50, 95], atol=1)
    np.testing.assert_array_equal(smaller_percentile(np.full(3, np.nan, np.float32), b[:3]), b[:3])


def test_state_round_trip_and_determinism(calibration: Calibration) -> None:
    again = calibrate(noisy_arrays(3), NOISY_LAYOUT, CONFIG, NOISY_PANEL)
    arrays, facts = calibration.state()
    back = Calibration.from_state(arrays, facts)
    assert back is not None
    for name, values in arrays.items():
        assert name.startswith("calibration.")
        np.testing.assert_array_equal(values, again.state()[0][name])
        np.testing.assert_array_equal(values, back.state()[0][name])
    assert back.summary() == calibration.summary()
    assert Calibration.from_state({}, {}) is None


@pytest.mark.parametrize("name", ["quantile", "strangeness", "distance.axes"])
def test_a_state_with_a_gap_is_refused(calibration: Calibration, name: str) -> None:
    arrays, facts = calibration.state()
    with pytest.raises(FormatError, match=f"lacks {name}"):
        Calibration.from_state({k: v for k, v in arrays.items() if k != f"calibration.{name}"}, facts)


def test_genes_outside_the_panel_or_never_scored_have_no_interval(calibration: Calibration) -> None:
    never, known = 4, 7
    quantile = calibration.quantile.copy()
    quantile[never] = np.nan
    partial = dataclasses.replace(calibration, quantile=quantile)
    mean, flat = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    lower, upper = partial.interval(mean, mean, np.array([never, known, -1]), nearness=flat, distance=flat)
    np.testing.assert_array_equal(np.isnan(lower), [[True, False, True]] * 2)
    np.testing.assert_array_equal(np.isnan(upper), [[True, False, True]] * 2)


@pytest.mark.parametrize(
    ("folds", "says"),
    [
        ("patient", "on slides of other patients; 90% intervals calibrated on 3 slides"),
        ("slide", "on held-out slides; 90% intervals calibrated on 3 slides"),
        ("block", "on held-out quarters; 90% intervals calibrated on quarters of one slide: other slides are harder"),
    ],
)
def test_it_says_what_users_may_expect(calibration: Calibration, folds: str, says: str) -> None:
    median = np.nanmedian(calibration.reliability)
    summary = dataclasses.replace(calibration, folds=folds).summary()
    assert summary == f"expected reliability: median PCC {median:.2f} {says}"


def test_reliability_that_is_not_known_is_said(calibration: Calibration) -> None:
    unknown = dataclasses.replace(calibration, reliability=np.full(30, np.nan, np.float32))
    assert "median PCC unknown" in unknown.summary()
