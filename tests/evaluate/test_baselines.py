"""The baselines as methods of an evaluation, and what they do with genes that were not measured."""

from dataclasses import replace

import numpy as np
import pytest
from worlds import WORLD_GENES as GENES

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import expression_for
from mclstexp.errors import InputError, MismatchError
from mclstexp.evaluate.baselines import (
    ImageRetrieval,
    LinearProbe,
    RandomReferences,
    TrainingMean,
    TrainingSide,
    baseline_methods,
)
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.run import run_evaluation
from mclstexp.predict.baselines.probe import STRENGTHS

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
    assert [int(np.isnan(values).any(axis=0).sum()) for values in side.expression] == [0, 0, 0, 0, 1]


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


def test_one_training_slide_is_divided_into_quarters_and_four_patients_are_held_out(world):
    side = TrainingSide.of(world.slides[:1], GENES, SCALE)
    assert sorted(np.bincount(side.fold_of[0]).tolist()) == [9, 12, 12, 16]
    named = [replace(slide, patient=f"P{i}") for i, slide in enumerate(world.slides[:4])]
    twice = [*named, replace(world.slides[4], patient="P0")]
    fold_of = [int(fold[0]) for fold in TrainingSide.of(twice, GENES, SCALE).fold_of]
    assert fold_of[0] == fold_of[4]
    assert len(set(fold_of)) == 4
    probe = LinearProbe(world.read, SCALE)
    probe.fit(world.slides[:1], GENES, seed=0)
    assert probe.strength in STRENGTHS


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


def test_a_baseline_says_when_it_was_not_fitted_or_its_features_do_not_fit(world):
    with pytest.raises(MismatchError, match="before it was fitted"):
        TrainingMean(SCALE).predict(world.slides[0])
    with pytest.raises(MismatchError, match="49 spots, but features of shape"):
        LinearProbe(lambda slide: world.read(slide)[:3], SCALE).fit(world.slides[:2], GENES, seed=0)
    with pytest.raises(InputError, match="no training spots"):
        TrainingMean(SCALE).fit([], GENES, seed=0)
