"""The baselines on plain arrays against loops and scikit-learn, on strange slides, and left out fold by fold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mclstexp.errors import InputError, MismatchError
from mclstexp.predict.baselines import features as features_module
from mclstexp.predict.baselines.features import FeatureBasis, even_rows
from mclstexp.predict.baselines.mean import MeanExpression, column_means, mean_of_rows
from mclstexp.predict.baselines.neighbours import FeatureNeighbours, highest_in_rows
from mclstexp.predict.baselines.probe import STRENGTHS, RidgeProbe, gene_patterns
from mclstexp.predict.baselines.ridge import Ridge, Sums

N_GENES, WIDTH = 12, 40


def stained(seed, *, n=60, stain=0.0, noise=1.0):
    """Return features ``(n, 40)`` and expression ``(n, 12)``; a stain moves all features and says nothing of genes."""
    world = np.random.default_rng(7)
    to_image, to_genes, of_stain = (
        world.normal(size=(3, WIDTH)),
        world.normal(size=(3, N_GENES)),
        world.normal(size=WIDTH),
    )
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 3))
    features = hidden @ to_image + noise * rng.normal(size=(n, WIDTH)) + stain * of_stain * rng.normal()
    expression = 4 + hidden @ to_genes + rng.normal(size=(n, N_GENES))
    return features.astype(np.float32), expression.astype(np.float32)


def cohort(n, **options):
    pairs = [stained(seed, **options) for seed in range(n)]
    return [x for x, _ in pairs], [y for _, y in pairs], [np.full(len(x), i) for i, (x, _) in enumerate(pairs)]


@pytest.mark.parametrize("shape", [(30, 6), (12, 40)])
def test_ridge_agrees_with_scikit_learn(shape):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    x, y, new = rng.normal(size=shape) + 2, rng.normal(size=(shape[0], 3)) - 1, rng.normal(size=(5, shape[1]))
    first, second = Sums.of(x[:7], y[:7]), Sums.of(x[7:], y[7:])
    ours = Ridge(first.plus(second))
    for strength in (0.01, 1.0, 1e3):
        theirs = linear_model.Ridge(alpha=strength * ours.unit).fit(x, y)
        weights, offset = first.plus(second).solve(strength)
        np.testing.assert_allclose(weights.T, theirs.coef_, atol=1e-7)
        np.testing.assert_allclose(new @ weights + offset, theirs.predict(new), atol=1e-7)
        predicted = ours.deviation(ours.rotate(new), strength) + ours.mean_y
        np.testing.assert_allclose(predicted, theirs.predict(new), atol=1e-7)
    np.testing.assert_allclose(first.plus(second).minus(second).xx, first.xx, atol=1e-9)


def test_penalty_and_slope_are_those_of_a_search_by_hand():
    """By scikit-learn and scipy, leaving one slide out."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, expression, fold_of = cohort(3, noise=4.0)
    probe = RidgeProbe().fit(features, expression, fold_of)
    x, y, slide = (
        np.concatenate(features).astype(float),
        np.concatenate(expression).astype(float),
        np.repeat(range(3), 60),
    )
    centred = x - np.stack([f.mean(axis=0) for f in features]).astype(float)[slide]
    x = (x - x.mean(axis=0)) / centred.std(axis=0)
    scores, slopes = [], []
    for strength in STRENGTHS:
        pcc, apart, told = [], [], []
        for i in range(3):
            rest, out = slide != i, slide == i
            unit = ((x[rest] - x[rest].mean(axis=0)) ** 2).sum() / rest.sum()
            model = linear_model.Ridge(alpha=strength * unit).fit(x[rest], y[rest])
            predicted = model.predict(x[out])
            pcc.append(np.mean([stats.pearsonr(y[out][:, g], predicted[:, g]).statistic for g in range(N_GENES)]))
            apart.append(y[out] - y[rest].mean(axis=0))
            told.append(predicted - y[rest].mean(axis=0))
        apart, told = np.concatenate(apart), np.concatenate(told)
        slopes.append((apart * told).sum() / (told**2).sum())
        scores.append(np.mean(pcc) + 1 - ((apart - slopes[-1] * told) ** 2).sum() / (apart**2).sum())
    best = int(np.argmax(scores))
    assert probe.strength == STRENGTHS[best]
    assert probe.slope == pytest.approx(slopes[best], rel=1e-4)
    assert 0 < best < len(STRENGTHS) - 1


