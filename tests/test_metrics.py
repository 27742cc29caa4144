"""Measures against loops, other libraries and cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from mclstexp import metrics
from mclstexp.errors import MismatchError

RNG = np.random.default_rng(0)


def test_pearson_agrees_with_scipy():
    x, y = RNG.normal(size=(40, 7)), RNG.normal(size=(40, 7)) + 3
    expected = [stats.pearsonr(x[:, g], y[:, g]).statistic for g in range(7)]
    np.testing.assert_allclose(metrics.pearson_by_gene(x, y), expected, rtol=0, atol=1e-12)


def test_pearson_agrees_with_scipy_in_float32():
    x = RNG.poisson(2, size=(60, 5)).astype(np.float32)
    y = (x + RNG.normal(size=x.shape)).astype(np.float32)
    expected = [stats.pearsonr(x[:, g].astype(float), y[:, g].astype(float)).statistic for g in range(5)]
    np.testing.assert_allclose(metrics.pearson_by_gene(x, y), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, (9, 3), elements=st.floats(-50, 50, width=32)),
    hnp.arrays(np.float64, (9, 3), elements=st.floats(-50, 50, width=32)),
    st.floats(0.1, 10),
    st.floats(-5, 5),
)
def test_pearson_is_symmetric_bounded_and_blind_to_scale(x, y, scale, shift):
    r = metrics.pearson_by_gene(x, y)
    np.testing.assert_allclose(r, metrics.pearson_by_gene(y, x), equal_nan=True)
    assert np.nanmax(np.abs(r), initial=0.0) <= 1
    moved = metrics.pearson_by_gene(x, y * scale + shift)
    both = ~np.isnan(r) & ~np.isnan(moved)
    np.testing.assert_allclose(r[both], moved[both], atol=1e-5)


def test_constant_truth_is_dropped_and_constant_prediction_counts_as_nothing():
    truth = np.array([[1.0, 5, 0, np.nan], [2, 5, 1, np.nan], [3, 5, 0, np.nan]])
    predicted = np.array([[2.0, 1, 7, 1], [4, 2, 7, 2], [6, 3, 7, 3]])
    scores = metrics.score_genes(truth, predicted)
    np.testing.assert_allclose(scores.pcc, [1, np.nan, 0, np.nan])
    assert (scores.n_dropped, scores.n_constant) == (2, 1)
    assert scores.pcc_nan_dropped == pytest.approx(1.0)


def test_float32_rounding_does_not_pass_for_variation():
    mean = np.float32(1.2345678)
    column = np.array([mean, np.nextafter(mean, np.float32(2)), mean, mean], dtype=np.float32)[:, None]
    assert metrics.is_constant(column).all()
    assert not metrics.is_constant(column * np.array([[1], [1.001], [1], [1]])).any()


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_spots_have_no_correlation(n):
    assert np.isnan(metrics.pearson_by_gene(np.ones((n, 2)), np.ones((n, 2)))).all()


def test_highest_keeps_order_and_leaves_nan_out():
    assert metrics.highest([0.1, np.nan, 0.5, 0.5, -1], 3).tolist() == [2, 3, 0]
    assert metrics.highest([np.nan, np.nan], 3).tolist() == []


def test_errors_by_hand():
    truth, predicted = [[0.0, 2.0], [4.0, np.nan]], [[1.0, 2.0], [1.0, 9.0]]
    assert metrics.squared_error(truth, predicted) == pytest.approx((1 + 0 + 9) / 3)
    assert metrics.absolute_error(truth, predicted) == pytest.approx(4 / 3)
    assert metrics.squared_error([[np.nan]], [[1.0]]) is None


def test_rvd_by_hand():
    truth = np.array([[0.0, 0, 3], [2, 4, 3]])  # variances 1, 4, 0
    predicted = np.array([[0.0, 1, 0], [4, 1, 1]])  # variances 4, 0, and a gene that is dropped
    assert metrics.relative_variation_distance(truth, predicted) == pytest.approx((9 + 1) / 2)
    assert metrics.relative_variation_distance(truth, truth) == 0
    assert metrics.relative_variation_distance(np.ones((3, 1)), np.ones((3, 1))) is None


def _ssim_at(x, y, row, col, i):
    """SSIM of one gene around one spot, from the definition."""
    near = (np.abs(row - row[i]) <= 5) & (np.abs(col - col[i]) <= 5)
    w = np.exp(-((row - row[i]) ** 2 + (col - col[i]) ** 2) / (2 * 1.5**2)) * near
    w = w / w.sum()
    span = x.max() - x.min()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mx, my = w @ x, w @ y
    vx, vy, cov = w @ x**2 - mx**2, w @ y**2 - my**2, w @ (x * y) - mx * my
    return (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def test_ssim_agrees_with_its_definition_on_a_ragged_tissue():
    row, col = np.array([(r, c) for r in range(8) for c in range(11) if RNG.random() < 0.6]).T
    x, y = RNG.random((len(row), 3)), RNG.random((len(row), 3))
    similarity = metrics.ssim_by_gene(x, y, row + 5, col - 2)
    np.testing.assert_allclose(
        similarity,
        [np.mean([_ssim_at(x[:, g], y[:, g], row, col, i) for i in range(len(row))]) for g in range(3)],
        atol=1e-10,
    )
    np.testing.assert_allclose(metrics.ssim_by_gene(x, x, row, col), 1)


def test_the_ssim_oracle_agrees_with_scikit_image_inside_a_full_grid():
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    row, col = np.indices((16, 16)).reshape(2, -1)
    x, y = RNG.random(256), RNG.random(256)
    _, picture = similarity(
        x.reshape(16, 16),
        y.reshape(16, 16),
        data_range=x.max() - x.min(),
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    interior = np.zeros((16, 16), dtype=bool)
    interior[5:-5, 5:-5] = True
    ours = [_ssim_at(x, y, row, col, i) for i in np.flatnonzero(interior)]
    np.testing.assert_allclose(ours, picture[interior], atol=1e-10)


def test_ssim_is_undefined_where_two_spots_share_a_cell_and_for_flat_genes():
    x = np.array([[0.0, 1], [1, 1], [2, 1]])
    assert metrics.ssim_by_gene(x, x, [0, 0, 1], [0, 0, 1]) is None
    assert np.isnan(metrics.ssim_by_gene(x, x, [0, 0, 1], [0, 1, 1])[1])


def agreement(expression, labels):
    """ARI and NMI of the clusters of an expression with labels; None where there is nothing to compare."""
    clusters = metrics.domain_clusters(expression, labels)
    return None if clusters is None else metrics.cluster_agreement(clusters, labels)


def test_domains_are_found_again_and_unlabelled_spots_take_no_part():
    labels = np.repeat(["tumour", "fat", "", "stroma"], 20)
    centres = {"tumour": 0, "fat": 5, "stroma": 10, "": 100}
    expression = np.array([[centres[name]] * 4 for name in labels]) + RNG.normal(size=(80, 4)) * 0.1
    assert agreement(expression, labels) == pytest.approx((1.0, 1.0))
    shuffled = agreement(expression[RNG.permutation(80)], labels)
    assert abs(shuffled[0]) < 0.2
    assert agreement(np.ones((80, 4)), labels) == (0.0, 0.0)
    assert agreement(expression, np.repeat(["", "one"], 40)) is None


def test_clusters_depend_on_the_seed_alone():
    x = RNG.normal(size=(50, 6))
    first = metrics.cluster_spots(x, 4, seed=3)
    assert (first == metrics.cluster_spots(x, 4, seed=3)).all()
    assert len(set(first.tolist())) == 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 10_000))
def test_pooled_correlation_is_that_of_the_concatenation(sizes, seed):
    rng = np.random.default_rng(seed)
    pool = metrics.PooledCorrelation()
    parts = [(rng.normal(size=(n, 2)) + rng.normal(), rng.normal(size=(n, 2)) + 5) for n in sizes]
    for x, y in parts:
        pool.add(("A", "B"), x, y)
    symbols, r, mean = pool.by_gene()
    x, y = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    expected = metrics.score_genes(x, y).pcc
    assert symbols == ("A", "B")
    np.testing.assert_allclose(r, expected, atol=1e-9)
    np.testing.assert_allclose(mean, x.mean(axis=0))


def test_pooled_keeps_only_genes_of_every_slide():
    pool = metrics.PooledCorrelation()
    pool.add(("A", "B"), [[0.0, 1], [1, 2]], [[0.0, 3], [1, 3]])
    pool.add(("B", "A"), [[1.0, np.nan], [2, np.nan]], [[3.0, 1], [3, 2]])
    symbols, r, _ = pool.by_gene()
    assert symbols == ("B",)
    assert r.tolist() == [0.0]  # the prediction of B never varies
    assert metrics.PooledCorrelation().by_gene()[0] == ()


def test_moments_merge_in_any_order_and_tell_rounding_from_variation():
    a = metrics.GeneMoments(n=2, mean_x=1, mean_y=0, xx=2, yy=8, xy=4, top_x=2, top_y=2)
    b = metrics.GeneMoments(n=1, mean_x=4, mean_y=3, xx=0, yy=0, xy=0, top_x=4, top_y=3)
    both = a.merged(b)
    # spots (0, -2), (2, 2) and (4, 3)
    assert both == b.merged(a) == metrics.GeneMoments(3, 2, 1, 8, 14, 10, 4, 3, n_slides=2)
    assert both.correlation == pytest.approx(stats.pearsonr([0, 2, 4], [-2, 2, 3]).statistic)
    assert np.isnan(b.correlation)
    rounding = metrics.GeneMoments(n=100, mean_x=1, mean_y=1e4, xx=9, yy=1e-5, xy=0.005, top_x=2, top_y=1e4)
    assert rounding.correlation == 0


def test_shapes_must_agree():
    with pytest.raises(MismatchError, match=r"\(2, 2\).*\(2, 3\)"):
        metrics.squared_error(np.ones((2, 2)), np.ones((2, 3)))
