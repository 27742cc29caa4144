"""What is held out together, and what counts how much."""

import dataclasses

import numpy as np
import pytest
from worlds import STAINED_GENES, STAINED_LAYOUT, stained_arrays

from mclstexp.config import SharedSpaceConfig
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays, folds, sampled_rows, spot_weights

ALL_GENES = np.ones(STAINED_GENES, dtype=bool)


class TestFoldsAndWeights:
    def test_patients_are_held_out_from_four_on(self) -> None:
        few = [stained_arrays(f"{p}{i}", p, n=9) for p in "ABC" for i in range(2)]
        kind, spread = folds(few)
        assert (kind, len({int(f[0]) for f in spread})) == ("slide", 6)
        kind, spread = folds([*few, stained_arrays("D1", "D", n=9)])
        assert kind == "patient"
        assert spread[0][0] == spread[1][0] != spread[2][0]

    def test_many_patients_share_folds_evenly(self) -> None:
        kind, spread = folds([stained_arrays(f"P{i}", f"P{i}", n=10) for i in range(24)])
        assert kind == "patient"
        assert np.bincount([int(f[0]) for f in spread]).tolist() == [3] * 8

    def test_shallow_spots_and_slides_count_less(self) -> None:
        deep, shallow = stained_arrays("A1", n=10), stained_arrays("B1", "B", n=10)
        shallow = dataclasses.replace(shallow, depth=np.r_[np.full(9, 100.0), 0.0])
        for_deep, for_shallow = spot_weights([deep, stained_arrays("A2", n=10), shallow])[::2]
        assert for_deep == pytest.approx(0.5)
        assert for_shallow[0] == pytest.approx(100 / 1100 * 0.1)
        assert for_shallow[-1] == 0

    def test_unknown_depth_weighs_like_a_typical_spot(self) -> None:
        unknown = dataclasses.replace(stained_arrays("A2"), depth=None)
        assert spot_weights([stained_arrays("A1"), unknown])[1] == pytest.approx(0.5)
        assert spot_weights([unknown])[0] == pytest.approx(1.0)

    def test_a_coarse_patient_does_not_spoil_a_deep_one(self, slides: list[SlideArrays]) -> None:
        rng = np.random.default_rng(5)
        coarse = stained_arrays("B1", "B", n=300, seed=50)
        rubbish = (coarse.expression + 30 * rng.normal(size=coarse.expression.shape)).astype(np.float32)
        coarse = dataclasses.replace(coarse, expression=rubbish, depth=np.full(300, 20.0))
        query = stained_arrays("A9", seed=9)
        mixed = fit_shared_space([*slides, coarse], STAINED_LAYOUT, SharedSpaceConfig(components=2))
        image, spot = (
            mixed.image_components(query.features, query.xy_um),
            mixed.spot_components(query.expression, ALL_GENES),
        )
        assert min(np.corrcoef(image[:, c], spot[:, c])[0, 1] for c in range(2)) > 0.85


def test_the_last_layer_beside_stages_counts_nothing() -> None:
    layout = FeatureLayout((2, 4, 1), 2, ("a.stage0", "a.last", "b#2.stage0"))
    assert layout.column_weights().tolist() == [0.5, 0.5, 0, 0, 0, 0, 1] * 2
    assert FeatureLayout((2, 4, 1), 2).column_weights().tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 1] * 2
    assert FeatureLayout((2, 1), names=("a.last", "b.last")).column_weights().tolist() == [0.5, 0.5, 1]


def test_every_slide_lends_its_share_of_spots() -> None:
    slides = [stained_arrays("A", n=100), stained_arrays("B", n=40), stained_arrays("C", n=9)]
    rows = sampled_rows(slides, 50, seed=0)
    assert [len(part) for part in rows] == [34, 14, 4]
    assert all(np.array_equal(part, np.unique(part)) for part in rows)
    assert [len(part) for part in sampled_rows(slides, 1000, seed=0)] == [100, 40, 9]
