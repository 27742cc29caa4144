"""The shared space: context, fit, embeddings, correction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mclstexp.config import SharedSpaceConfig
from mclstexp.errors import FormatError, InputError, MismatchError
from mclstexp.model.space.adjust import coordinates, correct_toward_query, relevel
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.level import STRENGTHS, Basis, LevelSpots, fit_level, level_spots
from mclstexp.model.space.neighbourhood import CUTOFF, SpatialMean
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays, folds, sampled_rows, spot_weights

N_GENES = 30
LAYOUT = FeatureLayout(blocks=(6, 10), n_scales=2)
ALL_GENES = np.ones(N_GENES, dtype=bool)


def grid(n: int, pitch_um: float = 200.0) -> np.ndarray:
    side = int(np.ceil(np.sqrt(n)))
    return pitch_um * np.stack(np.divmod(np.arange(n), side), axis=1).astype(np.float64)


def make_slide(
    name: str = "A1", patient: str = "A", *, n: int = 120, seed: int = 0, noise: float = 0.3, shift: float = 0.0
) -> SlideArrays:
    """Two hidden factors show in image and expression; ``shift`` is the slide's own stain and level."""
    world = np.random.default_rng(99)
    to_image, to_genes = world.normal(size=(2, LAYOUT.width)), 3 * world.normal(size=(2, N_GENES))
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 2)) * [1.0, 0.6]
    features = hidden @ to_image + noise * rng.normal(size=(n, LAYOUT.width)) + shift
    expression = hidden @ to_genes + noise * rng.normal(size=(n, N_GENES)) + shift + 5
    return SlideArrays(
        name,
        patient,
        features.astype(np.float32),
        expression.astype(np.float32),
        ALL_GENES,
        grid(n),
        np.full(n, 1000.0),
    )


@pytest.fixture(scope="module")
def slides() -> list[SlideArrays]:
    return [make_slide(f"A{i}", "A", seed=i, shift=float(i)) for i in range(3)]


@pytest.fixture(scope="module")
def space(slides: list[SlideArrays]) -> SharedSpace:
    return fit_shared_space(slides, LAYOUT, SharedSpaceConfig(components=4))


