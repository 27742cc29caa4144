"""A reference in memory: searched exactly, ties cut as the store cuts them, an even sample where it is large."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import NOISY_LAYOUT, NOISY_PANEL, memory_reference, noisy_arrays, unit

from mclstexp.config import Normalisation, SharedSpaceConfig
from mclstexp.errors import MismatchError
from mclstexp.model.space.base import fused_keys
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.predict import memory
from mclstexp.predict.memory import MemoryReference, embed_patches
from mclstexp.sampling import evenly


def of_keys(keys: np.ndarray) -> MemoryReference:
    """Return a reference with these keys, all on one slide."""
    world = memory_reference((len(keys), 1))
    rows = slice(0, len(keys))
    return dataclasses.replace(
        world,
        embedding=keys.astype(np.float32),
        values=world.values[rows],
        owner=world.owner[rows],
        counts=world.counts[rows],
    )


def brute_force(keys: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None) -> np.ndarray:
    """The oracle: every pair, sorted by similarity and then by id; -1 where there are no more."""
    answers = []
    for one in query:
        usable = [i for i in range(len(keys)) if allowed is None or allowed[i]]
        nearest = sorted(usable, key=lambda i: (-float(one.astype(float) @ keys[i].astype(float)), i))[:k]
        answers.append(nearest + [-1] * (k - len(nearest)))
    return np.array(answers).reshape(len(query), k)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 90), k=st.integers(1, 100), share=st.sampled_from([None, 0.0, 0.3, 1.0]), seed=st.integers(0, 999)
)
def test_ties_are_cut_by_id_however_many_there_are(n: int, k: int, share: float | None, seed: int) -> None:
    """Keys are axes and queries halves of them, so that products are exact and nearly all are ties."""
    rng = np.random.default_rng(seed)
    axes = np.concatenate([np.eye(4), -np.eye(4)])
    keys = axes[rng.integers(0, 8, n)]
    query = np.concatenate([rng.choice([-0.5, 0.5], (5, 4)), axes[rng.integers(0, 8, 2)]]).astype(np.float32)
    allowed = None if share is None else rng.random(n) < share
    neighbours = of_keys(keys).search(query, k, allowed=allowed)
    expected = brute_force(keys, query, k, allowed)
    np.testing.assert_array_equal(neighbours.ids, expected)
    scores = np.where(expected >= 0, np.einsum("qd,qkd->qk", query, keys[expected]), 0)
    np.testing.assert_array_equal(neighbours.similarity, scores)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 120), k=st.integers(1, 40), repeated=st.booleans(), seed=st.integers(0, 999))
def test_search_equals_brute_force(n: int, k: int, repeated: bool, seed: int) -> None:
    keys = unit((n, 12), seed)
    if repeated:
        keys = keys[np.random.default_rng(seed).integers(0, max(1, n // 8), n)]
    query = unit((9, 12), seed + 1)
    allowed = np.random.default_rng(seed).random(n) < 0.7
    for mask in (None, allowed):
        neighbours, expected = of_keys(keys).search(query, k, allowed=mask), brute_force(keys, query, k, mask)
        same = neighbours.ids == expected
        true = np.einsum("qd,qkd->qk", query.astype(float), keys[expected].astype(float))
        ours = np.einsum("qd,qkd->qk", query.astype(float), keys[neighbours.ids].astype(float))
        # Only what float32 cannot tell apart may be in another order.
        np.testing.assert_allclose(np.where(same, 0, ours - true), 0, atol=2e-7)
        assert same.mean() > 0.99 or n < 10
        np.testing.assert_allclose(neighbours.similarity, np.where(neighbours.ids >= 0, ours, 0), atol=1e-6)


def test_more_spots_than_a_block_tie_at_the_cut() -> None:
    keys = np.repeat(unit((3, 8)), 400, axis=0)
    neighbours = of_keys(keys).search(keys[::400].astype(np.float32), 50)
    np.testing.assert_array_equal(neighbours.ids, [np.arange(50), 400 + np.arange(50), 800 + np.arange(50)])


def test_a_query_s_answer_does_not_depend_on_its_company() -> None:
    reference, query = memory_reference((400, 100, 30)), unit((600, 8), 7)
    whole = reference.search(query, 25)
    for rows in (slice(0, 1), slice(250, 270), slice(599, 600)):
        part = reference.search(query[rows], 25)
        np.testing.assert_array_equal(part.ids, whole.ids[rows])
        np.testing.assert_array_equal(part.similarity, whole.similarity[rows])


def test_what_is_said_of_a_neighbour_that_is_not_there() -> None:
    reference, ids = memory_reference(), np.array([[0, -1], [91, 30]])
    assert np.isnan(reference.keys(ids)[0, 1]).all()
    assert np.isfinite(reference.keys(ids)[[0, 1, 1], [0, 0, 1]]).all()
    assert reference.slide_of(ids).tolist() == [[0, -1], [2, 1]]
    assert reference.depth(ids)[0, 1] == 0
    np.testing.assert_array_equal(reference.depth(ids)[1], reference.counts[[91, 30]])
    assert np.isfinite(reference.embedding).all(), "asking changes nothing"


def test_blocks_of_expression_cover_the_question_once() -> None:
    reference = memory_reference((300, 40))
    ids = np.random.default_rng(0).integers(-1, 340, (600, 3))
    seen = np.zeros(600, dtype=int)
    for block in reference.expression(ids, reference.panel, reference.rule):
        seen[block.queries] += 1
        present = ids[block.queries] >= 0
        np.testing.assert_array_equal(block.values[block.rows][present], reference.values[ids[block.queries]][present])
    assert (seen == 1).all()


def test_only_its_own_genes_and_scale_are_known() -> None:
    reference, ids = memory_reference(), np.zeros((1, 1), np.int64)
    for genes, rule in (
        (reference.panel.subset([0, 1]), reference.rule),
        (reference.panel, Normalisation(target_sum=1e6)),
    ):
        with pytest.raises(MismatchError, match="its panel alone, on its own scale"):
            next(reference.expression(ids, genes, rule))


def test_typical_depths() -> None:
    reference = memory_reference()
    typical = reference.depth_summary
    assert typical.median == np.median(reference.counts)
    assert typical.of_slide.tolist() == [np.median(reference.counts[reference.owner == i]) for i in range(3)]


# Encoding slides.


@pytest.fixture(scope="module")
def slides():
    slides = noisy_arrays(3, n_spots=40)
    slides[1].measured[4] = False
    return [dataclasses.replace(slide, depth=np.arange(40.0) + 100 * i) for i, slide in enumerate(slides)]


@pytest.fixture(scope="module")
def space(slides):
    return fit_shared_space(slides, NOISY_LAYOUT, SharedSpaceConfig(context_um=0.0))


def build(slides, space) -> MemoryReference:
    return MemoryReference.of(slides, space, 0.5, NOISY_PANEL, Normalisation())


def test_every_spot_has_its_key_its_expression_and_its_depth(slides, space) -> None:
    reference = build(slides, space)
    assert reference.n_spots == 120
    for number, slide in enumerate(slides):
        rows = reference.spots_of(number)
        spot = space.on_sphere(space.spot_components(slide.expression, slide.measured))
        np.testing.assert_array_equal(reference.embedding[rows], fused_keys(spot, embed_patches(space, slide), 0.5))
        expected = np.where(slide.measured, slide.expression, 0).astype(np.float16)
        np.testing.assert_array_equal(reference.values[rows], expected)
        np.testing.assert_array_equal(reference.counts[rows], slide.depth)
    np.testing.assert_array_equal(reference.measured(NOISY_PANEL), [slide.measured for slide in slides])


def test_the_order_of_slides_does_not_matter(slides, space) -> None:
    one, other = build(slides, space), build(slides[::-1], space)
    for field in ("embedding", "values", "owner", "known", "counts"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_of_large_slides_an_even_sample_is_kept(slides, space, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(slides, space)
    monkeypatch.setattr(memory, "MAX_KEYS", 33)
    few = build(slides, space)
    rows = np.concatenate([40 * i + evenly(40, 11) for i in range(3)])
    assert few.n_spots == 33
    for field in ("embedding", "values", "owner", "counts"):
        np.testing.assert_array_equal(getattr(few, field), getattr(whole, field)[rows])


def test_where_depth_is_not_known_all_count_alike(slides, space) -> None:
    unknown = [dataclasses.replace(slide, depth=None) for slide in slides]
    assert (build(unknown, space).counts == 1).all()
