"""The whole choice: bounded, repeatable, of what the data decide alone, on whatever slides there are."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from choosing import CHOOSING, LAYOUT, PANEL, only_of, programmed_arrays, without_genes
from references import quietly, without_counts
from worlds import TINY

from mclstexp.choose.baselines import OWN_PROBE
from mclstexp.choose.run import BLENDS, LEAST_BLEND, Chosen, choose
from mclstexp.config import CHOICES, ModelConfig, changed, configure, recipe
from mclstexp.errors import InputError
from mclstexp.index.reference import Reference
from mclstexp.model.chosen import choice_of
from mclstexp.model.model import Model
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict.memory import MemoryReference, embed_patches
from mclstexp.predict.predictor import Predictor, Query
from mclstexp.slide import Slide
from mclstexp.train import train


def chosen_of(slides: list[SlideArrays], config: ModelConfig = CHOOSING) -> Chosen:
    return choose(slides, LAYOUT, config, PANEL)


def curve_of(chosen: Chosen, setting: str) -> dict:
    """Return what was tried of a setting."""
    (curve,) = [curve for curve in chosen.record["curves"] if curve["setting"] == setting]
    return curve


def predicted(chosen: Chosen, slides: list[SlideArrays], query: SlideArrays) -> np.ndarray:
    """Return the expression that a reference of the slides gives a slide of features alone."""
    config = chosen.config
    reference = MemoryReference.of(slides, chosen.space, config.key_mix, PANEL, config.normalisation)
    asked = Query(embed_patches(chosen.space, query), query.features, PANEL, config.normalisation, config.retrieval)
    return Predictor(chosen.space, config, PANEL).predict(reference, asked).mean


@pytest.fixture(scope="module")
def four() -> Chosen:
    return chosen_of(programmed_arrays())


def test_the_record_says_what_was_tried_and_what_was_taken(four: Chosen) -> None:
    record = four.record
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["held_out"], record["n_folds"], record["n_spots"]) == ("patient", 4, 96)
    assert four.config.choose == ()
    for curve in record["curves"]:
        place = curve["chosen"]
        assert 0 <= place < len(curve["values"]) == len(curve["score"])
        values = curve["values"][place] if len(curve["settings"]) > 1 else [curve["values"][place]]
        assert [record["settings"][name] for name in curve["settings"]] == values
    asked = set(CHOOSING.choose) - {"shared.scales", "shared.level_weights"}
    assert set(record["settings"]) == asked, "one field of view leaves nothing to leave out"
    taken = changed(CHOOSING, ["choose=[]", *(f"{k}={json.dumps(v)}" for k, v in record["settings"].items())])
    assert four.config == taken, "nothing else than the record says is changed"
    assert record["recipe"]["score"] == max(s["score"] for s in [record["recipe"], *record["baselines"].values()])
    assert "ahead of" in record["verdict"]


def test_the_same_slides_give_the_same_record_and_space(four: Chosen) -> None:
    again = chosen_of(programmed_arrays())
    assert again.record == four.record
    assert again.config == four.config
    (arrays, facts), (more, other) = four.space.state(), again.space.state()
    assert facts == other
    assert sorted(arrays) == sorted(more)
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, more[name], err_msg=name)


def test_an_empty_choice_chooses_nothing() -> None:
    slides = programmed_arrays()
    config = changed(CHOOSING, ["choose=[]", "blend=0.25", "shared.components=3"])
    chosen = chosen_of(slides, config)
    assert chosen.record == {}
    assert chosen.config == config
    assert len(chosen.space.components) == 3


def test_what_is_set_by_hand_is_taken_as_given() -> None:
    by_hand = {"shared.components": 5, "retrieval.k": 17, "correction": 0.25, "blend": 0.5}
    config = configure(only_of(CHOOSING, *by_hand, "retrieval.temperature", "key_mix"), settings=by_hand)
    assert config.choose == ("retrieval.temperature", "key_mix")
    chosen = chosen_of(programmed_arrays(), config)
    assert list(chosen.record["settings"]) == ["retrieval.temperature", "key_mix"]
    assert curve_of(chosen, "retrieval.temperature")["settings"] == ["retrieval.temperature"]
    assert (chosen.config.retrieval.k, chosen.config.correction, chosen.config.blend) == (17, 0.25, 0.5)
    assert chosen.config.shared.components == len(chosen.space.components) == 5
    assert chosen.record["recipe"] != {}


def test_components_grow_with_the_programmes() -> None:
    found = {}
    for n in (2, 12):
        slides = programmed_arrays(n_programmes=n, n_spots=40)
        found[n] = chosen_of(slides, only_of(CHOOSING, "shared.components"))
    assert found[2].config.shared.components < 9 <= found[12].config.shared.components
    few, many = (curve_of(found[n], "shared.components") for n in (2, 12))
    at_two = few["score"][few["values"].index(2)]
    assert at_two > max(few["score"]) - 0.002, "two say all there is"
    assert many["score"][many["values"].index(4)] < max(many["score"]) - 0.2


def test_the_recipe_is_not_worse_than_the_probe_that_it_can_blend_in() -> None:
    slides = programmed_arrays(n_programmes=12, n_spots=12)  # a line of everything, and few neighbours
    chosen = chosen_of(slides, only_of(CHOOSING, "blend"))
    probe, curve = chosen.record["baselines"][OWN_PROBE], curve_of(chosen, "blend")
    assert chosen.record["recipe"]["score"] >= probe["score"] - LEAST_BLEND
    assert curve["values"] == list(BLENDS)
    assert {name: curve[name][-1] for name in probe} == probe, "a whole blend is the probe"
    first = next(i for i, score in enumerate(curve["score"]) if score >= max(curve["score"]) - LEAST_BLEND)
    assert curve["chosen"] == first
    assert (chosen.space.linear is not None) == (chosen.config.blend > 0)
    assert chosen.config.blend > 0, "else this world shows nothing"


def test_a_blend_by_hand_of_all_is_scored_as_the_probe() -> None:
    config = configure(only_of(CHOOSING, "key_mix"), settings={"blend": 1.0})
    record = chosen_of(programmed_arrays(), config).record
    probe = record["baselines"][OWN_PROBE]
    assert {name: record["recipe"][name] for name in probe} == probe


SOME = only_of(CHOOSING, "shared.stages", "shared.components", "correction", "shared.shrink_spots", "blend")
"""A few steps of each kind."""


def one_lacks_genes(slides: list[SlideArrays]) -> list[SlideArrays]:
    return [without_genes(slides[0], 1, 2, 3), *slides[1:]]


def nobody_measured(slides: list[SlideArrays]) -> list[SlideArrays]:
    return [without_genes(slide, 4) for slide in slides]


def without_depth(slides: list[SlideArrays]) -> list[SlideArrays]:
    return [dataclasses.replace(slide, depth=None) for slide in slides]


def as_they_are(slides: list[SlideArrays]) -> list[SlideArrays]:
    return slides


@pytest.mark.parametrize(
    ("patients", "n_spots", "held_out", "change"),
    [
        ("A", 40, "block", as_they_are),
        ("A", 12, "block", as_they_are),
        ("AA", 24, "slide", as_they_are),
        ("ABCD", 8, "patient", as_they_are),
        ("ABCD", 20, "patient", one_lacks_genes),
        ("ABCD", 20, "patient", nobody_measured),
        ("AB", 20, "slide", without_depth),
    ],
)
def test_chooses_on_whatever_slides_there_are(
    patients: str, n_spots: int, held_out: str, change: Callable[[list[SlideArrays]], list[SlideArrays]]
) -> None:
    slides = change(programmed_arrays(tuple(patients), n_spots=n_spots))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, of a mean of nothing
        chosen = chosen_of(slides, SOME)
    assert chosen.record["held_out"] == held_out
    assert ("shared.shrink_spots" in chosen.record["settings"]) == (held_out == "patient")
    json.dumps(chosen.record, allow_nan=False)
    query = programmed_arrays(("Q",), n_spots=20, seed=9)[0]
    said = predicted(chosen, slides, query)
    unknown = ~np.any([slide.measured for slide in slides], axis=0)
    np.testing.assert_array_equal(np.isnan(said), np.broadcast_to(unknown, said.shape))
    if n_spots >= 20:
        r = [np.corrcoef(said[:, g], query.expression[:, g])[0, 1] for g in np.flatnonzero(~unknown)]
        assert np.mean(r) > 0.4


def test_too_few_spots_to_hold_any_out_leave_the_recipes_own() -> None:
    chosen = chosen_of(programmed_arrays(("A",), n_spots=8))
    assert chosen.record == {}
    assert chosen.config == dataclasses.replace(CHOOSING, choose=())


@pytest.mark.parametrize("choice", [(), CHOICES])
def test_what_cannot_be_trained_on_is_refused_in_one_line(choice: tuple[str, ...]) -> None:
    config = dataclasses.replace(CHOOSING, choose=choice)
    with pytest.raises(InputError, match="at least 8 spots with image and counts, found 3") as few:
        chosen_of(programmed_arrays(("A",), n_spots=3), config)
    blank = [dataclasses.replace(s, features=np.ones_like(s.features)) for s in programmed_arrays()]
    with pytest.raises(InputError, match="Every spot has the same image features") as same:
        chosen_of(blank, config)
    assert not any("\n" in str(error.value) for error in (few, same))


def test_progress_counts_to_the_end() -> None:
    told: list[tuple[str, int, int]] = []
    choose(programmed_arrays(), LAYOUT, SOME, PANEL, on_progress=lambda *step: told.append(step))
    assert {name for name, _, _ in told} == {"choosing settings"}
    total = told[0][2]
    assert [(done, of) for _, done, of in told] == [(i + 1, total) for i in range(total)]


@pytest.fixture(scope="module")
def model(cohort: list[Slide]) -> Model:
    """A model of four patients that chose three settings."""
    config = only_of(TINY, "shared.components", "retrieval.k", "blend")
    config = dataclasses.replace(config, calibrate=False)
    return train(cohort, recipe=config, encoder_weights="random", n_genes=20, device="cpu", cache=False)


def test_a_model_that_chose_is_read_back_as_it_was(model: Model, cohort: list[Slide], tmp_path: Path) -> None:
    record = choice_of(model.history)
    assert record is not None
    assert list(record["settings"]) == ["shared.components", "retrieval.k", "blend"]
    assert model.config.choose == ()
    assert model.config.shared.components == record["settings"]["shared.components"]
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model", device="cpu", cache=False)
    assert loaded.digest == model.digest
    assert loaded.config == model.config
    assert choice_of(loaded.history) == record
    query = without_counts(cohort[0])
    answers = []
    for name, one in (("first", model), ("second", loaded)):
        Reference.build(tmp_path / name, cohort, one)
        answers.append(quietly(Reference.open(tmp_path / name, device="cpu", cache=False), query).mean)
    np.testing.assert_array_equal(*answers)


def test_the_card_lists_what_was_chosen(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    (path,) = (tmp_path / "model").glob("*.md")
    card = path.read_text()
    record = choice_of(model.history)
    assert record is not None
    for name, value in record["settings"].items():
        assert f"| {name} | {value:g} |" in card
    assert record["verdict"] in card
    assert "4 folds" in card
    assert f"| {OWN_PROBE} |" in card


def test_the_default_recipe_chooses_all_it_can_and_the_papers_nothing() -> None:
    assert recipe("default").choose == CHOICES
    assert recipe("paper").choose == ()
    assert configure("default", settings={"retrieval.k": 50, "blend": 0.5}).choose == tuple(
        name for name in CHOICES if name not in ("retrieval.k", "blend")
    )
