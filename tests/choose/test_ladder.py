"""What is tried, and which candidate is taken of scores that are made up."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from choosing import CHOOSING, only_of
from hypothesis import given
from hypothesis import strategies as st

from mclstexp.choose.figures import Figures
from mclstexp.choose.ladder import COMPONENTS, LEAST_MIX, MAX_LOSS, Step, applied, climb, described, steps, views
from mclstexp.config import ModelConfig, changed, configure, recipe

DEFAULT = recipe("default")
NAMES = ["shared.components", "retrieval.k", "correction", "key_mix", "shared.shrink_spots"]


def figure(score: float, n_effective: float | None = None, slides: tuple[float, ...] = (0.5, 0.5)) -> Figures:
    """Return made-up figures."""
    return Figures(0.0, 0.0, 0.0, score, np.array(slides), n_effective)


def of_k(told: dict[int, Figures]) -> tuple[Step, Callable[[ModelConfig], Figures]]:
    """Return a step of numbers of neighbours, and what scores each as told."""
    step = Step("retrieval.k", tuple((("retrieval.k", k),) for k in told), local=True)
    return step, lambda config: told[config.retrieval.k]


UNSURE = ((0.1, 0.9), (0.9, 0.1))
"""Slides that one candidate gains on and the other loses on: a large noise."""


@pytest.mark.parametrize(
    ("loss", "slides", "wanted"),
    [
        (0.9 * MAX_LOSS, UNSURE, 0),  # within noise, and a small loss
        (1.1 * MAX_LOSS, UNSURE, 1),  # within noise, but too large a loss
        (0.9 * MAX_LOSS, ((0.5, 0.6), (0.51, 0.61)), 1),  # small, but on every slide alike
        (0.9 * MAX_LOSS, ((0.5,), (0.9,)), 0),  # one slide: no noise is known, the bound alone decides
    ],
)
def test_fewer_effective_neighbours_are_preferred_within_noise_and_bound(
    loss: float, slides: tuple[tuple[float, ...], tuple[float, ...]], wanted: int
) -> None:
    few, best = figure(0.6 - loss, 10, slides[0]), figure(0.6, 80, slides[1])
    step, score = of_k({50: few, 200: best})
    assert climb(step, DEFAULT, score)[0] == wanted
    step, score = of_k({200: best, 50: few})
    assert climb(step, DEFAULT, score)[0] == 1 - wanted, "wherever they stand"
    assert climb(dataclasses.replace(step, local=False), DEFAULT, score)[0] == 0, "the best where nothing is preferred"


def test_more_effective_neighbours_are_never_preferred() -> None:
    step, score = of_k({50: figure(0.6, 10, UNSURE[0]), 200: figure(0.5999, 80, UNSURE[1])})
    place, tried = climb(step, DEFAULT, score)
    assert place == 0
    assert [one.score for one in tried] == [0.6, 0.5999]


@pytest.mark.parametrize(("gain", "wanted"), [(0.9 * LEAST_MIX, 1), (1.1 * LEAST_MIX, 2), (-0.1, 1)])
def test_another_mix_than_the_recipes_has_to_gain(gain: float, wanted: int) -> None:
    (step,) = steps(only_of(DEFAULT, "key_mix"), n_components=9, n_spots=99, patients=True)
    assert step.candidates[1] == (("key_mix", DEFAULT.key_mix),)
    told = {0.0: 0.1, 0.5: 0.5, 1.0: 0.5 + gain}
    assert climb(step, DEFAULT, lambda config: figure(told[config.key_mix]))[0] == wanted


def test_of_equals_the_recipe_s_own_is_taken_and_another_has_to_gain() -> None:
    (step,) = steps(only_of(DEFAULT, "shared.components"), n_components=30, n_spots=99, patients=True)
    values = [value for ((_, value),) in step.candidates]
    assert values[climb(step, DEFAULT, lambda config: figure(0.4))[0]] == DEFAULT.shared.components

    def better(gain: float) -> int:
        return climb(step, DEFAULT, lambda c: figure(0.4 + gain * (c.shared.components == 20)))[0]

    assert values[better(0.001)] == DEFAULT.shared.components
    assert values[better(0.003)] == 20


def test_neighbours_set_by_hand_leave_the_temperature_to_choose_alone() -> None:
    config = changed(DEFAULT, ["retrieval.k=70"])
    assert "retrieval.k" not in config.choose
    step = steps(config, n_components=9, n_spots=500, patients=False)[1]
    temperatures = [0.02, 0.05, 0.1, DEFAULT.retrieval.temperature]
    assert step.candidates == tuple((("retrieval.temperature", t),) for t in temperatures)
    assert step.name == "retrieval.temperature", "the record names what was chosen"
    assert [applied(config, one).retrieval.k for one in step.candidates] == [70] * 4
    both = changed(config, ["retrieval.temperature=0.3"])
    assert "retrieval" not in "".join(s.name for s in steps(both, n_components=9, n_spots=500, patients=False))


def test_what_is_tried_can_be_set_and_ends_with_the_recipes_own() -> None:
    for step in [*views(DEFAULT), *steps(DEFAULT, n_components=256, n_spots=16_000, patients=True)]:
        assert DEFAULT in [applied(DEFAULT, one) for one in step.candidates], step.name
        assert len(set(step.candidates)) == len(step.candidates)
    chosen = steps(DEFAULT, n_components=256, n_spots=16_000, patients=True)
    assert [step.name for step in chosen] == NAMES
    assert [step.name for step in chosen if step.local] == ["retrieval.k"]
    own = (("retrieval.k", DEFAULT.retrieval.k), ("retrieval.temperature", DEFAULT.retrieval.temperature))
    assert chosen[1].candidates[-1] == own


@given(st.integers(1, 300), st.integers(1, 20_000), st.booleans())
def test_no_candidate_asks_for_more_than_there_is(n_components: int, n_spots: int, patients: bool) -> None:
    found = {s.name: s for s in steps(DEFAULT, n_components=n_components, n_spots=n_spots, patients=patients)}
    assert ("shared.shrink_spots" in found) == patients, "nothing else shows what transfers to another patient"
    if "shared.components" in found:
        tried = [value for ((_, value),) in found["shared.components"].candidates]
        assert tried == [c for c in COMPONENTS if c <= n_components]
    assert ("shared.components" in found) == (n_components > 1), "one candidate is no choice"
    neighbours = [dict(one)["retrieval.k"] for one in found["retrieval.k"].candidates] if "retrieval.k" in found else []
    assert all(k <= n_spots for k in neighbours if k != DEFAULT.retrieval.k)


def test_a_field_of_view_is_left_out_where_there_are_some() -> None:
    one, three = ({step.name: step for step in views(config)} for config in (CHOOSING, DEFAULT))
    assert "shared.scales" not in one
    fields = [value for ((_, value),) in three["shared.scales"].candidates]
    assert fields == [None, (1, 2), (0, 2), (0, 1)]
    two = configure("default", settings={"encoder.scales": [0.5, 1.0], "shared.context_scales": [0, 1]})
    pair = {step.name: step for step in views(two)}["shared.scales"]
    assert [value for ((_, value),) in pair.candidates] == [None, (1,), (0,)]


@pytest.mark.parametrize("pooling", ["stages", "covariance"])
def test_the_last_layer_is_tried_only_where_it_stands_beside_the_stages(pooling: str) -> None:
    config = configure("default", settings={"encoder.pooling": pooling, "encoder.last_layer": True})
    tried = [value for ((_, value),) in {step.name: step for step in views(config)}["shared.stages"].candidates]
    assert tried == ["all", "early", "late", *(["with last"] if pooling == "covariance" else [])]


def test_nothing_is_tried_where_nothing_is_to_be_chosen() -> None:
    nothing = changed(DEFAULT, ["choose=[]"])
    assert nothing.choose == ()
    assert views(nothing) == steps(nothing, n_components=99, n_spots=999, patients=True) == []


def test_a_candidate_in_words() -> None:
    assert described((("retrieval.k", 50), ("retrieval.temperature", 0.05))) == "k 50, temperature 0.05"
    assert described((("shared.scales", (0, 2)),)) == "scales [0, 2]"