class TestSpatialMean:
    def test_equals_the_plain_loop(self) -> None:
        rng = np.random.default_rng(0)
        xy, values, width = rng.uniform(0, 2000, size=(60, 2)) // 50 * 50, rng.normal(size=(60, 3)), 200.0
        xy = np.unique(xy, axis=0)
        values = values[: len(xy)]
        expected = np.empty_like(values)
        for i, here in enumerate(xy):
            distance = np.linalg.norm(xy - here, axis=1)
            weight = np.where(distance <= CUTOFF * width, np.exp(-(distance**2) / (2 * width**2)), 0)
            expected[i] = weight @ values / weight.sum()
        np.testing.assert_allclose(SpatialMean(xy, width).apply(values), expected, rtol=1e-10)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 40), st.floats(1, 500), st.integers(0, 10))
    def test_a_constant_stays_and_order_is_free(self, n: int, width: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        xy, values = rng.uniform(0, 1000, size=(n, 2)), rng.normal(size=(n, 2))
        mean = SpatialMean(xy, width)
        np.testing.assert_allclose(mean.apply(np.ones((n, 1))), 1.0, rtol=1e-9)
        order = rng.permutation(n)
        shuffled = SpatialMean(xy[order], width).apply(values[order])
        np.testing.assert_allclose(shuffled, mean.apply(values)[order], rtol=1e-7, atol=1e-9)

    def test_dense_bins_share_cells_and_come_close_to_the_exact_mean(self) -> None:
        xy = grid(4900, pitch_um=8.0)
        values = np.sin(xy / 200.0)
        coarse = SpatialMean(xy, 100.0)
        middle = int(np.argmin(np.linalg.norm(xy - xy.mean(axis=0), axis=1)))
        distance = np.linalg.norm(xy - xy[middle], axis=1)
        weight = np.where(distance <= CUTOFF * 100, np.exp(-(distance**2) / (2 * 100**2)), 0)
        assert coarse._weights is not None
        assert coarse._weights.shape[0] < len(xy) / 3
        np.testing.assert_allclose(coarse.apply(values)[middle], weight @ values / weight.sum(), atol=0.03)

    def test_zero_width_leaves_values_alone(self) -> None:
        values = np.arange(6.0).reshape(3, 2)
        np.testing.assert_array_equal(SpatialMean(grid(3), 0.0).apply(values), values)


class TestFit:
    def test_finds_what_image_and_expression_share(self, slides: list[SlideArrays], space: SharedSpace) -> None:
        query = make_slide("A9", "A", seed=9, shift=-2.0)
        image = space.image_components(query.features, query.xy_um)
        spot = space.spot_components(query.expression, ALL_GENES)
        assert space.report["folds"] == "slide"
        for c in range(2):
            assert np.corrcoef(image[:, c], spot[:, c])[0, 1] > 0.9
            assert space.report["correlation"][c] > 0.9
        assert max(space.report["correlation"][2:]) < 0.5, "the other two components are noise"

    def test_the_nearest_spot_is_the_patch_s_own_more_often_than_by_chance(self, space: SharedSpace) -> None:
        query = make_slide("A9", "A", seed=9, noise=0.05)
        image = space.on_sphere(space.image_components(query.features, query.xy_um))
        spot = space.on_sphere(space.spot_components(query.expression, ALL_GENES))
        rank = (image @ spot.T > (image * spot).sum(axis=1, keepdims=True)).sum(axis=1)
        assert np.median(rank) < len(query.features) / 12

    def test_same_slides_and_seed_same_space(self, slides: list[SlideArrays], space: SharedSpace) -> None:
        again = fit_shared_space(slides, LAYOUT, SharedSpaceConfig(components=4))
        for name, array in space.state()[0].items():
            np.testing.assert_array_equal(array, again.state()[0][name])

    def test_order_of_slides_does_not_matter(self, slides: list[SlideArrays], space: SharedSpace) -> None:
        again = fit_shared_space(slides[::-1], LAYOUT, SharedSpaceConfig(components=4))
        query = make_slide("A9", seed=9)
        ours, theirs = (s.image_components(query.features, query.xy_um)[:, :2] for s in (space, again))
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)

    def test_noise_alone_teaches_nothing(self) -> None:
        rng = np.random.default_rng(3)
        unrelated = [
            dataclasses.replace(s, features=rng.normal(size=s.features.shape).astype(np.float32))
            for s in (make_slide("A1", seed=1), make_slide("A2", seed=2), make_slide("A3", seed=3))
        ]
        assert max(fit_shared_space(unrelated, LAYOUT).report["correlation"]) < 0.25

    def test_few_landmarks_still_find_it(self, slides: list[SlideArrays]) -> None:
        bounded = fit_shared_space(slides, LAYOUT, SharedSpaceConfig(components=2, max_landmarks=60, max_rank=30))
        assert bounded.report["rank"] <= 30
        assert min(bounded.report["correlation"]) > 0.9

    def test_one_slide_is_enough(self) -> None:
        single = fit_shared_space([make_slide()], LAYOUT, SharedSpaceConfig(components=2))
        assert single.report["folds"] == "block"
        assert min(single.report["correlation"]) > 0.9

    def test_a_dead_feature_and_a_silent_gene_are_harmless(self) -> None:
        slide = make_slide()
        features, expression = slide.features.copy(), slide.expression.copy()
        features[:, 3], expression[:, 5] = 7.0, 0.0
        fitted = fit_shared_space([dataclasses.replace(slide, features=features, expression=expression)], LAYOUT)
        assert all(np.isfinite(array).all() for array in fitted.state()[0].values())

    def test_refuses_too_few_spots_and_other_widths(self) -> None:
        with pytest.raises(InputError, match="at least 8 spots"):
            fit_shared_space([make_slide(n=5)], LAYOUT)
        with pytest.raises(MismatchError, match="expected 16"):
            fit_shared_space([make_slide()], FeatureLayout(blocks=(6, 10)))
        blank = dataclasses.replace(make_slide(), features=np.ones((120, LAYOUT.width), dtype=np.float32))
        with pytest.raises(InputError, match="blank"):
            fit_shared_space([blank], LAYOUT)
        with pytest.raises(InputError, match="must agree"):
            dataclasses.replace(make_slide(), depth=np.ones(3))
        with pytest.raises(InputError, match="must agree"):
            dataclasses.replace(make_slide(), xy_um=np.ones((4, 2)))


