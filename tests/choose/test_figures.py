"""Three figures and their score, against numpy by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mclstexp.choose.figures import Figures, figures, noise

RNG = np.random.default_rng(5)
TRUTH = [RNG.normal(size=(n, 6)).astype(np.float32) for n in (9, 14)]
SAID = [t + RNG.normal(size=t.shape).astype(np.float32) for t in TRUTH]
PLAIN = [2.0, 1.0]


def pcc_by_hand(truth: np.ndarray, said: np.ndarray) -> float:
    """Return the mean over the columns of numpy's correlation."""
    return float(np.mean([np.corrcoef(truth[:, g], said[:, g])[0, 1] for g in range(truth.shape[1])]))


def test_figures_and_score_are_what_numpy_says() -> None:
    found = figures(TRUTH, SAID, PLAIN, n_effective=7.0)
    within = [pcc_by_hand(t, p) for t, p in zip(TRUTH, SAID, strict=True)]
    mse = [float(((t - p) ** 2).mean()) for t, p in zip(TRUTH, SAID, strict=True)]
    pooled = pcc_by_hand(np.vstack(TRUTH), np.vstack(SAID))
    assert found.pcc == pytest.approx(np.mean(within), abs=1e-5)
    assert found.pooled == pytest.approx(pooled, abs=1e-5)
    assert found.mse == pytest.approx(np.mean(mse), rel=1e-5)
    explained = 1 - np.mean(mse) / np.mean(PLAIN)
    assert found.score == pytest.approx((np.mean(within) + pooled + explained) / 3, abs=1e-5)
    by_slide = [(w + 1 - e / b) / 2 for w, e, b in zip(within, mse, PLAIN, strict=True)]
    np.testing.assert_allclose(found.by_slide, by_slide, atol=1e-5)
    assert found.record() == {
        "pcc": round(found.pcc, 4),
        "pcc_pooled": round(found.pooled, 4),
        "mse": round(found.mse, 4),
        "score": round(found.score, 4),
        "n_effective": 7.0,
    }
    assert "n_effective" not in figures(TRUTH, SAID, PLAIN).record()


def test_the_truth_itself_scores_one_and_one_value_for_all_scores_nothing() -> None:
    assert figures(TRUTH, TRUTH, PLAIN).score == pytest.approx(1)
    flat = [np.ones_like(t) for t in TRUTH]
    error = [float(((t - 1) ** 2).mean()) for t in TRUTH]
    found = figures(TRUTH, flat, error)
    assert (found.pcc, found.pooled) == (0, 0)
    assert found.score == pytest.approx(0, abs=1e-6)


def test_a_gene_that_was_not_measured_is_ignored() -> None:
    kept = figures([t[:, 1:] for t in TRUTH], [p[:, 1:] for p in SAID], PLAIN)
    nobody = [np.hstack([np.full((len(t), 1), np.nan, np.float32), t[:, 1:]]) for t in TRUTH]
    found = figures(nobody, SAID, PLAIN)
    assert found.record() == kept.record()
    unsaid = [np.hstack([np.full((len(p), 1), np.nan, np.float32), p[:, 1:]]) for p in SAID]
    assert figures(TRUTH, unsaid, PLAIN).record() == kept.record()


def test_a_gene_that_one_slide_measured_counts_within_it_and_not_over_both() -> None:
    truth = [TRUTH[0], TRUTH[1].copy()]
    truth[1][:, 0] = np.nan
    found = figures(truth, SAID, PLAIN)
    within = [pcc_by_hand(TRUTH[0], SAID[0]), pcc_by_hand(TRUTH[1][:, 1:], SAID[1][:, 1:])]
    assert found.pcc == pytest.approx(np.mean(within), abs=1e-5)
    assert found.pooled == pytest.approx(pcc_by_hand(np.vstack(TRUTH)[:, 1:], np.vstack(SAID)[:, 1:]), abs=1e-5)


def of_slides(values: list[float]) -> Figures:
    """Return figures of which only the slides' own matter."""
    return Figures(0.0, 0.0, 0.0, 0.0, np.array(values))


PAIRS = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=8)


@given(PAIRS)
def test_noise_is_the_standard_error_of_the_paired_difference(pairs: list[tuple[float, float]]) -> None:
    one, other = (of_slides([pair[side] for pair in pairs]) for side in (0, 1))
    difference = np.array([a - b for a, b in pairs])
    by_hand = np.sqrt(((difference - difference.mean()) ** 2).sum() / (len(pairs) - 1) / len(pairs))
    assert noise(one, other) == pytest.approx(by_hand, abs=1e-12)
    assert noise(one, other) == noise(other, one)
    shifted = of_slides([a + 0.25 for a, _ in pairs])
    assert noise(one, shifted) == pytest.approx(0, abs=1e-12), "slides that all gain alike leave no doubt"


def test_noise_of_one_slide_is_unknown() -> None:
    assert noise(of_slides([0.3]), of_slides([0.9])) == float("inf")
