"""The shared space: embeddings, and the state that rebuilds it."""

import numpy as np
import pytest
from worlds import STAINED_GENES, square_um, stained_arrays

from mclstexp.errors import FormatError, MismatchError
from mclstexp.model.space.adjust import coordinates
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