class TestFoldsAndWeights:
    def test_patients_are_held_out_from_four_on(self) -> None:
        few = [make_slide(f"{p}{i}", p, n=9) for p in "ABC" for i in range(2)]
        kind, spread = folds(few)
        assert (kind, len({int(f[0]) for f in spread})) == ("slide", 6)
        kind, spread = folds([*few, make_slide("D1", "D", n=9)])
        assert kind == "patient"
        assert spread[0][0] == spread[1][0] != spread[2][0]

    def test_many_patients_share_folds_evenly(self) -> None:
        kind, spread = folds([make_slide(f"P{i}", f"P{i}", n=10) for i in range(24)])
        assert kind == "patient"
        assert np.bincount([int(f[0]) for f in spread]).tolist() == [3] * 8

    def test_shallow_spots_and_slides_count_less(self) -> None:
        deep, shallow = make_slide("A1", n=10), make_slide("B1", "B", n=10)
        shallow = dataclasses.replace(shallow, depth=np.r_[np.full(9, 100.0), 0.0])
        for_deep, for_shallow = spot_weights([deep, make_slide("A2", n=10), shallow])[::2]
        assert for_deep == pytest.approx(0.5)
        assert for_shallow[0] == pytest.approx(100 / 1100 * 0.1)
        assert for_shallow[-1] == 0

    def test_unknown_depth_weighs_like_a_typical_spot(self) -> None:
        unknown = dataclasses.replace(make_slide("A2"), depth=None)
        assert spot_weights([make_slide("A1"), unknown])[1] == pytest.approx(0.5)
        assert spot_weights([unknown])[0] == pytest.approx(1.0)

    def test_a_coarse_patient_does_not_spoil_a_deep_one(self, slides: list[SlideArrays]) -> None:
        rng = np.random.default_rng(5)
        coarse = make_slide("B1", "B", n=300, seed=50)
        rubbish = (coarse.expression + 30 * rng.normal(size=coarse.expression.shape)).astype(np.float32)
        coarse = dataclasses.replace(coarse, expression=rubbish, depth=np.full(300, 20.0))
        query = make_slide("A9", seed=9)
        mixed = fit_shared_space([*slides, coarse], LAYOUT, SharedSpaceConfig(components=2))
        image, spot = (
            mixed.image_components(query.features, query.xy_um),
            mixed.spot_components(query.expression, ALL_GENES),
        )
        assert min(np.corrcoef(image[:, c], spot[:, c])[0, 1] for c in range(2)) > 0.85


