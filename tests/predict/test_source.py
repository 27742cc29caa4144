"""Neighbours as every source gives them, and similarities that do not depend on their company."""

import numpy as np
from worlds import unit

from mclstexp.predict.source import Neighbours, pair_similarity

SOME = Neighbours(np.array([[4, 2, -1], [-1, -1, -1]]), np.array([[0.9, 0.5, 0], [0, 0, 0]], np.float32))


def test_the_mean_similarity_is_over_neighbours_that_are_there() -> None:
    np.testing.assert_allclose(SOME.mean_similarity(), [0.7, -1.0])
    np.testing.assert_allclose(SOME.first(1).mean_similarity(), [0.9, -1.0])
    assert SOME.first(1).ids.tolist() == [[4], [-1]]


def test_padding_adds_nobody() -> None:
    padded = SOME.padded(5)
    assert padded.ids.tolist() == [[4, 2, -1, -1, -1], [-1] * 5]
    assert padded.similarity.dtype == np.float32
    np.testing.assert_array_equal(padded.mean_similarity(), SOME.mean_similarity())
    assert SOME.padded(2).ids.tolist() == SOME.ids.tolist()


def test_a_pair_s_similarity_has_the_same_bits_in_any_company() -> None:
    keys, query = unit((500, 33)), unit((40, 33), 1)
    ids = np.random.default_rng(2).integers(0, 500, (40, 700))
    whole = pair_similarity(query, lambda asked: keys[asked], ids)
    np.testing.assert_allclose(whole, np.einsum("qd,qkd->qk", query.astype(float), keys[ids].astype(float)), atol=1e-6)
    for rows, columns in ((slice(3, 4), slice(None)), (slice(None), slice(5, 6)), (slice(7, 20), slice(100, 333))):
        part = pair_similarity(query[rows], lambda asked: keys[asked], ids[rows, columns])
        np.testing.assert_array_equal(part, whole[rows, columns])


def test_a_similarity_is_never_beyond_one() -> None:
    keys = unit((200, 7))
    own = pair_similarity(keys, lambda asked: keys[asked], np.arange(200)[:, None])
    assert own.max() <= 1.0
    np.testing.assert_allclose(own, 1.0, atol=1e-6)
