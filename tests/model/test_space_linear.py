"""The linear map in few directions."""

import numpy as np
import pytest

from mclstexp.model.space import linear as module
from mclstexp.model.space.linear import LinearMap

RNG = np.random.default_rng(0)
WEIGHTS, OFFSET = RNG.normal(size=(9, 6)).astype(np.float32), RNG.normal(size=6).astype(np.float32)
WIDE = np.array([[-np.inf], [np.inf]], np.float32) * np.ones(6, np.float32)
FEATURES = RNG.normal(size=(40, 9)).astype(np.float32)


def test_with_room_enough_it_is_the_map() -> None:
    told = LinearMap.of(WEIGHTS, OFFSET, WIDE)(FEATURES)
    assert told.dtype == np.float32
    np.testing.assert_allclose(told, FEATURES @ WEIGHTS + OFFSET, atol=1e-4)


def test_of_more_directions_the_main_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RANK", 2)
    kept = LinearMap.of(WEIGHTS, OFFSET, WIDE)
    left, size, right = np.linalg.svd(WEIGHTS, full_matrices=False)
    assert kept.own.shape == (9, 2)
    np.testing.assert_allclose(kept.own @ kept.out, (left[:, :2] * size[:2]) @ right[:2], atol=1e-5)


def test_nothing_leaves_the_bounds_and_the_unknown_stays_unknown() -> None:
    weights, offset = WEIGHTS.copy(), OFFSET.copy()
    weights[:, 2], offset[2] = np.nan, np.nan
    bounds = np.stack([np.full(6, -0.5), np.full(6, 0.5)]).astype(np.float32)
    told = LinearMap.of(weights, offset, bounds)(FEATURES)
    assert np.isnan(told[:, 2]).all()
    others = np.delete(told, 2, axis=1)
    plain = np.delete(FEATURES @ WEIGHTS + OFFSET, 2, axis=1)
    np.testing.assert_allclose(others, np.clip(plain, -0.5, 0.5), atol=1e-4)


def test_its_arrays_rebuild_it() -> None:
    made = LinearMap.of(WEIGHTS, OFFSET, WIDE)
    state = made.state()
    again = LinearMap(**{name.removeprefix("linear."): array for name, array in state.items()})
    np.testing.assert_array_equal(again(FEATURES), made(FEATURES))
