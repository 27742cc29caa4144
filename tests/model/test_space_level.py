"""Levels: what a slide expresses as a whole, told by its image."""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import STAINED_LAYOUT, square_um, stained_arrays

from mclstexp.config import SharedSpaceConfig
from mclstexp.errors import FormatError
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.level import RidgeLevel, SlideLevel, fit_slide_level, level_from_state
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import SlideArrays, TrainingSet
from mclstexp.types import FloatArray

WIDTH, N_GENES = 12, 9
TISSUE = np.random.default_rng(5)
LOOKS = 4 * TISSUE.normal(size=(3, WIDTH))
LEVELS = TISSUE.uniform(1, 6, (3, N_GENES))


def slide_of(
    tissue: int | list[int], name: str = "new", patient: str = "new", *, seed: int = 0, n: int = 60
) -> SlideArrays:
    """A slide whose spots are of one tissue, or of several in equal parts; tissues look and express differently."""
    rng = np.random.default_rng((seed, n))
    of = np.resize(np.atleast_1d(tissue), n)
    return SlideArrays(
        name,
        patient,
        (LOOKS[of] + rng.normal(size=(n, WIDTH))).astype(np.float32),
        np.maximum(LEVELS[of] + 0.3 * rng.normal(size=(n, N_GENES)), 0).astype(np.float32),
        np.ones(N_GENES, dtype=bool),
        square_um(n),
    )


def cohort(n_patients: int, tissues: int = 2) -> list[SlideArrays]:
    return [slide_of(i % tissues, f"S{i}", f"P{i}", seed=i) for i in range(n_patients)]


def centred(slides: list[SlideArrays]) -> Callable[[SlideArrays], FloatArray]:
    mean = np.mean([slide.features.mean(axis=0) for slide in slides], axis=0).astype(np.float32)
    return lambda slide: slide.features - mean


def fitted(
    slides: list[SlideArrays], weights: tuple[float, float] | None = None
) -> tuple[SlideLevel, Callable[[SlideArrays], tuple[FloatArray, FloatArray]]]:
    features = centred(slides)
    level = fit_slide_level(TrainingSet.of(slides), features, 0, weights=weights)
    return level, lambda slide: level(features(slide))


def training_mean(slides: list[SlideArrays]) -> np.ndarray:
    return np.mean([slide.expression.mean(axis=0) for slide in slides], axis=0)


@pytest.mark.parametrize("n_patients", [2, 3, 8], ids=["two slides", "three slides", "patients held out"])
def test_spots_that_look_alike_tell_which_tissue_it_is(n_patients: int) -> None:
    _, told = fitted(cohort(n_patients))
    for tissue in (0, 1):
        new = slide_of(tissue, seed=99)
        np.testing.assert_allclose(told(new)[0], LEVELS[tissue], atol=0.35)


def test_a_slide_of_two_tissues_lies_between_them() -> None:
    _, told = fitted(cohort(3, tissues=3), weights=(1.0, 0.0))
    level, _ = told(slide_of([0, 0, 0, 1], seed=50, n=80))
    np.testing.assert_allclose(level, 0.75 * LEVELS[0] + 0.25 * LEVELS[1], atol=0.35)


def test_slides_that_look_alike_tell_it_too() -> None:
    slides = cohort(8)
    _, told = fitted(slides, weights=(0.0, 1.0))
    mean = training_mean(slides)
    for tissue in (0, 1):
        error = np.abs(told(slide_of(tissue, seed=99))[0] - LEVELS[tissue]).mean()
        assert error < 0.3 * np.abs(mean - LEVELS[tissue]).mean()


@pytest.mark.parametrize("n_patients", [1, 2, 8])
def test_no_weight_is_the_training_mean(n_patients: int) -> None:
    slides = cohort(n_patients)
    level, told = fitted(slides, weights=(0.0, 0.0))
    for tissue in (0, 1):
        np.testing.assert_allclose(told(slide_of(tissue))[0], training_mean(slides), rtol=1e-5)
    assert level.weights.tolist() == [0, 0]


def test_images_that_say_nothing_leave_the_mean_where_patients_are_held_out() -> None:
    totals = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        slides = []
        for i in range(10):
            made = slide_of(0, f"S{i}", f"P{i}", seed=100 * seed + i)
            features = made.features + 2 * rng.normal(size=WIDTH)
            expression = np.maximum(made.expression + rng.normal(size=N_GENES), 0)
            changed = {"features": features.astype(np.float32), "expression": expression.astype(np.float32)}
            slides.append(dataclasses.replace(made, **changed))
        level, _ = fitted(slides)
        totals.append(float(level.weights.sum()))
    assert np.median(totals) <= 0.2, totals
    assert fitted(cohort(10))[0].weights.sum() >= 0.9, "where images tell it, they are heard"


