"""The one rule: which steps are taken when, in which order, and that nothing ends below zero."""

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
from worlds import memory_reference, unit

from mclstexp.config import ModelConfig, Normalisation, RetrievalConfig
from mclstexp.predict import predictor as module
from mclstexp.predict.predictor import Predicted, Predictor, Query

REFERENCE = memory_reference((40, 20, 30))
PANEL = REFERENCE.panel
CONFIG = ModelConfig(normalisation=REFERENCE.rule, retrieval=RetrievalConfig(k=10, temperature=0.2))


class Recorder:
    """Adds 1 as correction, 10 as blend, takes 100 of gene 3 as level, and writes down what it was asked."""

    def __init__(self, tells_level: bool = True) -> None:
        self.tells_level = tells_level
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def correct(self, expression, columns, query, keys, weights, *, strength):
        self.calls.append(("correct", {"columns": columns, "keys": keys, "weights": weights, "strength": strength}))
        return expression + strength

    def level(self, expression, columns, common, features, *, own_scale):
        self.calls.append(("level", {"common": common, "features": features, "own_scale": own_scale}))
        return expression - 100 * (np.arange(len(columns)) == 3), np.full(len(columns), 0.5, np.float32)

    def blend(self, expression, columns, features, *, share):
        if not share:
            return expression
        self.calls.append(("blend", {"columns": columns, "features": features, "share": share}))
        return expression + 10 * share

    @property
    def steps(self) -> list[str]:
        return [name for name, _ in self.calls]


def predict(space: Recorder, config: ModelConfig = CONFIG, **changes: Any) -> Predicted:
    asked = Query(unit((6, 8), 9), np.ones((6, 4), np.float32), PANEL, REFERENCE.rule, config.retrieval)
    return Predictor(space, config, PANEL).predict(REFERENCE, dataclasses.replace(asked, **changes))  # type: ignore[arg-type]


def levelled(**changes: Any) -> ModelConfig:
    return dataclasses.replace(CONFIG, retrieval=dataclasses.replace(CONFIG.retrieval, slide_levelled=True), **changes)


def test_correction_then_level_then_nothing_below_zero() -> None:
    space = Recorder()
    predicted = predict(space, levelled(correction=0.7))
    assert space.steps == ["correct", "level"]
    assert (predicted.adjusted, predicted.level) == (True, "image")
    assert (predicted.mean[:, 3] == 0).all()
    assert (predicted.retrieved[:, 3] > 0).all()
    _, correct = space.calls[0]
    assert correct["strength"] == 0.7
    np.testing.assert_array_equal(correct["columns"], np.arange(20))
    np.testing.assert_array_equal(correct["keys"], REFERENCE.keys(predicted.neighbours.ids))
    np.testing.assert_array_equal(correct["weights"], predicted.weights)
    assert space.calls[1][1]["own_scale"]


def test_a_blend_comes_last_and_counts_as_correction() -> None:
    space = Recorder()
    predicted = predict(space, levelled(correction=0.7, blend=0.2))
    assert space.steps == ["correct", "level", "blend"]
    assert space.calls[2][1]["share"] == 0.2
    assert (predicted.mean[:, 3] == 0).all()
    plain = predict(Recorder(), levelled(correction=0.7))
    np.testing.assert_allclose(np.delete(predicted.mean - plain.mean, 3, axis=1), 2, atol=1e-4)
    assert (predicted.shares[:, 1] > plain.shares[:, 1]).all()


@pytest.mark.parametrize(
    "changes",
    [{"levelled": False}, {"rule": Normalisation(target_sum=1e6)}],
    ids=["some spots only", "another scale"],
)
def test_a_blend_is_for_whole_slides_on_the_model_s_own_scale(changes: dict[str, Any]) -> None:
    space = Recorder()
    config = levelled(blend=0.5)
    if "rule" in changes:
        config, changes = dataclasses.replace(config, normalisation=changes["rule"]), {}
    predict(space, config, **changes)
    assert "blend" not in space.steps


