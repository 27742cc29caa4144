"""The baselines against loops and scikit-learn, and what they do with genes that were not measured."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from worlds import WORLD_GENES as GENES
from worlds import WORLD_SIDE

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import expression_for
from mclstexp.errors import InputError, MismatchError
from mclstexp.evaluate.baselines import (
    RIDGE_STRENGTHS,
    ImageRetrieval,
    LinearProbe,
    RandomReferences,
    Ridge,
    TrainingMean,
    TrainingSide,
    baseline_methods,
    choose_strength,
    mean_of_rows,
    spatial_blocks,
)
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.run import run_evaluation

SCALE = Normalisation()


def test_a_gene_that_a_slide_did_not_measure_is_dropped_not_zero(world):
    fewer = GENES.subset(range(1, 70))
    slides = list(world.slides)
    spots = slides[4].spots
    slides[4] = replace(slides[4], spots=replace(spots, counts=spots.counts[:, 1:], genes=fewer))
    methods = baseline_methods(world.read, SCALE, k=10)
    result = run_evaluation(slides, methods, EvaluationProtocol(genes=GENES.symbols))
    held_out = next(s for s in result.scores if s.slide_id == "C1" and s.method == "linear probe")
    assert (held_out.n_scored, held_out.n_dropped) == (69, 1)
    # C1 trains folds A and B without saying anything about G0
    other = next(s for s in result.scores if s.slide_id == "A1" and s.method == "linear probe")
    assert other.n_dropped == 0
    side = TrainingSide.of(slides, GENES, SCALE)
    mean = TrainingMean(SCALE)
    mean.fit(slides, GENES, seed=0)
    expected = expression_for(slides[0].spots, GENES, SCALE)[0][:, 0]
    for slide in slides[1:4]:
        expected = np.concatenate([expected, expression_for(slide.spots, GENES, SCALE)[0][:, 0]])
    assert mean.predict(slides[0]).mean[0, 0] == pytest.approx(expected.mean(), rel=1e-6)
    assert sorted(len(genes) for genes, _ in side.gene_groups()) == [1, 69]


def test_a_gene_that_no_training_slide_measured_is_not_predicted(world):
    slides = [
        replace(s, spots=replace(s.spots, counts=s.spots.counts[:, 1:], genes=GENES.subset(range(1, 70))))
        for s in world.slides[:4]
    ]
    for method in baseline_methods(world.read, SCALE, k=10):
        method.fit(slides, GENES, seed=0)
        mean = method.predict(world.slides[4]).mean
        assert np.isnan(mean[:, 0]).all(), method.name
        assert np.isfinite(mean[:, 1:]).all(), method.name


@pytest.mark.parametrize("shape", [(30, 6), (12, 40)])
def test_ridge_agrees_with_scikit_learn(shape):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    x, y, new = rng.normal(size=shape) + 2, rng.normal(size=(shape[0], 3)) - 1, rng.normal(size=(5, shape[1]))
    ours = Ridge(x, y)
    for strength in (0.1, 10.0, 1e4):
        theirs = linear_model.Ridge(alpha=strength).fit(x, y)
        weights, offset = ours.solve(strength)
        np.testing.assert_allclose(weights.T, theirs.coef_, atol=1e-8)
        np.testing.assert_allclose(new @ weights + offset, theirs.predict(new), atol=1e-8)
        np.testing.assert_allclose(ours.predict(ours.rotate(new), strength), theirs.predict(new), atol=1e-8)


def test_the_penalty_is_the_weakest_that_is_nearly_best(world):
    """By scikit-learn and scipy, leaving one slide out."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    side = TrainingSide.of(world.slides[:3], GENES, SCALE)
    x = np.hstack([side.features(world.read)[:, :6], np.random.default_rng(0).normal(size=(3 * WORLD_SIDE**2, 60))])
    scores = []
    for strength in RIDGE_STRENGTHS:
        parts = []
        for slide in range(3):
            out = side.slide_of == slide
            mean, sd = x[~out].mean(axis=0), x[~out].std(axis=0)
            model = linear_model.Ridge(alpha=strength).fit((x[~out] - mean) / sd, side.expression[~out].astype(float))
            predicted = model.predict((x[out] - mean) / sd)
            truth = side.expression[out].astype(float)
            parts.append(np.mean([stats.pearsonr(truth[:, g], predicted[:, g]).statistic for g in range(len(GENES))]))
        scores.append(np.mean(parts))
    expected = next(a for a, score in zip(RIDGE_STRENGTHS, scores, strict=True) if score >= 0.98 * max(scores))
    assert choose_strength(x, side) == expected
    assert expected != RIDGE_STRENGTHS[0]


def test_one_training_slide_is_divided_into_strips(world):
    blocks = spatial_blocks(world.slides[0])
    assert np.bincount(blocks).tolist() == [10, 10, 10, 10, 9]
    xy = world.slides[0].spots.xy_px
    axis = int(np.ptp(xy, axis=0).argmax())
    edges = [xy[blocks == b, axis] for b in range(5)]
    assert all(left.max() <= right.min() for left, right in itertools.pairwise(edges))
    probe = LinearProbe(world.read, SCALE)
    probe.fit(world.slides[:1], GENES, seed=0)
    assert probe.strength in RIDGE_STRENGTHS


def test_image_retrieval_agrees_with_a_loop(world):
    method = ImageRetrieval(world.read, SCALE, k=5)
    method.fit(world.slides[:3], GENES, seed=0)
    predicted = method.predict(world.slides[3]).mean
    x = np.concatenate([world.features[s.slide_id] for s in world.slides[:3]])[:, :6]  # the last one is constant
    y = np.concatenate([expression_for(s.spots, GENES, SCALE)[0] for s in world.slides[:3]])
    for i, query in enumerate(world.features["B2"][:, :6]):
        a, b = (query - x.mean(0)) / x.std(0), (x - x.mean(0)) / x.std(0)
        cosine = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
        np.testing.assert_allclose(predicted[i], y[np.argsort(-cosine)[:5]].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_random_references_repeat_with_the_seed_and_average_all_when_k_is_large(world):
    method = RandomReferences(SCALE, k=10)
    predictions = []
    for seed in (0, 0, 1):
        method.fit(world.slides[:2], GENES, seed=seed)
        predictions.append(method.predict(world.slides[2]).mean)
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert not np.allclose(predictions[0], predictions[2])
    everything, mean = RandomReferences(SCALE, k=10_000), TrainingMean(SCALE)
    for m in (everything, mean):
        m.fit(world.slides[:2], GENES, seed=0)
    np.testing.assert_allclose(everything.predict(world.slides[2]).mean, mean.predict(world.slides[2]).mean, rtol=1e-5)


def test_mean_of_rows_ignores_what_was_not_measured():
    table = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan], [5.0, 6.0, np.nan]], np.float32)
    means = mean_of_rows(table, np.array([[0, 1], [0, 0], [1, 2]]))
    np.testing.assert_allclose(means, [[2, 4, np.nan], [1, 5, np.nan], [4, 5, np.nan]])


def test_a_baseline_says_when_it_was_not_fitted_or_its_features_do_not_fit(world):
    with pytest.raises(MismatchError, match="before it was fitted"):
        TrainingMean(SCALE).predict(world.slides[0])
    with pytest.raises(MismatchError, match="49 spots, but features of shape"):
        LinearProbe(lambda slide: world.read(slide)[:3], SCALE).fit(world.slides[:2], GENES, seed=0)
    with pytest.raises(InputError, match="no training spots"):
        TrainingMean(SCALE).fit([], GENES, seed=0)
