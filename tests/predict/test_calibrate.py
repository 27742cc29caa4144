"""Calibrating: intervals that cover slides not seen, reliability by gene, and slides that are called unfamiliar."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from worlds import NOISY_LAYOUT, NOISY_PANEL, noisy_arrays, painted, tiny_slides

from mclstexp.config import EncoderSpec, ModelConfig, PatchSpec, RetrievalConfig, SharedSpaceConfig
from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.index.reference import Reference
from mclstexp.model.calibration import Calibration
from mclstexp.model.model import Model
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict.calibrate import calibrate, cautious, reason_not_to_calibrate
from mclstexp.predict.memory import MemoryReference, embed_patches
from mclstexp.predict.prediction import Prediction
from mclstexp.predict.predictor import Predictor, Query
from mclstexp.predict.source import NEAREST
from mclstexp.slide import Slide
from mclstexp.train import train

CONFIG = ModelConfig(shared=SharedSpaceConfig(context_um=0.0), retrieval=RetrievalConfig(k=60, temperature=0.2))
N_GENES = len(NOISY_PANEL)


def calibrated(slides: list[SlideArrays], config: ModelConfig = CONFIG) -> Calibration:
    return calibrate(slides, NOISY_LAYOUT, config, NOISY_PANEL)


def covered(train_on: list[SlideArrays], test_on: list[SlideArrays], config: ModelConfig = CONFIG) -> list[float]:
    """Return the share of each tested slide's expression that lies within its interval."""
    calibration = calibrated(train_on, config)
    space = fit_shared_space(train_on, NOISY_LAYOUT, config.shared)
    reference = MemoryReference.of(train_on, space, config.key_mix, NOISY_PANEL, config.normalisation)
    predictor = Predictor(space, config, NOISY_PANEL)
    shares = []
    for slide in test_on:
        query = Query(embed_patches(space, slide), slide.features, NOISY_PANEL, config.normalisation, config.retrieval)
        predicted = predictor.predict(reference, query)
        lower, upper = calibration.interval(
            predicted.mean,
            predicted.sd,
            np.arange(N_GENES),
            nearness=predicted.neighbours.first(NEAREST).mean_similarity(),
            distance=calibration.distance(slide.features),
        )
        assert (lower >= 0).all()
        shares.append(float(((slide.expression >= lower) & (slide.expression <= upper)).mean()))
    return shares


@pytest.mark.parametrize("n_train", [2, 3, 6])
def test_intervals_cover_held_out_slides(n_train: int) -> None:
    slides = noisy_arrays(n_train + 6, seed=n_train)
    shares = covered(slides[:n_train], slides[n_train:])
    assert 0.85 <= np.mean(shares) <= 0.96, shares
    assert min(shares) >= 0.80, shares
    assert max(shares) <= 0.98, shares


@pytest.mark.parametrize(
    "retrieval",
    [
        RetrievalConfig(k=60, weights="inverse_square"),
        RetrievalConfig(k=60, temperature=0.2, depth_weighted=True, slide_levelled=True),
    ],
    ids=["inverse square", "levelled"],
)
def test_intervals_cover_however_neighbours_are_weighed(retrieval: RetrievalConfig) -> None:
    slides = noisy_arrays(12, seed=6)
    shares = covered(slides[:6], slides[6:], dataclasses.replace(CONFIG, retrieval=retrieval))
    assert 0.85 <= np.mean(shares) <= 0.96, shares
    assert min(shares) >= 0.80, shares


def test_one_slide_is_held_out_by_quarters() -> None:
    slides = noisy_arrays(4, seed=9, n_spots=200)
    calibration = calibrated(slides[:1])
    assert (calibration.folds, calibration.n_folds, calibration.n_slides) == ("block", 4, 1)
    assert "one slide" in calibration.summary()
    assert np.mean(covered(slides[:1], slides[1:])) > 0.75  # another slide is harder than another quarter


def test_few_slides_call_for_caution() -> None:
    assert [round(cautious(0.9, n), 3) for n in (1, 3, 9)] == [0.95, 0.925, 0.91]
    assert cautious(0.9, 10**6) == pytest.approx(0.9)


def test_a_level_gives_a_width() -> None:
    slides = noisy_arrays(3)
    wide = calibrated(slides)
    narrow = calibrated(slides, dataclasses.replace(CONFIG, interval_level=0.5))
    assert (wide.level, narrow.level) == (0.9, 0.5)
    assert (narrow.quantile < wide.quantile).all()
    with pytest.raises(InputError, match=r"interval_level is 1.5"):
        dataclasses.replace(CONFIG, interval_level=1.5)


def test_noisy_genes_are_less_reliable() -> None:
    slides = noisy_arrays(4, n_spots=200)
    for slide in slides:
        slide.expression[:, 0] = np.random.default_rng(1).permutation(slide.expression[:, 0])
    calibration = calibrated(slides)
    assert abs(calibration.reliability[0]) < 0.2 < np.nanmedian(calibration.reliability)