class TestEmbeddings:
    def test_unit_float32_and_finite(self, space: SharedSpace) -> None:
        query = make_slide(seed=7)
        for vectors in (
            space.on_sphere(space.image_components(query.features, query.xy_um)),
            space.on_sphere(space.spot_components(query.expression, ALL_GENES)),
        ):
            assert vectors.dtype == np.float32
            assert vectors.shape == (120, space.embed_dim)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)

    def test_stain_and_level_of_a_slide_do_not_decide(self, space: SharedSpace) -> None:
        query = make_slide(seed=7, n=400)
        plain = space.image_components(query.features, query.xy_um)
        stained = space.image_components(query.features + 10, query.xy_um)
        own = plain.std(axis=0)[:2]
        assert (np.abs(stained - plain).mean(axis=0)[:2] < own).all()
        assert np.corrcoef(stained[:, 0], plain[:, 0])[0, 1] > 0.999

    def test_a_single_patch_has_an_embedding(self, space: SharedSpace) -> None:
        query = make_slide(seed=7)
        vector = space.on_sphere(space.image_components(query.features[:1], query.xy_um[:1]))
        assert vector.shape == (1, space.embed_dim)
        assert np.isfinite(vector).all()

    def test_an_unfamiliar_slide_is_kept_within_what_was_seen(self, space: SharedSpace) -> None:
        query = make_slide(seed=7)
        wild = space.image_components(50 * query.features, query.xy_um)
        assert (wild.std(axis=0) <= 1.05 * space.amplitude).all()

    def test_unmeasured_genes_are_unknown_not_zero(self, space: SharedSpace) -> None:
        query = make_slide(seed=7, noise=0.01)
        measured = np.arange(N_GENES) % 3 != 0
        part = space.spot_components(np.where(measured, query.expression, 0), measured)
        whole = space.spot_components(query.expression, ALL_GENES)
        assert np.corrcoef(part[:, 0], whole[:, 0])[0, 1] > 0.9
        nothing = space.spot_components(query.expression, np.zeros(N_GENES, dtype=bool))
        np.testing.assert_array_equal(nothing, 0)

    def test_other_feature_length_is_refused(self, space: SharedSpace) -> None:
        with pytest.raises(MismatchError, match="trained on 32"):
            space.image_components(np.zeros((4, 5), dtype=np.float32), grid(4))

    def test_coordinates_undo_the_sphere(self, space: SharedSpace) -> None:
        components = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
        back = coordinates(space.on_sphere(components), space.config.radius)
        np.testing.assert_allclose(back, components * space.gain, rtol=1e-3, atol=1e-5)

    def test_state_rebuilds_the_space_and_a_gap_is_named(self, space: SharedSpace) -> None:
        arrays, facts = space.state()
        query = make_slide(seed=7)
        again = SharedSpace.from_state(arrays, facts)
        np.testing.assert_array_equal(
            space.image_components(query.features, query.xy_um), again.image_components(query.features, query.xy_um)
        )
        assert (again.config, again.report) == (space.config, space.report)
        with pytest.raises(FormatError, match=r"shared\.gain"):
            SharedSpace.from_state({k: v for k, v in arrays.items() if k != "shared.gain"}, facts)


class TestCorrection:
    def test_full_strength_follows_a_linear_truth(self, space: SharedSpace) -> None:
        slope = space.expression_per_coordinate()
        query, near = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32) * 0.05
        mean = 20 + near @ slope
        np.testing.assert_allclose(
            correct_toward_query(mean, query, near, slope, strength=1.0), 20 + query @ slope, rtol=1e-4
        )
        np.testing.assert_array_equal(correct_toward_query(mean, query, near, slope, strength=0.0), mean)

    def test_a_component_that_counts_for_nothing_corrects_nothing(self, space: SharedSpace) -> None:
        muted = dataclasses.replace(space, gain=np.zeros_like(space.gain))
        np.testing.assert_array_equal(muted.expression_per_coordinate(), 0)


def spots_of(slides: list[SlideArrays]) -> LevelSpots:
    mean = np.mean([slide.expression.mean(axis=0) for slide in slides], axis=0)
    basis = Basis(np.zeros(LAYOUT.width), np.ones(LAYOUT.width), mean, np.eye(N_GENES)[:4])
    weights = [(np.ones(len(slide.features)), np.full(len(slide.features), i)) for i, slide in enumerate(slides)]
    return level_spots(slides, basis, weights, 0)