def test_strange_slides_do_not_throw_the_probe_off():
    """The penalty that correlation alone chose here (31.6) is 10 times worse than the mean on another stain."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, expression, fold_of = cohort(6, stain=0.3, noise=0.5)
    x, y = np.concatenate(features).astype(float), np.concatenate(expression).astype(float)
    mean, sd = x.mean(axis=0), x.std(axis=0)
    by_correlation = linear_model.Ridge(alpha=31.6).fit((x - mean) / sd, y)
    probe = RidgeProbe().fit(features, expression, fold_of)
    for seed in (100, 102, 103):
        strange, truth = stained(seed, stain=20.0, noise=0.5)
        of_mean = ((truth - y.mean(axis=0)) ** 2).mean()
        assert ((by_correlation.predict((strange - mean) / sd) - truth) ** 2).mean() > 10 * of_mean
        predicted = probe.predict(strange)
        assert ((predicted - truth) ** 2).mean() < 6 * of_mean
        left_out = np.concatenate(probe.cross_predict(features, fold_of))
        room = 0.11 * np.ptp(left_out, axis=0)
        assert (predicted >= left_out.min(axis=0) - room).all()
        assert (predicted <= left_out.max(axis=0) + room).all()


def test_features_that_say_nothing_give_the_mean():
    rng = np.random.default_rng(0)
    features, expression, fold_of = cohort(4)
    noise = [rng.normal(size=x.shape).astype(np.float32) for x in features]
    probe = RidgeProbe().fit(noise, expression, fold_of)
    mean = MeanExpression().fit(noise, expression, fold_of)
    new, truth = rng.normal(size=(60, WIDTH)).astype(np.float32), stained(9)[1]
    error, of_mean = (((fit.predict(new) - truth) ** 2).mean() for fit in (probe, mean))
    assert error == pytest.approx(of_mean, rel=0.02)
    blank = [np.zeros_like(x) for x in features]
    np.testing.assert_allclose(RidgeProbe().fit(blank, expression, fold_of).predict(new), mean.predict(new), rtol=1e-5)


@pytest.mark.parametrize("kind", [RidgeProbe, FeatureNeighbours, MeanExpression])
def test_what_is_left_out_is_predicted_without_it(kind):
    features, expression, fold_of = cohort(3)
    fold_of[2] = np.repeat([1, 2], 30)
    left_out = kind().fit(features, expression, fold_of).cross_predict(features, fold_of)
    changed = [*expression[:2], expression[2] + np.where(fold_of[2] == 2, 5, 0)[:, None].astype(np.float32)]
    again = kind().fit(features, changed, fold_of)
    if kind is RidgeProbe:  # another penalty may be chosen
        assert again.strength is not None
    else:
        part = again.cross_predict(features, fold_of)[2][fold_of[2] == 2]
        np.testing.assert_allclose(part, left_out[2][fold_of[2] == 2], rtol=1e-5)
    rows = [np.arange(0, 60, 7)] * 3
    some = kind().fit(features, expression, fold_of).cross_predict(features, fold_of, rows)
    for whole, part in zip(left_out, some, strict=True):
        np.testing.assert_allclose(whole[rows[0]], part, rtol=1e-5)


def test_the_probe_left_out_is_the_fit_to_the_rest():
    features, expression, fold_of = cohort(3)
    probe = RidgeProbe().fit(features, expression, fold_of)
    predicted = probe.cross_predict(features, fold_of)[0]
    x = np.concatenate(features).astype(float)
    within = np.concatenate([f - f.mean(axis=0) for f in features]).std(axis=0)
    x = (x - x.mean(axis=0)) / within
    weights, offset = Sums.of(x[60:], np.concatenate(expression[1:])).solve(probe.strength, probe.slope)
    np.testing.assert_allclose(predicted, x[:60] @ weights + offset, atol=2e-3)


def test_genes_are_learnt_from_the_slides_that_measured_them():
    features, expression, fold_of = cohort(4)
    expression[3][:, 0] = np.nan
    for values in expression:
        values[:, 1] = np.nan
    patterns = gene_patterns(expression)
    assert sorted((len(p.genes), p.slides.tolist()) for p in patterns) == [
        (1, [True, True, True, False]),
        (N_GENES - 2, [True] * 4),
    ]
    for method in (RidgeProbe(), FeatureNeighbours(20), MeanExpression()):
        predicted = method.fit(features, expression, fold_of).predict(features[0])
        assert np.isnan(predicted[:, 1]).all()
        assert np.isfinite(np.delete(predicted, 1, axis=1)).all()
    alone = RidgeProbe().fit(features[:3], [y[:, :1] for y in expression[:3]], fold_of[:3])
    assert np.isfinite(alone.predict(features[0])).all()


def test_long_features_lose_nothing_while_spots_are_few(monkeypatch):
    pairs = [stained(seed, n=10) for seed in range(3)]
    features, expression = zip(*pairs, strict=True)
    fold_of = [np.full(10, i) for i in range(3)]
    plain = RidgeProbe().fit(features, expression, fold_of)
    monkeypatch.setattr(features_module, "MAX_DIRECTIONS", 35)
    projected = RidgeProbe().fit(features, expression, fold_of)
    assert projected.strength == plain.strength
    new = stained(50)[0]
    np.testing.assert_allclose(projected.predict(new), plain.predict(new), atol=1e-3)
    first, second = (FeatureNeighbours(5).fit(features, expression, fold_of) for _ in range(2))
    np.testing.assert_array_equal(first.predict(new), second.predict(new))


def test_directions_are_orthonormal_and_bounded(monkeypatch):
    monkeypatch.setattr(features_module, "MAX_DIRECTIONS", 8)
    monkeypatch.setattr(features_module, "MAX_LANDMARKS", 30)
    features = cohort(3)[0]
    directions = FeatureBasis.of(features).directions
    assert directions.shape == (WIDTH, 8)
    np.testing.assert_allclose(directions.T @ directions, np.eye(8), atol=1e-4)


def test_weights_bring_columns_to_their_variance():
    features, weights = cohort(3)[0], np.linspace(0.1, 2, WIDTH)
    basis = FeatureBasis.of(features, weights=weights)
    np.testing.assert_allclose(np.concatenate([basis(x) for x in features]).var(axis=0), weights, rtol=1e-4)
    within = FeatureBasis.of(features, within_slides=True)
    centred = np.concatenate([within(x) - within(x).mean(axis=0) for x in features])
    np.testing.assert_allclose(centred.var(axis=0), 1, rtol=1e-4)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_the_highest_are_those_of_a_stable_sort(n, k, levels):
    values = np.random.default_rng(n * 31 + k).integers(0, levels + 1, size=(4, n)).astype(np.float32)
    expected = np.sort(np.argsort(-values, axis=1, kind="stable")[:, :k], axis=1)
    np.testing.assert_array_equal(highest_in_rows(values, min(k, n)), expected)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=5), st.integers(1, 100))
def test_every_slide_gives_the_same_share_of_rows(sizes, wanted):
    rows = even_rows(sizes, wanted, 0)
    for size, some in zip(sizes, rows, strict=True):
        assert len(some) == np.ceil(size * min(1.0, wanted / max(sum(sizes), 1)))
        assert (np.diff(some) > 0).all()
        assert not len(some) or some[-1] < size


def test_mean_of_rows_ignores_what_was_not_measured():
    table = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan], [5.0, 6.0, np.nan]], np.float32)
    means = mean_of_rows(table, np.array([[0, 1], [0, 0], [1, 2]]))
    np.testing.assert_allclose(means, [[2, 4, np.nan], [1, 5, np.nan], [4, 5, np.nan]])
    np.testing.assert_allclose(column_means(table), [3, 5, np.nan])


def test_what_does_not_fit_is_refused():
    features, expression, fold_of = cohort(2)
    with pytest.raises(InputError, match="no training spots"):
        RidgeProbe().fit([x[:0] for x in features], [y[:0] for y in expression], [f[:0] for f in fold_of])
    with pytest.raises(MismatchError, match="39 columns in one slide and 40"):
        RidgeProbe().fit([features[0][:, :39], features[1]], expression, fold_of)
    for method in (RidgeProbe(), FeatureNeighbours(), MeanExpression()):
        with pytest.raises(MismatchError, match="before it was fitted"):
            method.predict(features[0])
    with pytest.raises(MismatchError, match="3 columns, but training had 40"):
        RidgeProbe().fit(features, expression, fold_of).predict(features[0][:, :3])