@pytest.mark.parametrize("n_patients", [3, 8])
def test_the_farther_it_goes_the_less_sure_it_is(n_patients: int) -> None:
    level, _ = fitted(cohort(n_patients, tissues=3))
    level = dataclasses.replace(level, growth=np.maximum(level.growth, np.float32(0.1)))
    steps = []
    for share in (0.0, 0.4, 0.8):
        weaker = dataclasses.replace(level, weights=np.array([share, 0], np.float32))
        steps.append(weaker(centred(cohort(n_patients, tissues=3))(slide_of(0)))[1])
    assert (steps[0] <= steps[1]).all()
    assert (steps[1] < steps[2]).any()
    np.testing.assert_allclose(steps[0], level.error, rtol=1e-5)


def test_without_patients_to_hold_out_half_of_the_way_may_be_wrong() -> None:
    level, told = fitted(cohort(2))
    said, sd = told(slide_of(0, seed=9))
    moved = said - level.mean
    np.testing.assert_allclose(sd, np.sqrt(level.error**2 + (0.5 * moved) ** 2), rtol=1e-3)


def test_the_uncertainty_is_about_what_patients_differ_by() -> None:
    """Levels of patients differ by 0.5 in ways that no image shows."""
    rng = np.random.default_rng(1)
    slides = []
    for i in range(24):
        made = slide_of(i % 2, f"S{i}", f"P{i}", seed=i)
        own = np.maximum(made.expression + 0.5 * rng.normal(size=N_GENES), 0)
        slides.append(dataclasses.replace(made, expression=own.astype(np.float32)))
    _, told = fitted(slides)
    assert 0.35 < np.median(told(slide_of(1, seed=77))[1]) < 0.75


class TestUnmeasuredGenes:
    @pytest.mark.parametrize("n_patients", [1, 2, 3, 8])
    def test_what_nobody_measured_stays_harmless_and_silent(self, n_patients: int) -> None:
        slides = cohort(n_patients)
        for i, slide in enumerate(slides):
            slide.measured[3] = False
            slide.measured[5] = i == 0
            slide.expression[:, ~slide.measured] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            level, told = fitted(slides)
            said, sd = told(slide_of(0, seed=9))
        assert all(np.isfinite(array).all() for name, array in level.state().items() if name != "level.expression")
        assert np.isfinite(said).all()
        assert np.isfinite(sd).all()
        np.testing.assert_allclose(said[5], LEVELS[0, 5], atol=0.4)
        if n_patients > 1:
            assert level.error[5] > 0, "nothing shows how a gene of one slide differs between slides: as others do"

    def test_a_slide_that_lacks_a_gene_says_nothing_of_it(self) -> None:
        slides = cohort(8)
        whole = fitted(slides)[1](slide_of(0, seed=9))[0]
        for slide in slides[2:4]:
            slide.measured[4] = False
            slide.expression[:, 4] = 0
        part = fitted(slides)[1](slide_of(0, seed=9))[0]
        assert abs(part[4] - LEVELS[0, 4]) < 0.4
        np.testing.assert_allclose(np.delete(part, 4), np.delete(whole, 4), atol=0.1)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.integers(0, 100), st.integers(1, 70), st.booleans())
def test_levels_are_finite_within_what_was_measured_and_do_not_depend_on_the_order_of_spots(
    n_patients: int, seed: int, n: int, blank: bool
) -> None:
    slides = [slide_of(i % 3, f"S{i}", f"P{i}", seed=seed + i, n=9 + seed % 40) for i in range(n_patients)]
    if blank:
        slides = [dataclasses.replace(s, features=np.ones_like(s.features)) for s in slides]
    _, told = fitted(slides, weights=(1.0, 0.0))
    new = slide_of([0, 1, 2], seed=seed, n=n)
    level, sd = told(new)
    highest, least = (f([f(s.expression, axis=0) for s in slides], axis=0) for f in (np.max, np.min))
    assert (level <= highest + 0.01).all()
    assert (level >= least - 0.01).all()
    assert (sd >= 0).all()
    turned = dataclasses.replace(new, features=new.features[::-1].copy())
    np.testing.assert_allclose(told(turned)[0], level, atol=1e-3)