class TestShares:
    def test_they_sum_to_one_and_say_what_was_done(self) -> None:
        for config in (CONFIG, levelled(), levelled(correction=0.0), levelled(blend=0.5)):
            shares = predict(Recorder(), config).shares
            assert shares.shape == (6, 3)
            np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
            assert (shares >= 0).all()
        np.testing.assert_array_equal(predict(Recorder(), levelled(correction=0.0)).shares[:, 1], 0)
        np.testing.assert_array_equal(predict(Recorder()).shares[:, 2], 0)
        plain = predict(Recorder(tells_level=False)).shares
        np.testing.assert_array_equal(plain, [[1, 0, 0]] * 6)

    def test_each_is_the_size_of_its_step(self) -> None:
        predicted = predict(Recorder())
        own = np.abs(predicted.retrieved - predicted.retrieved.mean(axis=0)).sum(axis=1)
        np.testing.assert_allclose(predicted.shares[:, 1], 20 / (20 + own), rtol=1e-4)

    def test_a_gene_that_nobody_measured_counts_for_none(self) -> None:
        """In `memory_reference` the second slide lacks five genes."""
        allowed = REFERENCE.owner == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for config in (CONFIG, levelled()):
                predicted = predict(Recorder(), config, allowed=allowed)
                assert np.isnan(predicted.mean[:, :5]).all()
                np.testing.assert_allclose(predicted.shares.sum(axis=1), 1, atol=1e-5)


def test_the_level_s_uncertainty_joins_the_spread() -> None:
    predicted = predict(Recorder(), levelled())
    np.testing.assert_array_equal(predicted.level_sd, 0.5)
    np.testing.assert_allclose(predicted.spread, np.sqrt(predicted.sd**2 + 0.25), rtol=1e-5)
    np.testing.assert_array_equal(predict(Recorder()).spread, predict(Recorder()).sd)


def test_correction_alone_adds_to_the_plain_mean() -> None:
    space = Recorder()
    predicted = predict(space)
    assert space.steps == ["correct"]
    np.testing.assert_array_equal(predicted.mean, predicted.retrieved + 1)
    assert (predicted.adjusted, predicted.level) == (True, "neighbours")


@pytest.mark.parametrize(
    ("space", "config"),
    [(Recorder(), dataclasses.replace(CONFIG, correction=0.0)), (Recorder(tells_level=False), CONFIG)],
    ids=["no strength", "no such space"],
)
def test_where_nothing_is_asked_for_the_plain_mean_stays(space: Recorder, config: ModelConfig) -> None:
    predicted = predict(space, config)
    assert space.steps == []
    assert (predicted.adjusted, predicted.level) == (False, "neighbours")
    assert predicted.mean is predicted.retrieved


def test_on_another_scale_nothing_is_corrected_and_the_level_is_the_reference_s() -> None:
    space = Recorder()
    predicted = predict(space, levelled(normalisation=Normalisation(target_sum=1e6)))
    assert space.steps == ["level"]
    assert not space.calls[0][1]["own_scale"]
    assert predicted.level == "reference"


def test_whoever_asks_for_some_spots_only_keeps_their_level() -> None:
    space = Recorder()
    predicted = predict(space, levelled(), levelled=False)
    assert space.steps == ["correct"]
    assert predicted.level == "neighbours"
    assert np.abs(predicted.mean - predicted.retrieved - 1).max() > 0.01, "the shift between slides is taken out still"


def test_only_allowed_spots_are_neighbours() -> None:
    allowed = np.random.default_rng(0).random(REFERENCE.n_spots) < 0.5
    predicted = predict(Recorder(), allowed=allowed)
    assert allowed[predicted.neighbours.ids].all()


def test_correcting_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict(Recorder())
    monkeypatch.setattr(module, "KEYS_AT_A_TIME", 20)
    space = Recorder()
    parts = predict(space)
    assert space.steps == ["correct"] * 3
    np.testing.assert_array_equal(parts.mean, whole.mean)


def test_k_is_never_more_than_there_are() -> None:
    config = dataclasses.replace(CONFIG, retrieval=RetrievalConfig(k=500))
    predicted = predict(Recorder(), config)
    assert predicted.neighbours.ids.shape == (6, 90)
    np.testing.assert_allclose(predicted.weights.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(predicted.n_effective, 1 / (predicted.weights.astype(float) ** 2).sum(axis=1), rtol=1e-5)
