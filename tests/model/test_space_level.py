"""Levels: what a slide expresses as a whole, told by its image."""

import dataclasses

import numpy as np
from worlds import STAINED_GENES, STAINED_LAYOUT, stained_arrays

from mclstexp.config import SharedSpaceConfig
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.level import STRENGTHS, Basis, LevelSpots, fit_level, level_spots
from mclstexp.model.space.training_data import SlideArrays, TrainingSet


def spots_of(slides: list[SlideArrays]) -> LevelSpots:
    mean = np.mean([slide.expression.mean(axis=0) for slide in slides], axis=0)
    basis = Basis(np.zeros(STAINED_LAYOUT.width), np.ones(STAINED_LAYOUT.width), mean, np.eye(STAINED_GENES)[:4])
    fold_of = [np.full(len(slide.features), i) for i, slide in enumerate(slides)]
    weights = [np.ones(len(slide.features)) for slide in slides]
    return level_spots(TrainingSet(slides, "patient", fold_of, weights), basis, 0)


class TestLevels:
    def test_features_tell_the_level_of_a_slide(self) -> None:
        """Stain and level move together from slide to slide here, so a new slide's level can be told."""
        slides = [stained_arrays(f"S{i}", f"P{i}", seed=i, shift=i - 2.5) for i in range(6)]
        space = fit_shared_space(slides, STAINED_LAYOUT, SharedSpaceConfig(components=4))
        for shift in (-2.0, 2.0):
            new = stained_arrays("new", "new", seed=77, shift=shift)
            truth = new.expression.mean(axis=0)
            told = space.slide_level(new.features)
            assert np.linalg.norm(truth - told) < 0.9 * np.linalg.norm(truth - space.expression_mean)
        other = stained_arrays("other", "other", seed=78, shift=1e4)
        bound = np.abs(space.level_limit) @ np.abs(space.components)
        assert (np.abs(space.slide_level(other.features) - space.level_mean) <= bound + 1e-5).all()

    def test_features_that_mislead_leave_the_level_alone(self) -> None:
        """Between slides the level goes against what holds within them: no penalty beats no shift, for patients."""
        world = np.random.default_rng(99)
        to_image, to_genes = world.normal(size=(2, STAINED_LAYOUT.width)), 3 * world.normal(size=(2, STAINED_GENES))
        slides = []
        for i, off in enumerate((-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)):
            made = stained_arrays(f"S{i}", f"P{i}", seed=i)
            features = (made.features + off * to_image[0]).astype(np.float32)
            expression = (made.expression - off * to_genes[0]).astype(np.float32)
            slides.append(dataclasses.replace(made, features=features, expression=expression))
        assert fit_level(spots_of(slides), may_be_none=True).strength == np.inf
        assert fit_level(spots_of(slides)).strength in STRENGTHS
        space = fit_shared_space(slides, STAINED_LAYOUT, SharedSpaceConfig(components=4))
        assert space.report["level_penalty"] is None
        np.testing.assert_array_equal(space.image_level, 0)

    def test_shallow_slides_hardly_count_for_the_level(self) -> None:
        deep = [stained_arrays(f"A{i}", "A", seed=i) for i in range(3)]
        low = stained_arrays("B", "B", seed=5)
        low = dataclasses.replace(low, expression=low.expression - 3, depth=np.full(120, 50.0))
        space = fit_shared_space([*deep, low], STAINED_LAYOUT, SharedSpaceConfig(components=4, image_level=False))
        of_deep = np.mean([slide.expression.mean(axis=0) for slide in deep], axis=0)
        assert np.abs(space.level_mean - of_deep).max() < 0.1

    def test_no_level_when_it_is_turned_off(self, slides: list[SlideArrays]) -> None:
        space = fit_shared_space(slides, STAINED_LAYOUT, SharedSpaceConfig(components=4, image_level=False))
        level = space.slide_level(stained_arrays(seed=9, shift=5).features)
        np.testing.assert_allclose(level, np.mean([one.expression.mean(axis=0) for one in slides], axis=0), rtol=1e-5)

    def test_ridge_is_that_of_centred_weighted_least_squares(self) -> None:
        rng = np.random.default_rng(3)
        x, z, w = rng.normal(size=(40, 7)), rng.normal(size=(40, 2)), rng.uniform(0.1, 1, 40)
        spots = LevelSpots(x.astype(np.float32), z, w, np.arange(40) // 10, np.arange(4))
        fitted = fit_level(spots)
        share = w / w.sum()
        xc, zc = x - share @ x, z - share @ z
        penalty = fitted.strength * (share * (xc**2).sum(axis=1)).sum()
        expected = np.linalg.solve(
            xc.T @ (share[:, None] * xc) * 40 + penalty * np.eye(7), xc.T @ (share[:, None] * zc) * 40
        )
        np.testing.assert_allclose(fitted.coefficients, expected, rtol=1e-3, atol=1e-6)
        assert fitted.strength in STRENGTHS
