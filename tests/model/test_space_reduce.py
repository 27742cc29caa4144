"""Reduced features: nothing is lost on the way there, and a fit to them comes back to the encoder's own."""

import dataclasses

import numpy as np
import pytest
from worlds import STAINED_LAYOUT, stained_arrays

from mclstexp.config import SharedSpaceConfig
from mclstexp.model.space import reduce as module
from mclstexp.model.space.fit import fit_shared_space, held_out_share
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.predict.linear import with_linear

CONFIG = SharedSpaceConfig(components=4)


def reduced(slides: list[SlideArrays]) -> tuple[Reduction, list[SlideArrays]]:
    reduction = Reduction.fit(slides, STAINED_LAYOUT)
    return reduction, [reduction(slide) for slide in slides]


def embedded(space: SharedSpace, slide: SlideArrays) -> np.ndarray:
    return space.on_sphere(space.image_components(slide.features, slide.xy_um))


@pytest.mark.parametrize("kept", [256, 3], ids=["whole", "cut off"])
@pytest.mark.parametrize("n_slides", [1, 3, 6])
def test_a_lifted_space_says_what_the_reduced_one_says(
    kept: int, n_slides: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DIRECTIONS", kept)
    slides = [stained_arrays(f"A{i}", f"P{i}", seed=i, shift=float(i)) for i in range(n_slides)]
    reduction, small = reduced(slides)
    config = dataclasses.replace(CONFIG, level_weights=(0.5, 0.3))
    space = with_linear(fit_shared_space(small, reduction.layout, config), small, seed=0)
    lifted = reduction.lift(space)
    assert sum(part.width for part in reduction.layout.parts) == min(32, 4 * kept)
    for query in (stained_arrays("new", seed=9, shift=2.0), stained_arrays("one", seed=8, n=1)):
        little = reduction(query)
        np.testing.assert_allclose(embedded(lifted, query), embedded(space, little), atol=1e-4)
        for one, other in zip(lifted.slide_level(query.features), space.slide_level(little.features), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
        assert lifted.linear is not None
        assert space.linear is not None
        told = space.linear(little.features - space.feature_mean)
        np.testing.assert_allclose(lifted.linear(query.features - lifted.feature_mean), told, rtol=1e-3, atol=1e-3)


def test_a_fit_to_reduced_features_is_the_fit_to_all_where_nothing_is_cut_off(slides: list[SlideArrays]) -> None:
    """Rotations change no ridge; only context is brought to one variance by part in place of by column."""
    config = dataclasses.replace(CONFIG, context_um=0.0, shrink_spots=0.0)
    reduction, small = reduced(slides)
    lifted = reduction.lift(fit_shared_space(small, reduction.layout, config))
    whole = fit_shared_space(slides, STAINED_LAYOUT, config)
    query = stained_arrays("A9", "A", seed=9)
    np.testing.assert_allclose(embedded(lifted, query), embedded(whole, query), atol=1e-4)
    np.testing.assert_allclose(lifted.slide_level(query.features)[0], whole.slide_level(query.features)[0], atol=1e-2)
    assert lifted.report["correlation"] == pytest.approx(whole.report["correlation"], abs=1e-3)


def test_with_context_it_comes_close(slides: list[SlideArrays]) -> None:
    reduction, small = reduced(slides)
    query = stained_arrays("A9", "A", seed=9)
    lifted, whole = (
        embedded(reduction.lift(fit_shared_space(small, reduction.layout, CONFIG)), query),
        embedded(fit_shared_space(slides, STAINED_LAYOUT, CONFIG), query),
    )
    for c in range(2):
        assert np.corrcoef(lifted[:, c], whole[:, c])[0, 1] > 0.98


def test_parts_keep_their_stages_fields_of_view_and_mass() -> None:
    layout = FeatureLayout((3, 5, 4, 2), 2, ("a.stage0", "a.stage1", "a.stage2", "a.last"))
    rng = np.random.default_rng(0)
    made = stained_arrays()
    slide = dataclasses.replace(made, features=rng.normal(size=(120, layout.width)).astype(np.float32))
    reduction = Reduction.fit([slide], layout)
    parts = reduction.layout.parts
    assert [(part.scale, part.group, part.width) for part in parts] == [
        (scale, group, width) for scale in (0, 1) for group, width in (("early", 8), ("late", 4), ("last", 2))
    ]
    assert [part.mass for part in parts] == [2, 1, 1, 2, 1, 1]
    start = 0
    for part in parts:
        own = reduction(slide).features[:, start : start + part.width]
        start += part.width
        assert (own - own.mean(axis=0)).var(axis=0).sum() == pytest.approx(part.mass, rel=1e-3)


@pytest.mark.parametrize("stages", ["early", "late"])
def test_what_is_left_out_stays_out(stages: str, slides: list[SlideArrays]) -> None:
    reduction, small = reduced(slides)
    config = dataclasses.replace(CONFIG, stages=stages, scales=(1,))
    lifted = reduction.lift(fit_shared_space(small, reduction.layout, config))
    used = np.repeat([scale == 1 and part == stages for scale in (0, 1) for part in ("early", "late")], [6, 10] * 2)
    for weights in (lifted.image_own, lifted.image_context):
        assert np.abs(weights[~used]).max() == 0
        assert np.abs(weights[used]).max(axis=1).min() > 0


def test_blank_features_keep_one_idle_direction_a_part() -> None:
    blank = dataclasses.replace(stained_arrays(), features=np.full((120, 32), 3, np.float32))
    reduction, small = reduced([blank])
    assert [part.width for part in reduction.layout.parts] == [1] * 4
    np.testing.assert_array_equal(small[0].features, 0)


def test_the_same_slides_the_same_directions(slides: list[SlideArrays]) -> None:
    one, other = (Reduction.fit(slides, STAINED_LAYOUT, seed=3) for _ in range(2))
    for first, second in zip(one.directions, other.directions, strict=True):
        np.testing.assert_array_equal(first, second)


class TestTruncated:
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_it_is_the_fit_with_so_many_components(self, n: int, slides: list[SlideArrays], space: SharedSpace) -> None:
        fewer = fit_shared_space(slides, STAINED_LAYOUT, dataclasses.replace(CONFIG, components=n))
        cut = space.truncated(n)
        query = stained_arrays("A9", seed=9)
        assert cut.embed_dim == n + 1
        assert cut.config == fewer.config
        np.testing.assert_allclose(embedded(cut, query), embedded(fewer, query), atol=1e-4)
        spots = [one.on_sphere(one.spot_components(query.expression, query.measured)) for one in (cut, fewer)]
        np.testing.assert_allclose(*spots, atol=1e-4)
        np.testing.assert_allclose(
            cut.expression_per_coordinate(), fewer.expression_per_coordinate(), rtol=1e-3, atol=1e-3
        )

    def test_more_than_there_are_is_all(self, space: SharedSpace) -> None:
        cut, query = space.truncated(99), stained_arrays("A9", seed=9)
        assert cut.config.components == 4
        np.testing.assert_allclose(embedded(cut, query), embedded(space, query), atol=1e-6)


def test_what_images_explain_is_told_from_what_they_do_not(slides: list[SlideArrays]) -> None:
    rng = np.random.default_rng(0)
    told = held_out_share(slides, STAINED_LAYOUT, CONFIG)
    deaf = [
        dataclasses.replace(slide, features=rng.normal(size=slide.features.shape).astype(np.float32))
        for slide in slides
    ]
    assert told > 0.8
    assert 0 <= held_out_share(deaf, STAINED_LAYOUT, CONFIG) < 0.05
