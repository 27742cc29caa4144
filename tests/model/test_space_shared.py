"""The shared space: embeddings, and the state that rebuilds it."""

import dataclasses

import numpy as np
import pytest
from worlds import STAINED_GENES, square_um, stained_arrays

from mclstexp.errors import FormatError, MismatchError
from mclstexp.model.model import Model
from mclstexp.model.space.adjust import coordinates
from mclstexp.model.space.linear import LinearMap
from mclstexp.model.space.shared import SharedSpace

ALL_GENES = np.ones(STAINED_GENES, dtype=bool)


class TestEmbeddings:
    def test_unit_float32_and_finite(self, space: SharedSpace) -> None:
        query = stained_arrays(seed=7)
        for vectors in (
            space.on_sphere(space.image_components(query.features, query.xy_um)),
            space.on_sphere(space.spot_components(query.expression, ALL_GENES)),
        ):
            assert vectors.dtype == np.float32
            assert vectors.shape == (120, space.embed_dim)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)

    def test_stain_and_level_of_a_slide_do_not_decide(self, space: SharedSpace) -> None:
        query = stained_arrays(seed=7, n=400)
        plain = space.image_components(query.features, query.xy_um)
        stained = space.image_components(query.features + 10, query.xy_um)
        own = plain.std(axis=0)[:2]
        assert (np.abs(stained - plain).mean(axis=0)[:2] < own).all()
        assert np.corrcoef(stained[:, 0], plain[:, 0])[0, 1] > 0.999

    def test_a_single_patch_has_an_embedding(self, space: SharedSpace) -> None:
        query = stained_arrays(seed=7)
        vector = space.on_sphere(space.image_components(query.features[:1], query.xy_um[:1]))
        assert vector.shape == (1, space.embed_dim)
        assert np.isfinite(vector).all()

    def test_an_unfamiliar_slide_is_kept_within_what_was_seen(self, space: SharedSpace) -> None:
        query = stained_arrays(seed=7)
        wild = space.image_components(50 * query.features, query.xy_um)
        assert (wild.std(axis=0) <= 1.05 * space.amplitude).all()

    def test_unmeasured_genes_are_unknown_not_zero(self, space: SharedSpace) -> None:
        query = stained_arrays(seed=7, noise=0.01)
        measured = np.arange(STAINED_GENES) % 3 != 0
        part = space.spot_components(np.where(measured, query.expression, 0), measured)
        whole = space.spot_components(query.expression, ALL_GENES)
        assert np.corrcoef(part[:, 0], whole[:, 0])[0, 1] > 0.9
        nothing = space.spot_components(query.expression, np.zeros(STAINED_GENES, dtype=bool))
        np.testing.assert_array_equal(nothing, 0)

    def test_other_feature_length_is_refused(self, space: SharedSpace) -> None:
        with pytest.raises(MismatchError, match="trained on 32"):
            space.image_components(np.zeros((4, 5), dtype=np.float32), square_um(4))

    def test_coordinates_undo_the_sphere(self, space: SharedSpace) -> None:
        components = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
        back = coordinates(space.on_sphere(components), space.config.radius)
        np.testing.assert_allclose(back, components * space.gain, rtol=1e-3, atol=1e-5)

    def test_state_rebuilds_the_space_and_a_gap_is_named(self, space: SharedSpace) -> None:
        arrays, facts = space.state()
        query = stained_arrays(seed=7)
        again = SharedSpace.from_state(arrays, facts)
        np.testing.assert_array_equal(
            space.image_components(query.features, query.xy_um), again.image_components(query.features, query.xy_um)
        )
        assert (again.config, again.report) == (space.config, space.report)
        with pytest.raises(FormatError, match=r"shared\.gain"):
            SharedSpace.from_state({k: v for k, v in arrays.items() if k != "shared.gain"}, facts)


class TestBlend:
    """`Space.blend`, as the predictor calls it."""

    def with_map(self, space: SharedSpace) -> SharedSpace:
        rng = np.random.default_rng(1)
        weights = rng.normal(size=(len(space.feature_mean), STAINED_GENES)).astype(np.float32)
        offset = np.arange(STAINED_GENES, dtype=np.float32)
        weights[:, 5], offset[5] = np.nan, np.nan
        wide = np.array([[-np.inf], [np.inf]], np.float32) * np.ones(STAINED_GENES, np.float32)
        return dataclasses.replace(space, linear=LinearMap.of(weights, offset, wide))

    def test_a_share_of_each_gene_that_the_map_knows(self, space: SharedSpace) -> None:
        query, both = stained_arrays(seed=8), self.with_map(space)
        mean = np.random.default_rng(0).uniform(1, 2, (120, 4)).astype(np.float32)
        columns = np.array([7, -1, 0, 5])
        told = both.linear(query.features - space.feature_mean)
        mixed = both.blend(mean, columns, query.features, share=0.25)
        for place, gene in ((0, 7), (2, 0)):
            np.testing.assert_allclose(mixed[:, place], 0.75 * mean[:, place] + 0.25 * told[:, gene], rtol=1e-5)
        np.testing.assert_array_equal(mixed[:, [1, 3]], mean[:, [1, 3]])  # outside the panel; without a fit
        whole = both.blend(mean, columns, query.features, share=1.0)
        np.testing.assert_allclose(whole[:, 0], told[:, 7], rtol=1e-5)

    def test_without_a_share_or_a_map_nothing_happens(self, space: SharedSpace) -> None:
        mean, columns = np.ones((120, 1), np.float32), np.array([0])
        features = stained_arrays(seed=8).features
        assert space.blend(mean, columns, features, share=0.5) is mean
        assert self.with_map(space).blend(mean, columns, features, share=0.0) is mean

    def test_it_is_saved_with_the_space(self, space: SharedSpace) -> None:
        both = self.with_map(space)
        again = SharedSpace.from_state(*both.state())
        features = stained_arrays(seed=8).features
        np.testing.assert_array_equal(again.linear(features), both.linear(features))
        assert SharedSpace.from_state(*space.state()).linear is None


