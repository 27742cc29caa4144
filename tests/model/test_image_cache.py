"""The cache of image features: by patch, bounded, and never believed when damaged."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mclstexp.model.image.cache import DEFAULT_LIMIT, FeatureCache, feature_cache
from mclstexp.types import FloatArray

FIELD, OTHER = "ab" + "0" * 62, "cd" + "1" * 62
SIDE = 4


def features_of(xy: np.ndarray) -> FloatArray:
    """Features that say which patch they are of."""
    return np.stack([xy[:, 0], xy[:, 1], xy.sum(axis=1)], axis=1).astype(np.float32)


def points(numbers: list[int]) -> np.ndarray:
    return np.array([divmod(number, SIDE) for number in numbers], dtype=np.float64).reshape(-1, 2) + 0.25


def load(cache: FeatureCache, field: str, xy: np.ndarray) -> tuple[FloatArray, np.ndarray]:
    out = np.full((len(xy), 3), np.nan, dtype=np.float32)
    return out, cache.load(field, xy, out)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 15), max_size=6), max_size=4), st.lists(st.integers(0, 15), max_size=8))
def test_any_subset_finds_what_others_left(
    tmp_path_factory: pytest.TempPathFactory, stored: list[list[int]], wanted: list[int]
) -> None:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"))
    for numbers in stored:
        cache.store(FIELD, points(numbers), features_of(points(numbers)))
    xy = points(wanted)
    expected = np.array([number in {n for numbers in stored for n in numbers} for number in wanted], dtype=bool)
    assert np.array_equal(cache.holds(FIELD, xy), expected)
    out, filled = load(cache, FIELD, xy)
    assert np.array_equal(filled, expected)
    assert np.array_equal(out[filled], features_of(xy)[filled])
    assert np.isnan(out[~filled]).all()
    assert not cache.holds(OTHER, xy).any()


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, harm: str) -> None:
    cache, xy = FeatureCache(tmp_path), points([1, 2, 3])
    cache.store(FIELD, xy, features_of(xy))
    (file,) = tmp_path.rglob("*.safetensors")
    data = file.read_bytes()
    flipped = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
    file.write_bytes({"cut": data[:-5], "flip": flipped, "empty": b"", "text": b"rubbish " * 20}[harm])
    out, filled = load(cache, FIELD, xy)
    assert not filled.any()
    assert np.isnan(out).all()
    cache.store(FIELD, xy, features_of(xy))
    assert load(cache, FIELD, xy)[1].all()


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    """Each saw an empty cache; what both wrote, and what one wrote, is there afterwards."""
    first, second = FeatureCache(tmp_path), FeatureCache(tmp_path)
    for cache, numbers in ((first, [0, 1, 2]), (second, [2, 3]), (first, [2, 3])):
        cache.store(FIELD, points(numbers), features_of(points(numbers)))
    assert load(first, FIELD, points([0, 1, 2, 3]))[1].all()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2, "the same patches are kept once"


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mclstexp")
    cache = FeatureCache(tmp_path)
    fields = [f"{place:02d}" + "e" * 62 for place in range(4)]
    for age, field in enumerate(reversed(fields)):
        cache.store(field, points([1]), features_of(points([1])))
        (file,) = (tmp_path / "features" / field[:2]).rglob("*.safetensors")
        os.utime(file, (1000 - age, 1000 - age))  # the last field is the youngest
    n_bytes = cache.use().n_bytes // 4
    assert load(cache, fields[0], points([1]))[1].all(), "reading counts as use"
    cache.set_limit(2 * n_bytes)
    assert [bool(cache.holds(field, points([1])).all()) for field in fields] == [True, False, False, True]
    assert "mst cache --limit" in caplog.text
    assert feature_cache(tmp_path).limit == 2 * n_bytes
    (tmp_path / "cache.json").write_text("[")
    assert cache.limit == DEFAULT_LIMIT
    assert cache.shrink() == 0


def test_clearing_leaves_what_is_not_the_cache_s(tmp_path: Path) -> None:
    cache, xy = FeatureCache(tmp_path), points([1])
    cache.store(FIELD, xy, features_of(xy), {"encoder": "resnet", "image": "a.tif"})
    cache.store(OTHER, xy, features_of(xy), {"encoder": "resnet", "image": "b.tif"})
    mine = tmp_path / "features" / "thesis.safetensors"
    mine.write_bytes(b"not yours")
    (row,) = cache.use().fields
    assert {key: row[key] for key in ("encoder", "slides", "patches")} == {
        "encoder": "resnet",
        "slides": 2,
        "patches": 2,
    }
    assert cache.clear() == row["bytes"]
    assert cache.use().fields == ()
    assert mine.read_bytes() == b"not yours"