def test_genes_that_were_not_measured_have_no_interval() -> None:
    slides = noisy_arrays(3)
    none, one = 4, 7
    for i, slide in enumerate(slides):
        slide.measured[none] = False
        slide.measured[one] = i > 0
        slide.expression[:, ~slide.measured] = 0
    calibration = calibrated(slides)
    assert np.isnan(calibration.quantile[none])
    assert np.isnan(calibration.reliability[none])
    assert calibration.quantile[one] > 0
    mean = np.ones((2, 3), np.float32)
    flat = np.ones(2, np.float32)
    lower, upper = calibration.interval(mean, mean, np.array([none, one, -1]), nearness=flat, distance=flat)
    np.testing.assert_array_equal(np.isnan(lower), [[True, False, True]] * 2)
    np.testing.assert_array_equal(np.isnan(upper), [[True, False, True]] * 2)


def test_too_little_to_hold_out_is_said() -> None:
    (slide,) = noisy_arrays(1, n_spots=9)
    together = dataclasses.replace(slide, xy_um=np.zeros((9, 2)))
    assert "too few" in reason_not_to_calibrate([together])
    with pytest.raises(InputError, match="calibrate=false"):
        calibrated([together])
    assert reason_not_to_calibrate(noisy_arrays(2)) == ""


def test_the_order_of_slides_does_not_matter() -> None:
    slides = noisy_arrays(4, n_spots=60)
    one, other = calibrated(slides), calibrated(slides[::-1])
    np.testing.assert_allclose(one.quantile, other.quantile, rtol=0.1)
    np.testing.assert_allclose(one.reliability, other.reliability, atol=0.05)


# From images to a prediction.

FAST = ModelConfig(
    encoder=EncoderSpec("test_resnet", pooling="stages", views=1, scales=(0.5, 1.0)),
    patch=PatchSpec(size_px=64, mpp=1.0),
    retrieval=RetrievalConfig(k=50, temperature=0.4),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[Slide]:
    return tiny_slides(tmp_path_factory.mktemp("world"), 5, n_spots=64)


@pytest.fixture(scope="module")
def model(world: list[Slide]) -> Model:
    return train(world[:4], recipe=FAST, encoder_weights="random", device="cpu", cache=False)


@pytest.fixture(scope="module")
def reference(world: list[Slide], model: Model, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference.build(tmp_path_factory.mktemp("reference") / "r", world[:4], model)


@pytest.fixture(scope="module")
def usual(world: list[Slide], reference: Reference) -> Prediction:
    return reference.query(world[4], thumbnail=False)


def test_training_says_what_to_expect(world: list[Slide], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mclstexp"):
        train(world[:4], recipe=FAST, encoder_weights="random", device="cpu", cache=False)
    assert any("expected reliability: median PCC" in text and "4 slides" in text for text in caplog.messages)


def test_a_model_that_cannot_be_calibrated_says_why(world: list[Slide]) -> None:
    few = [world[0].take(np.arange(8))]
    with pytest.warns(MclstexpWarning, match=r"no intervals and no expected reliability: the 8 training spots"):
        model = train(few, recipe=FAST, encoder_weights="random", device="cpu", cache=False)
    assert model.calibration is None


def test_a_prediction_carries_what_to_expect(
    world: list[Slide], model: Model, reference: Reference, usual: Prediction, tmp_path: Path
) -> None:
    assert usual.lower is not None
    assert usual.upper is not None
    assert ((usual.lower <= usual.mean) & (usual.mean <= usual.upper)).all()
    assert usual.settings["interval_level"] == 0.9
    np.testing.assert_array_equal(usual.var["reliability"], model.calibration.reliability)
    assert not [text for text in usual.notes if "this slide are unlike" in text]
    twin = Reference.open(reference.path, device="cpu", cache=False).query(world[4], thumbnail=False)
    np.testing.assert_array_equal(twin.lower, usual.lower)


def test_other_settings_have_no_interval_and_say_so(world: list[Slide], reference: Reference) -> None:
    with pytest.warns(MclstexpWarning, match="No intervals: they are calibrated for the model's own"):
        prediction = reference.query(world[4], k=5, thumbnail=False)
    assert prediction.lower is None
    assert any(text.startswith("No intervals") for text in prediction.notes)


@pytest.mark.parametrize("kind", ["blank", "noise", "black"])
def test_what_is_no_tissue_is_called_unfamiliar(
    kind: str, world: list[Slide], reference: Reference, usual: Prediction, tmp_path: Path
) -> None:
    width, height = world[4].image.size_px
    image = {
        "blank": np.full((height, width, 3), 245, np.uint8),
        "black": np.zeros((height, width, 3), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8),
    }[kind]
    strange = painted(world[4], image, tmp_path / f"{kind}.tif")
    with pytest.warns(MclstexpWarning, match="unlike the reference"):
        prediction = reference.query(strange, thumbnail=False)
    assert any("unlike the reference" in text for text in prediction.notes), np.median(prediction.obs["familiarity"])
    width_of = [np.median(p.upper - p.lower) for p in (prediction, usual)]
    assert width_of[0] > width_of[1]
