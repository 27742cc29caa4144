"""The one rule: which steps are taken when, in which order, and that nothing ends below zero."""

import dataclasses
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
    """A space that adds 1 as its correction, subtracts 100 as its level, and writes down what it was asked."""

    def __init__(self, tells_level: bool = True) -> None:
        self.tells_level = tells_level
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def correct(self, expression, columns, query, keys, weights, *, strength):
        self.calls.append(("correct", {"columns": columns, "keys": keys, "weights": weights, "strength": strength}))
        return expression + strength

    def level(self, expression, columns, common, features, *, own_scale):
        self.calls.append(("level", {"common": common, "features": features, "own_scale": own_scale}))
        return expression - 100 * (np.arange(len(columns)) == 3)

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
