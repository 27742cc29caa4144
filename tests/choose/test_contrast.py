"""The network as a contender: tried where it can pay, kept where it pays, bounded, and calibrated as what it is."""

import dataclasses

import pytest
from worlds import CURVED_LAYOUT, CURVED_PANEL, curved_arrays

from mclstexp.choose import contrast
from mclstexp.choose.contrast import try_contrast, worth_trying
from mclstexp.choose.rehearsal import Rehearsal
from mclstexp.choose.run import choose
from mclstexp.config import ModelConfig, RetrievalConfig, SharedSpaceConfig
from mclstexp.errors import InputError
from mclstexp.model.space.contrast import Refinement
from mclstexp.model.space.refined import RefinedSpace
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict import fit
from mclstexp.predict.calibrate import MAX_WORK, calibrate
from mclstexp.predict.splits import splits

CONFIG = ModelConfig(
    shared=SharedSpaceConfig(components=2, context_um=0.0),
    retrieval=RetrievalConfig(k=30, temperature=0.1),
    choose=("contrast_epochs",),
)


@pytest.fixture(scope="module")
def slides() -> list[SlideArrays]:
    """Four patients, two slides each, of a world that is no line."""
    arrays = [curved_arrays(number, 90) for number in range(8)]
    return [dataclasses.replace(one, patient=f"P{number // 2}") for number, one in enumerate(arrays)]


@pytest.fixture
def rehearsal(slides: list[SlideArrays], monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """The slides divided by patient; small enough a training set will do, and a few epochs."""
    monkeypatch.setattr(contrast, "LEAST_SPOTS", 500)
    monkeypatch.setattr(contrast, "MAX_EPOCHS", 20)
    return Rehearsal(splits(slides)[1], CURVED_LAYOUT, CURVED_PANEL)


def test_pays_in_a_curved_world_and_is_kept_by_slides_that_did_not_choose_its_epochs(rehearsal: Rehearsal) -> None:
    trial = try_contrast(rehearsal, CONFIG)
    assert trial.epochs == trial.record["epochs"] == trial.curve["values"][trial.curve["chosen"]] > 0
    assert trial.record["kept"]
    assert trial.record["gain"] > max(trial.record["noise"], contrast.LEAST_GAIN)
    assert trial.curve["values"][0] == 0, "the closed form's own score comes first"
    assert max(trial.curve["score"]) == trial.curve["score"][trial.curve["chosen"]]


def test_what_gains_too_little_is_not_kept(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "LEAST_GAIN", 9.0)
    monkeypatch.setattr(contrast, "MAX_EPOCHS", 2)
    trial = try_contrast(rehearsal, CONFIG)
    assert (trial.epochs, trial.curve["chosen"], trial.record["kept"]) == (0, 0, False)
    assert "not kept" in trial.said or "does not beat" in trial.said


def test_is_tried_only_where_it_is_asked_for_and_can_pay(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worth_trying(rehearsal, CONFIG)
    assert not worth_trying(rehearsal, dataclasses.replace(CONFIG, choose=("blend",)))
    assert not worth_trying(rehearsal, dataclasses.replace(CONFIG, blend=1.0)), "a linear map alone is predicted by"
    assert not worth_trying(rehearsal.only([0]), CONFIG), "nothing is left to judge on"
    monkeypatch.setattr(contrast, "LEAST_SPOTS", 541)
    assert not worth_trying(rehearsal, CONFIG), "540 spots are left where a patient is held out"


def test_epochs_set_by_hand_are_taken_as_given(slides: list[SlideArrays], monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = dataclasses.replace(CONFIG, contrast_epochs=2, choose=())
    chosen = choose(slides, CURVED_LAYOUT, by_hand, CURVED_PANEL)
    assert isinstance(chosen.space, RefinedSpace)
    assert chosen.space.report["refined"]["epochs"] == chosen.config.contrast_epochs == 2
    assert len(chosen.space.feature_mean) == CURVED_LAYOUT.width, "it takes the encoder's own features"
    monkeypatch.setattr(contrast, "LEAST_SPOTS", 541)
    assert not isinstance(choose(slides, CURVED_LAYOUT, CONFIG, CURVED_PANEL).space, RefinedSpace), "too few spots"


@pytest.mark.parametrize("epochs", [-1, 1001])
def test_a_number_of_epochs_out_of_range_is_refused(epochs: int) -> None:
    with pytest.raises(InputError, match=f"contrast_epochs is {epochs}"):
        ModelConfig(contrast_epochs=epochs)


def test_calibration_refines_in_every_fold_within_bounds(
    slides: list[SlideArrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def refine(space: object, some: list[SlideArrays], *_: object, epochs: int, **__: object) -> Refinement:
        asked.append((sum(len(slide.features) for slide in some), epochs))
        return Refinement(None, 0)

    monkeypatch.setattr(fit, "refine", refine)
    calibrate(slides, CURVED_LAYOUT, dataclasses.replace(CONFIG, contrast_epochs=900), CURVED_PANEL)
    assert len(asked) == 4
    assert all(epochs == 900 and 0 < n_spots * epochs <= MAX_WORK for n_spots, epochs in asked)
    assert min(n_spots for n_spots, _ in asked) < 540, "an excerpt, where the whole would cost more"