class TestLevels:
    def test_the_mean_goes_to_the_level_and_contrasts_stay(self) -> None:
        rng = np.random.default_rng(0)
        values, level = rng.normal(9, 1, (400, 5)), rng.normal(9, 1, 5)
        moved = relevel(values.astype(np.float32), level.astype(np.float32), trust=0)
        np.testing.assert_allclose(moved.mean(axis=0), level, rtol=1e-4)
        np.testing.assert_allclose(moved - moved.mean(axis=0), values - values.mean(axis=0), atol=1e-4)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 10**6), st.integers(2, 80), st.floats(0, 3), st.floats(0.01, 3))
    def test_nothing_goes_below_zero_and_the_mean_is_kept(self, seed: int, n: int, centre: float, level: float) -> None:
        values = np.random.default_rng(seed).normal(centre, 1, (n, 1)).astype(np.float32)
        moved = relevel(values, np.array([level], np.float32), trust=0)
        assert moved.min() >= 0
        np.testing.assert_allclose(moved.mean(), level, rtol=1e-4)
        assert (np.diff(moved[np.argsort(values[:, 0]), 0]) >= -1e-6).all()

    def test_one_spot_hardly_moves(self) -> None:
        one = relevel(np.full((1, 2), 6, np.float32), np.array([0, 17], np.float32), trust=10)
        np.testing.assert_allclose(one, [[6 - 6 / 11, 6 + 11 / 11]], rtol=1e-5)

    def test_the_unknown_stays_unknown(self) -> None:
        values = np.array([[np.nan, 1, 1], [4, 3, np.nan]], np.float32)
        moved = relevel(values, np.array([5, np.nan, 2], np.float32), trust=0)
        np.testing.assert_array_equal(moved, np.array([[np.nan, 1, 2], [5, 3, np.nan]], np.float32))

    def test_features_tell_the_level_of_a_slide(self) -> None:
        """Stain and level move together from slide to slide here, so a new slide's level can be told."""
        slides = [make_slide(f"S{i}", f"P{i}", seed=i, shift=i - 2.5) for i in range(6)]
        space = fit_shared_space(slides, LAYOUT, SharedSpaceConfig(components=4))
        for shift in (-2.0, 2.0):
            new = make_slide("new", "new", seed=77, shift=shift)
            truth = new.expression.mean(axis=0)
            told = space.slide_level(new.features)
            assert np.linalg.norm(truth - told) < 0.9 * np.linalg.norm(truth - space.expression_mean)
        other = make_slide("other", "other", seed=78, shift=1e4)
        bound = np.abs(space.level_limit) @ np.abs(space.components)
        assert (np.abs(space.slide_level(other.features) - space.level_mean) <= bound + 1e-5).all()

    def test_features_that_mislead_leave_the_level_alone(self) -> None:
        """Between slides the level goes against what holds within them: no penalty beats no shift, for patients."""
        world = np.random.default_rng(99)
        to_image, to_genes = world.normal(size=(2, LAYOUT.width)), 3 * world.normal(size=(2, N_GENES))
        slides = []
        for i, off in enumerate((-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)):
            made = make_slide(f"S{i}", f"P{i}", seed=i)
            features = (made.features + off * to_image[0]).astype(np.float32)
            expression = (made.expression - off * to_genes[0]).astype(np.float32)
            slides.append(dataclasses.replace(made, features=features, expression=expression))
        assert fit_level(spots_of(slides), may_be_none=True).strength == np.inf
        assert fit_level(spots_of(slides)).strength in STRENGTHS
        space = fit_shared_space(slides, LAYOUT, SharedSpaceConfig(components=4))
        assert space.report["level_penalty"] is None
        np.testing.assert_array_equal(space.image_level, 0)

    def test_shallow_slides_hardly_count_for_the_level(self) -> None:
        deep = [make_slide(f"A{i}", "A", seed=i) for i in range(3)]
        low = make_slide("B", "B", seed=5)
        low = dataclasses.replace(low, expression=low.expression - 3, depth=np.full(120, 50.0))
        space = fit_shared_space([*deep, low], LAYOUT, SharedSpaceConfig(components=4, image_level=False))
        of_deep = np.mean([slide.expression.mean(axis=0) for slide in deep], axis=0)
        assert np.abs(space.level_mean - of_deep).max() < 0.1

    def test_no_level_when_it_is_turned_off(self, slides: list[SlideArrays]) -> None:
        space = fit_shared_space(slides, LAYOUT, SharedSpaceConfig(components=4, image_level=False))
        level = space.slide_level(make_slide(seed=9, shift=5).features)
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


def test_every_slide_lends_its_share_of_spots() -> None:
    slides = [make_slide("A", n=100), make_slide("B", n=40), make_slide("C", n=9)]
    rows = sampled_rows(slides, 50, seed=0)
    assert [len(part) for part in rows] == [34, 14, 4]
    assert all(np.array_equal(part, np.unique(part)) for part in rows)
    assert [len(part) for part in sampled_rows(slides, 1000, seed=0)] == [100, 40, 9]
