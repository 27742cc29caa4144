"""How sure: intervals that cover, wider where it is strange, and slides that are called unfamiliar."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from mclstexp.index.pipeline import BuildOptions, QueryOptions, build_reference, predict_slide
from worlds import tiny_slides

from mclstexp.config import EncoderSpec, ModelConfig, PatchSpec, RetrievalConfig, SharedSpaceConfig
from mclstexp.data.images import open_image
from mclstexp.data.synthetic.cohort import write_pyramid
from mclstexp.errors import FormatError, InputError
from mclstexp.index.store.store import ReferenceStore
from mclstexp.model.calibration import Calibration, smaller_percentile
from mclstexp.model.model import EncoderPair
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.predict.average import neighbour_weights
from mclstexp.predict.calibrate import calibrate, cautious, reason_not_to_calibrate
from mclstexp.predict.memory import SmallReference, embed_patches, softmax_weights
from mclstexp.slide import Slide
from mclstexp.train import TrainedModel, TrainOptions, train

LAYOUT = FeatureLayout((12, 8))
N_GENES = 30
CONFIG = ModelConfig(shared=SharedSpaceConfig(context_um=0.0), retrieval=RetrievalConfig(k=60, temperature=0.2))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def simulated(n_slides: int, *, n_spots: int = 150, seed: int = 0) -> list[SlideArrays]:
    """Slides whose expression follows their features; slides differ in mean, genes in noise."""
    rng = np.random.default_rng(seed)
    to_features, to_genes = rng.normal(size=(3, LAYOUT.width)), rng.normal(size=(3, N_GENES)) * 0.4
    noise = rng.uniform(0.1, 1.0, N_GENES)
    slides = []
    for i in range(n_slides):
        hidden = rng.normal(size=(n_spots, 3))
        features = hidden @ to_features + rng.normal(size=(n_spots, LAYOUT.width)) + rng.normal(size=LAYOUT.width) * 0.3
        expression = 2 + hidden @ to_genes + rng.normal(size=(n_spots, N_GENES)) * noise
        expression += rng.normal(size=N_GENES) * 0.2
        slides.append(
            SlideArrays(
                f"S{i}",
                f"P{i}",
                features.astype(np.float32),
                np.maximum(expression, 0).astype(np.float32),
                np.ones(N_GENES, dtype=bool),
                rng.uniform(0, 2000, (n_spots, 2)),
            )
        )
    return slides


def covered(train_on: list[SlideArrays], test_on: list[SlideArrays]) -> list[float]:
    made = calibrate(train_on, LAYOUT, CONFIG)
    space = fit_shared_space(train_on, LAYOUT, CONFIG.shared)
    reference = SmallReference.of(train_on, space, CONFIG.key_mix)
    shares = []
    for slide in test_on:
        got = reference.retrieve(embed_patches(space, slide), CONFIG.retrieval)
        lower, upper = made.interval(
            got.mean, got.sd, np.arange(N_GENES), nearness=got.nearness, distance=made.distance(slide.features)
        )
        assert (lower >= 0).all()
        shares.append(float(((slide.expression >= lower) & (slide.expression <= upper)).mean()))
    return shares


@pytest.mark.parametrize("n_train", [2, 3, 6])
def test_intervals_cover_held_out_slides(n_train: int) -> None:
    slides = simulated(n_train + 6, seed=n_train)
    shares = covered(slides[:n_train], slides[n_train:])
    assert 0.85 <= np.mean(shares) <= 0.96, shares
    assert min(shares) >= 0.80, shares
    assert max(shares) <= 0.98, shares


def test_one_slide_is_held_out_by_quarters() -> None:
    slides = simulated(4, seed=9, n_spots=200)
    made = calibrate(slides[:1], LAYOUT, CONFIG)
    assert (made.folds, made.n_folds, made.n_slides) == ("block", 4, 1)
    assert "one slide" in made.summary()
    assert np.mean(covered(slides[:1], slides[1:])) > 0.75  # another slide is harder than another quarter


def test_few_slides_call_for_caution() -> None:
    assert [round(cautious(0.9, n), 3) for n in (1, 3, 9)] == [0.95, 0.925, 0.91]
    assert cautious(0.9, 10**6) == pytest.approx(0.9)


def test_a_level_gives_a_width() -> None:
    slides = simulated(3)
    wide = calibrate(slides, LAYOUT, CONFIG)
    narrow = calibrate(slides, LAYOUT, dataclasses.replace(CONFIG, interval_level=0.5))
    assert (narrow.quantile < wide.quantile).all()
    with pytest.raises(InputError, match=r"interval_level is 1.5"):
        calibrate(slides, LAYOUT, dataclasses.replace(CONFIG, interval_level=1.5))


def test_noisy_genes_are_less_reliable() -> None:
    slides = simulated(4, n_spots=200)
    for slide in slides:
        slide.expression[:, 0] = np.random.default_rng(1).permutation(slide.expression[:, 0])
    made = calibrate(slides, LAYOUT, CONFIG)
    assert abs(made.reliability[0]) < 0.2 < np.nanmedian(made.reliability)


def test_strange_patches_get_wider_intervals() -> None:
    made = calibrate(simulated(3), LAYOUT, CONFIG)
    near = np.linspace(made.nearness[0] - 0.5, made.nearness[-1], 50).astype(np.float32)
    usual = np.full(50, np.median(made.strangeness), dtype=np.float32)
    wide = made.widening(near, usual)
    assert (np.diff(wide) <= 1e-6).all()
    assert wide[0] > 1.5 * wide[-1]
    far = made.widening(near, usual + 10 * np.float32(made.strangeness[-1]))
    assert (far >= wide).all()
    assert (far > 1.5 * wide)[-10:].all()
    features = np.random.default_rng(0).normal(size=(20, LAYOUT.width)).astype(np.float32) * 30
    assert (made.familiarity(made.distance(features)) == 0).all()


def test_held_out_patches_have_every_familiarity() -> None:
    slides = simulated(8, seed=3)
    made = calibrate(slides[:5], LAYOUT, CONFIG)
    percent = np.concatenate([made.familiarity(made.distance(s.features)) for s in slides[5:]])
    assert 30 < np.median(percent) < 70
    assert np.quantile(percent, 0.1) > 1


def test_the_smaller_percentile_is_one_again() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 100, (2, 20_000)).astype(np.float32)
    found = smaller_percentile(a, b)
    np.testing.assert_allclose(np.quantile(found, [0.05, 0.5, 0.95]), [5, 50, 95], atol=1)
    np.testing.assert_array_equal(smaller_percentile(np.full(3, np.nan, np.float32), b[:3]), b[:3])


def test_state_round_trip_and_determinism() -> None:
    slides = simulated(3)
    made, again = calibrate(slides, LAYOUT, CONFIG), calibrate(slides, LAYOUT, CONFIG)
    arrays, facts = made.state()
    back = Calibration.from_state(arrays, facts)
    assert back is not None
    for name, values in arrays.items():
        assert name.startswith("calibration.")
        np.testing.assert_array_equal(values, again.state()[0][name])
        np.testing.assert_array_equal(values, back.state()[0][name])
    assert back.summary() == made.summary()
    assert Calibration.from_state({}, {}) is None
    with pytest.raises(FormatError, match="lacks quantile"):
        Calibration.from_state({k: v for k, v in arrays.items() if k != "calibration.quantile"}, facts)


def test_genes_that_were_not_measured_have_no_interval() -> None:
    slides = simulated(3)
    none, one = 4, 7
    for i, slide in enumerate(slides):
        slide.measured[none] = False
        slide.measured[one] = i > 0
        slide.expression[:, ~slide.measured] = 0
    made = calibrate(slides, LAYOUT, CONFIG)
    assert np.isnan(made.quantile[none])
    assert np.isnan(made.reliability[none])
    assert made.quantile[one] > 0
    mean = np.ones((2, 3), np.float32)
    flat = np.ones(2, np.float32)
    lower, upper = made.interval(mean, mean, np.array([none, one, -1]), nearness=flat, distance=flat)
    np.testing.assert_array_equal(np.isnan(lower), [[True, False, True]] * 2)
    np.testing.assert_array_equal(np.isnan(upper), [[True, False, True]] * 2)


def test_too_little_to_hold_out_is_said() -> None:
    (slide,) = simulated(1, n_spots=9)
    together = dataclasses.replace(slide, xy_um=np.zeros((9, 2)))
    assert "too few" in reason_not_to_calibrate([together], CONFIG)
    with pytest.raises(InputError, match="calibrate=false"):
        calibrate([together], LAYOUT, CONFIG)
    inverse = dataclasses.replace(CONFIG, retrieval=RetrievalConfig(weights="inverse_square"))
    assert "inverse_square" in reason_not_to_calibrate(simulated(2), inverse)


def test_weights_are_the_reference_s() -> None:
    similarity = np.random.default_rng(0).uniform(-1, 1, (5, 40)).astype(np.float32)
    expected = neighbour_weights(similarity, RetrievalConfig(temperature=0.3))
    np.testing.assert_array_equal(softmax_weights(similarity, 0.3), expected)


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
def trained(
    world: list[Slide], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainedModel, ReferenceStore, list[str]]:
    notes: list[str] = []
    model = train(world[:4], FAST, TrainOptions(weights="random", device="cpu", on_note=notes.append))
    path = tmp_path_factory.mktemp("reference") / "r"
    return model, build_reference(path, world[:4], model.files, model.encoders, BuildOptions()), notes


def painted(slide: Slide, image: np.ndarray, path: Path) -> Slide:
    write_pyramid(image, path, mpp=1.0)
    return dataclasses.replace(slide, slide_id=path.stem, image=open_image(path), sources=(path,))


def test_training_says_what_to_expect_and_a_prediction_carries_it(world, trained) -> None:
    model, store, notes = trained
    assert any("expected reliability: median PCC" in text and "4 slides" in text for text in notes)
    found = predict_slide(world[4], model.encoders, store, QueryOptions(thumbnail=False))
    made = found.prediction
    assert made.lower is not None
    assert made.upper is not None
    assert ((made.lower <= made.mean) & (made.mean <= made.upper)).all()
    assert made.settings["interval_level"] == 0.9
    np.testing.assert_array_equal(made.var["reliability"], model.encoders.calibration.reliability)
    assert not [text for text in found.notes if "unlike" in text]
    again = EncoderPair.from_files(model.files, device="cpu")
    twin = predict_slide(world[4], again, store, QueryOptions(thumbnail=False)).prediction
    np.testing.assert_array_equal(twin.lower, made.lower)


def test_memory_and_disk_retrieve_the_same(world, trained) -> None:
    model, store, _ = trained
    made = predict_slide(world[4], model.encoders, store, QueryOptions(thumbnail=False)).prediction
    from mclstexp.data.genes.expression import expression_for
    from mclstexp.model.space.neighbourhood import positions_um

    arrays = [
        SlideArrays(
            s.slide_id,
            s.patient,
            model.encoders.features(s),
            *expression_for(s.spots, model.encoders.panel, FAST.normalisation),
            positions_um(s),
        )
        for s in world[:4]
    ]
    reference = SmallReference.of(arrays, model.encoders.space, FAST.key_mix)
    got = reference.retrieve(model.encoders.encode_patches(world[4]), FAST.retrieval)
    np.testing.assert_allclose(got.mean, made.retrieved, atol=3e-3)  # the copy on disk is half precision
    np.testing.assert_allclose(got.sd, made.sd, atol=1e-2)


def test_other_settings_have_no_interval_and_say_so(world, trained) -> None:
    model, store, _ = trained
    options = QueryOptions(thumbnail=False, retrieval=RetrievalConfig(k=5))
    found = predict_slide(world[4], model.encoders, store, options)
    assert found.prediction.lower is None
    assert any(text.startswith("No intervals") for text in found.notes)


@pytest.mark.parametrize("kind", ["blank", "noise", "black"])
def test_what_is_no_tissue_is_called_unfamiliar(kind: str, world, trained, tmp_path: Path) -> None:
    model, store, _ = trained
    width, height = world[4].image.size_px
    image = {
        "blank": np.full((height, width, 3), 245, np.uint8),
        "black": np.zeros((height, width, 3), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8),
    }[kind]
    strange = painted(world[4], image, tmp_path / f"{kind}.tif")
    usual = predict_slide(world[4], model.encoders, store, QueryOptions(thumbnail=False)).prediction
    found = predict_slide(strange, model.encoders, store, QueryOptions(thumbnail=False))
    assert any("unlike the reference" in text for text in found.notes), np.median(found.prediction.obs["familiarity"])
    width_of = [np.median(p.upper - p.lower) for p in (found.prediction, usual)]
    assert width_of[0] > width_of[1]
