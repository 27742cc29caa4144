"""Features that are added up as they come answer as those that are held, and hold nothing of their size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import tiny_config

from mclstexp.model import model as module
from mclstexp.model.linear_features import HeldFeatures, Plan, SummedFeatures, held
from mclstexp.model.model import Model
from mclstexp.slide import Slide
from mclstexp.train import train


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), width=st.integers(1, 30), step=st.integers(1, 9), seed=st.integers(0, 99))
def test_what_is_added_up_is_what_is_held(n: int, width: int, step: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(3, 1, (n, width)).astype(np.float32)
    origin, mean, scale, other = rng.normal(3, 1, (4, width)).astype(np.float32)
    weights = tuple(rng.normal(0, 1, (width, k)).astype(np.float32) for k in (1, 3))
    summed, whole = SummedFeatures(n, Plan(origin, weights, mean, scale)), HeldFeatures(values)
    for start in range(0, width, step):
        order = rng.permutation(n)
        for spots in np.array_split(order, min(n, 3)):
            summed.add(spots, start, values[spots, start : start + step])
    assert (len(summed), summed.width) == (len(whole), whole.width)
    np.testing.assert_allclose(summed.sums(), whole.sums(), rtol=1e-6)
    np.testing.assert_allclose(summed.lengths(mean, scale), whole.lengths(mean, scale), rtol=1e-4, atol=1e-4)
    for one in weights:
        for centre in (origin, other):
            np.testing.assert_allclose(summed.product(centre, one), whole.product(centre, one), atol=1e-3)


def test_what_was_not_planned_is_refused() -> None:
    summed = SummedFeatures(2, Plan(np.zeros(3, np.float32), (np.ones((3, 1), np.float32),)))
    with pytest.raises(KeyError, match="not planned"):
        summed.product(np.zeros(3, np.float32), np.ones((3, 1), np.float32))
    with pytest.raises(KeyError, match="not planned"):
        summed.lengths(np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(TypeError, match="not held"):
        held(summed)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features, weights = HeldFeatures(rng.random((50, 40), np.float32)), rng.random((40, 3), np.float32)
    whole = features.product(np.zeros(40, np.float32), weights)
    monkeypatch.setattr("mclstexp.model.linear_features.BLOCK_BYTES", 4 * 40 * 7)
    np.testing.assert_allclose(features.product(np.zeros(40, np.float32), weights), whole, rtol=1e-6)
    assert HeldFeatures(np.zeros((0, 40), np.float32)).product(np.zeros(40, np.float32), weights).shape == (0, 3)


@pytest.fixture(scope="module")
def dense(cohort: list[Slide]) -> Model:
    """A model whose encoder takes the tissue tile by tile."""
    recipe = tiny_config(encoder__dense=True, encoder__views=1)
    return train(cohort[:3], recipe=recipe, encoder_weights="random", device="cpu", cache=False)


def test_a_slide_of_too_many_spots_is_embedded_alike(
    dense: Model, cohort: list[Slide], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedding, familiarity and level: from features that are held, and from what is asked of them alone."""
    slide, known = cohort[0], dense.calibration
    assert known is not None
    whole = dense.seen(slide)
    monkeypatch.setattr(module, "HELD_BYTES", 0)
    summed = dense.seen(slide)
    assert isinstance(summed, SummedFeatures)
    for one, other in (
        (dense.space.embed_images(summed, slide), dense.space.embed_images(whole, slide)),
        (known.distance(summed), known.distance(whole)),
        (dense.keys(slide).embedding, dense.keys(slide).embedding),
    ):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4)
    mean = np.ones((len(slide), len(dense.panel)), np.float32)
    columns = np.arange(len(dense.panel))
    levels = [dense.space.level(mean, columns, mean[0], features, own_scale=True)[0] for features in (whole, summed)]
    np.testing.assert_allclose(levels[1], levels[0], rtol=1e-3, atol=1e-4)
    blends = [dense.space.blend(mean, columns, features, share=0.5) for features in (whole, summed)]
    np.testing.assert_allclose(blends[1], blends[0], rtol=1e-3, atol=1e-3)
