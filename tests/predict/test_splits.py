"""What trains and what is held out, and bounded parts of large training sets."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import stained_arrays

from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict.splits import LEAST, MAX_FOLDS, MAX_SLIDES, excerpts, splits, take


def numbered(n: int, name: str = "S", patient: str = "P", *, seed: int = 0, side: float = 2000) -> SlideArrays:
    """A slide whose features are the spots' numbers, so that it shows which were kept."""
    rng = np.random.default_rng((seed, n))
    number = np.arange(n, dtype=np.float32)[:, None]
    measured = np.ones(1, dtype=bool)
    return SlideArrays(name, patient, number, 10 * number, measured, rng.uniform(0, side, (n, 2)), number[:, 0] + 1.0)


class TestExcerpts:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(10, 1500), st.integers(0, 50))
    def test_bounded_and_of_each_slide_the_spots_around_one(self, sizes: list[int], bound: int, seed: int) -> None:
        slides = [numbered(size, f"S{i}", f"P{i % 3}", seed=seed) for i, size in enumerate(sizes)]
        parts = excerpts(slides, max_spots=bound, seed=seed)
        kept = [len(part.features) for part in parts]
        assert sum(kept) <= max(bound, sum(min(size, LEAST) for size in sizes))
        assert [part.slide_id for part in parts] == [slide.slide_id for slide in slides]
        for slide, part in zip(slides, parts, strict=True):
            rows = part.features[:, 0].astype(int)
            assert len(rows) >= min(len(slide.features), LEAST)
            np.testing.assert_array_equal(part.expression[:, 0], 10.0 * rows)
            np.testing.assert_array_equal(part.depth, rows + 1)
            np.testing.assert_array_equal(part.xy_um, slide.xy_um[rows])
            assert any(self.is_nearest(slide.xy_um, middle, rows) for middle in range(len(slide.features)))

    def is_nearest(self, xy: np.ndarray, middle: int, rows: np.ndarray) -> bool:
        distance = np.linalg.norm(xy - xy[middle], axis=1)
        others = np.delete(distance, rows)
        return not len(others) or distance[rows].max() <= others.min()

    def test_what_fits_is_left_as_it_is(self) -> None:
        slides = [numbered(50, "A"), numbered(60, "B")]
        assert all(one is other for one, other in zip(excerpts(slides, max_spots=110), slides, strict=True))

    def test_small_slides_stay_whole_beside_large_ones(self) -> None:
        parts = excerpts([numbered(50, "A"), numbered(2000, "B"), numbered(2000, "C")], max_spots=650)
        assert [len(part.features) for part in parts] == [50, 300, 300]

    def test_the_same_seed_the_same_spots(self) -> None:
        slides = [numbered(900, "A"), numbered(900, "B")]
        one, again, other = (excerpts(slides, max_spots=200, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one[0].features, again[0].features)
        assert not np.array_equal(one[0].features, other[0].features)

    @pytest.mark.parametrize("n_patients", [1, 7, 60, 100])
    def test_of_many_slides_every_patient_is_kept(self, n_patients: int) -> None:
        """A patient of many slides comes first, so that the others' single slides are easily passed over."""
        names = ["P0"] * 150 + [f"P{i}" for i in range(1, n_patients)]
        slides = [numbered(3, f"S{i}", patient) for i, patient in enumerate(names)]
        parts = excerpts(slides)
        assert len(parts) == min(len(slides), MAX_SLIDES)
        assert {part.patient for part in parts} == set(names)
        order = [slide.slide_id for slide in slides]
        assert [order.index(part.slide_id) for part in parts] == sorted(order.index(part.slide_id) for part in parts)

    def test_slides_without_a_patient_are_each_their_own(self) -> None:
        slides = [numbered(3, f"S{i}", "") for i in range(130)]
        kept = [int(part.slide_id[1:]) for part in excerpts(slides)]
        assert len(kept) == MAX_SLIDES
        assert max(np.diff(kept)) <= 2, "evenly spread over the cohort"

    def test_without_depths(self) -> None:
        parts = excerpts([dataclasses.replace(numbered(500), depth=None)], max_spots=100)
        assert len(parts[0].features) == 100
        assert parts[0].depth is None


class TestSplits:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 6)), min_size=1, max_size=14))
    def test_no_spot_is_on_both_sides_and_no_patient_either(self, made: list[tuple[int, int]]) -> None:
        slides = [numbered(size, f"S{i}", f"P{patient}") for i, (size, patient) in enumerate(made)]
        kind, divided = splits(slides)
        assert len(divided) <= MAX_FOLDS
        total = sum(size for size, _ in made)
        for split in divided:
            rest, held = (
                {(s.slide_id, n) for s in side for n in s.features[:, 0]} for side in (split.rest, split.held)
            )
            assert not rest & held
            assert len(rest) + len(held) == total
            assert held
            assert len(rest) >= 8
            if kind == "patient":
                assert not {s.patient for s in split.rest} & {s.patient for s in split.held}
            if kind == "slide":
                assert not {s.slide_id for s in split.rest} & {s.slide_id for s in split.held}

    def test_what_is_held_out_by_how_much_there_is(self) -> None:
        patients = [numbered(20, f"S{i}", f"P{i // 2}") for i in range(12)]
        for slides, wanted in ((patients, ("patient", 5)), (patients[:4], ("slide", 4)), (patients[:1], ("block", 4))):
            kind, divided = splits(slides)
            assert (kind, len(divided)) == wanted

    @pytest.mark.parametrize("n", [1, 3, 8])
    def test_too_few_spots_cannot_be_divided(self, n: int) -> None:
        assert splits([numbered(n)])[1] == []

    def test_a_division_goes_by_its_fold(self) -> None:
        for split in splits([stained_arrays(f"S{i}", f"P{i}", n=20) for i in range(4)])[1]:
            assert len(split.held) == 1
            assert len(split.rest) == 3


def test_take_keeps_rows_together() -> None:
    part = take(numbered(9), np.array([7, 2]))
    assert part.features[:, 0].tolist() == [7, 2]
    assert part.expression[:, 0].tolist() == [70, 20]
    assert part.depth.tolist() == [8, 3]