class TestCorrect:
    """`Space.correct` and `Space.level`, as the predictor calls them."""

    def ask(self, space: SharedSpace, n: int = 5, k: int = 7) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(3)
        near, query = rng.normal(size=(n, k, 4)), rng.normal(size=(n, 4))
        return {
            "expression": rng.uniform(5, 9, (n, STAINED_GENES)).astype(np.float32),
            "columns": np.arange(STAINED_GENES),
            "query": space.on_sphere(query.astype(np.float32)),
            "keys": np.stack([space.on_sphere(one.astype(np.float32)) for one in near]),
            "weights": rng.dirichlet(np.ones(k), n).astype(np.float32),
        }

    def test_each_gene_moves_by_its_slope_and_strangers_stay(self, space: SharedSpace) -> None:
        asked = self.ask(space)
        moved = space.correct(**asked, strength=1.0)
        radius, slope = space.config.radius, space.expression_per_coordinate()
        for i in range(len(moved)):
            centre = sum(
                w * coordinates(key, radius) for w, key in zip(asked["weights"][i], asked["keys"][i], strict=True)
            )
            step = (coordinates(asked["query"][i], radius) - centre) @ slope
            np.testing.assert_allclose(moved[i], asked["expression"][i] + step, rtol=1e-4, atol=1e-4)
        some = np.array([3, -1, 0])
        part = space.correct(**{**asked, "columns": some, "expression": asked["expression"][:, :3]}, strength=1.0)
        np.testing.assert_array_equal(part[:, 1], asked["expression"][:, 1])
        shift = moved - asked["expression"]
        np.testing.assert_allclose(part[:, 0], asked["expression"][:, 0] + shift[:, 3], atol=1e-5)
        np.testing.assert_allclose(part[:, 2], asked["expression"][:, 2] + shift[:, 0], atol=1e-5)

    def test_strength_is_linear_and_none_is_none(self, space: SharedSpace) -> None:
        asked = self.ask(space)
        before = asked["expression"]
        whole, half = (space.correct(**asked, strength=strength) - before for strength in (1.0, 0.5))
        np.testing.assert_allclose(whole, 2 * half, atol=1e-4)
        np.testing.assert_array_equal(space.correct(**asked, strength=0.0), before)

    def test_a_neighbour_that_is_not_there_does_not_count(self, space: SharedSpace) -> None:
        asked = self.ask(space)
        padded = {
            **asked,
            "keys": np.concatenate([asked["keys"], np.full((5, 2, space.embed_dim), np.nan, np.float32)], axis=1),
            "weights": np.concatenate([asked["weights"], np.zeros((5, 2), np.float32)], axis=1),
        }
        np.testing.assert_allclose(
            space.correct(**padded, strength=1.0), space.correct(**asked, strength=1.0), atol=1e-5
        )

    def test_the_level_is_the_image_s_for_the_panel_and_the_neighbours_outside(self, space: SharedSpace) -> None:
        query = stained_arrays(seed=8, shift=1.0)
        mean = np.random.default_rng(0).uniform(20, 22, (len(query.features), 3)).astype(np.float32)
        columns, common = np.array([4, -1, 2]), np.array([30.0, 31.0, np.nan], np.float32)
        own, spread = space.level(mean, columns, common, query.features, own_scale=True)
        told, error = space.slide_level(query.features)
        wanted = np.array([told[4], common[1], told[2]])
        np.testing.assert_array_equal(spread, [error[4], 0, error[2]])
        n, trust = len(mean), space.config.shrink_spots
        before = mean.mean(axis=0)
        np.testing.assert_allclose(own.mean(axis=0), before + (wanted - before) * n / (n + trust), rtol=1e-4)
        other, unknown = space.level(mean, columns, common, query.features, own_scale=False)
        np.testing.assert_array_equal(unknown, 0)
        np.testing.assert_allclose(other[:, 2], mean[:, 2], rtol=1e-6)  # nothing is known of its level
        np.testing.assert_allclose(
            other[:, :2].mean(axis=0), before[:2] + (common - before)[:2] * n / (n + trust), rtol=1e-4
        )


def test_the_network_neither_corrects_nor_levels(paper_model: Model) -> None:
    space, mean = paper_model.space, np.ones((2, 3), np.float32)
    assert not space.tells_level
    columns, keys = np.arange(3), np.zeros((2, 4, 16), np.float32)
    weights = np.full((2, 4), 0.25, np.float32)
    assert space.correct(mean, columns, keys[:, 0], keys, weights, strength=1.0) is mean
    levelled, spread = space.level(mean, columns, 7 * mean[0], mean, own_scale=True)
    assert levelled is mean
    np.testing.assert_array_equal(spread, 0)
    assert space.blend(mean, columns, mean, share=1.0) is mean