class TestInTheSpace:
    def test_features_tell_the_level_of_a_slide(self) -> None:
        """Stain and level move together from slide to slide here, so a new slide's level can be told."""
        slides = [stained_arrays(f"S{i}", f"P{i}", seed=i, shift=i - 2.5) for i in range(6)]
        space = fit_shared_space(slides, STAINED_LAYOUT, SharedSpaceConfig(components=4))
        for shift in (-2.0, 2.0):
            new = stained_arrays("new", "new", seed=77, shift=shift)
            truth = new.expression.mean(axis=0)
            told, sd = space.slide_level(new.features)
            assert np.linalg.norm(truth - told) < 0.9 * np.linalg.norm(truth - space.expression_mean)
            assert (sd > 0).all()
        strange, _ = space.slide_level(stained_arrays("other", "other", seed=78, shift=1e4).features)
        assert np.abs(strange).max() < 40, "however strange a slide, its level is one that was seen"

    def test_shallow_slides_hardly_count_for_the_level(self) -> None:
        deep = [stained_arrays(f"A{i}", "A", seed=i) for i in range(3)]
        low = stained_arrays("B", "B", seed=5)
        low = dataclasses.replace(low, expression=low.expression - 3, depth=np.full(120, 50.0))
        space = fit_shared_space([*deep, low], STAINED_LAYOUT, SharedSpaceConfig(components=4, image_level=False))
        of_deep = np.mean([slide.expression.mean(axis=0) for slide in deep], axis=0)
        assert np.abs(space.level_of.mean - of_deep).max() < 0.1

    def test_no_level_when_it_is_turned_off(self, slides: list[SlideArrays]) -> None:
        space = fit_shared_space(slides, STAINED_LAYOUT, SharedSpaceConfig(components=4, image_level=False))
        level, _ = space.slide_level(stained_arrays(seed=9, shift=5).features)
        np.testing.assert_allclose(level, np.mean([one.expression.mean(axis=0) for one in slides], axis=0), rtol=1e-5)

    def test_weights_given_by_hand_are_taken(self, slides: list[SlideArrays]) -> None:
        config = SharedSpaceConfig(components=4, level_weights=(0.25, 0.5))
        space = fit_shared_space(slides, STAINED_LAYOUT, config)
        assert space.report["level_weights"] == [0.25, 0.5]
        assert space.level_of.weights.tolist() == [0.25, 0.5]


class TestState:
    def test_it_is_rebuilt_and_a_gap_is_named(self, space: SharedSpace) -> None:
        features = stained_arrays(seed=7).features
        arrays, facts = space.state()
        again = SharedSpace.from_state(arrays, facts)
        assert isinstance(again.level_of, SlideLevel)
        for one, other in zip(space.slide_level(features), again.slide_level(features), strict=True):
            np.testing.assert_array_equal(one, other)
        for name in ("anchors", "growth"):
            with pytest.raises(FormatError, match=rf"shared\.level\.{name}"):
                SharedSpace.from_state({k: v for k, v in arrays.items() if k != f"shared.level.{name}"}, facts)

    def test_the_regression_of_earlier_models_is_read_and_says_what_it_said(self, space: SharedSpace) -> None:
        rng = np.random.default_rng(0)
        width, n_genes, n = len(space.feature_mean), space.components.shape[1], 50
        old = {
            "shared.image_level": rng.normal(size=(width, 4)).astype(np.float32),
            "shared.level_limit": np.full(4, 0.3, np.float32),
            "shared.level_mean": rng.uniform(3, 9, n_genes).astype(np.float32),
        }
        level = level_from_state(old, space.components, 10.0)
        assert isinstance(level, RidgeLevel)
        features = (0.1 * rng.normal(size=(n, width))).astype(np.float32)
        moved = np.clip(features.mean(axis=0) * n / (n + 10) @ old["shared.image_level"], -0.3, 0.3)
        said, sd = level(features)
        np.testing.assert_allclose(said, old["shared.level_mean"] + moved @ space.components, rtol=1e-4)
        np.testing.assert_array_equal(sd, 0)
        assert {f"shared.{name}" for name in level.state()} == set(old)
        with pytest.raises(FormatError, match=r"shared\.level_mean"):
            level_from_state({k: v for k, v in old.items() if not k.endswith("mean")}, space.components, 10.0)
