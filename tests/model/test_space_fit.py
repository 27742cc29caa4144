"""What the fit of the shared space finds, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from worlds import STAINED_GENES, STAINED_LAYOUT, stained_arrays

from mclstexp.config import SharedSpaceConfig
from mclstexp.errors import InputError, MismatchError
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays

ALL_GENES = np.ones(STAINED_GENES, dtype=bool)


class TestFit:
    def test_finds_what_image_and_expression_share(self, slides: list[SlideArrays], space: SharedSpace) -> None:
        query = stained_arrays("A9", "A", seed=9, shift=-2.0)
        image = space.image_components(query.features, query.xy_um)
        spot = space.spot_components(query.expression, ALL_GENES)
        assert space.report["folds"] == "slide"
        for c in range(2):
            assert np.corrcoef(image[:, c], spot[:, c])[0, 1] > 0.9
            assert space.report["correlation"][c] > 0.9
        assert max(space.report["correlation"][2:]) < 0.5, "the other two components are noise"

    def test_the_nearest_spot_is_the_patch_s_own_more_often_than_by_chance(self, space: SharedSpace) -> None:
        query = stained_arrays("A9", "A", seed=9, noise=0.05)
        image = space.on_sphere(space.image_components(query.features, query.xy_um))
        spot = space.on_sphere(space.spot_components(query.expression, ALL_GENES))
        rank = (image @ spot.T > (image * spot).sum(axis=1, keepdims=True)).sum(axis=1)
        assert np.median(rank) < len(query.features) / 12

    def test_same_slides_and_seed_same_space(self, slides: list[SlideArrays], space: SharedSpace) -> None:
        again = fit_shared_space(slides, STAINED_LAYOUT, SharedSpaceConfig(components=4))
        for name, array in space.state()[0].items():
            np.testing.assert_array_equal(array, again.state()[0][name])

    def test_order_of_slides_does_not_matter(self, slides: list[SlideArrays], space: SharedSpace) -> None:
        again = fit_shared_space(slides[::-1], STAINED_LAYOUT, SharedSpaceConfig(components=4))
        query = stained_arrays("A9", seed=9)
        ours, theirs = (s.image_components(query.features, query.xy_um)[:, :2] for s in (space, again))
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)

    def test_noise_alone_teaches_nothing(self) -> None:
        rng = np.random.default_rng(3)
        unrelated = [
            dataclasses.replace(s, features=rng.normal(size=s.features.shape).astype(np.float32))
            for s in (stained_arrays("A1", seed=1), stained_arrays("A2", seed=2), stained_arrays("A3", seed=3))
        ]
        assert max(fit_shared_space(unrelated, STAINED_LAYOUT).report["correlation"]) < 0.25

    def test_few_landmarks_still_find_it(self, slides: list[SlideArrays]) -> None:
        bounded = fit_shared_space(
            slides, STAINED_LAYOUT, SharedSpaceConfig(components=2, max_landmarks=60, max_rank=30)
        )
        assert bounded.report["rank"] <= 30
        assert min(bounded.report["correlation"]) > 0.9

    def test_one_slide_is_enough(self) -> None:
        single = fit_shared_space([stained_arrays()], STAINED_LAYOUT, SharedSpaceConfig(components=2))
        assert single.report["folds"] == "block"
        assert min(single.report["correlation"]) > 0.9

    def test_a_dead_feature_and_a_silent_gene_are_harmless(self) -> None:
        slide = stained_arrays()
        features, expression = slide.features.copy(), slide.expression.copy()
        features[:, 3], expression[:, 5] = 7.0, 0.0
        fitted = fit_shared_space(
            [dataclasses.replace(slide, features=features, expression=expression)], STAINED_LAYOUT
        )
        assert all(np.isfinite(array).all() for array in fitted.state()[0].values())

    def test_refuses_too_few_spots_and_other_widths(self) -> None:
        with pytest.raises(InputError, match="at least 8 spots"):
            fit_shared_space([stained_arrays(n=5)], STAINED_LAYOUT)
        with pytest.raises(MismatchError, match="expected 16"):
            fit_shared_space([stained_arrays()], FeatureLayout(blocks=(6, 10)))
        blank = dataclasses.replace(stained_arrays(), features=np.ones((120, STAINED_LAYOUT.width), dtype=np.float32))
        with pytest.raises(InputError, match="blank"):
            fit_shared_space([blank], STAINED_LAYOUT)
        with pytest.raises(InputError, match="must agree"):
            dataclasses.replace(stained_arrays(), depth=np.ones(3))
        with pytest.raises(InputError, match="must agree"):
            dataclasses.replace(stained_arrays(), xy_um=np.ones((4, 2)))
