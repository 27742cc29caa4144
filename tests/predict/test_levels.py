"""Levels: what differs between slides as a whole, against loops; and where a query's own mean comes from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import memory_reference, thinned, tiny_slides

from mclstexp.config import EncoderSpec, ModelConfig, PatchSpec, RetrievalConfig, SharedSpaceConfig
from mclstexp.index.filter import Filter
from mclstexp.index.reference import Reference
from mclstexp.model.model import Model
from mclstexp.predict import levels
from mclstexp.predict.average import AverageOptions
from mclstexp.predict.levels import LEVEL_SPOTS, slide_shift
from mclstexp.predict.memory import MemoryReference
from mclstexp.sampling import evenly
from mclstexp.slide import Slide
from mclstexp.train import train

OPTIONS = AverageOptions(memory_reference().rule, min_measured=0.25)


def loop(
    reference: MemoryReference, ids: np.ndarray, weights: np.ndarray, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: one query, one gene, one neighbour at a time."""
    n_genes = len(reference.panel)
    level_of = np.full(reference.known.shape, np.nan)
    for slide in range(len(reference.known)):
        spots = [i for i in range(reference.n_spots) if reference.owner[i] == slide and (allowed is None or allowed[i])]
        if spots:
            chosen = np.array(spots)[evenly(len(spots), levels.LEVEL_SPOTS)]
            mean = reference.values[chosen].astype(float).mean(axis=0)
            level_of[slide] = np.where(reference.known[slide], mean, np.nan)
    met = np.full((len(ids), n_genes), np.nan)
    for i in range(len(ids)):
        for g in range(n_genes):
            known = [
                (weights[i, j], level_of[reference.owner[spot], g])
                for j, spot in enumerate(ids[i])
                if spot >= 0 and np.isfinite(level_of[reference.owner[spot], g])
            ]
            if sum(w for w, _ in known) > 0:
                met[i, g] = sum(w * v for w, v in known) / sum(w for w, _ in known)
    n_known = np.isfinite(met).sum(axis=0)
    common = np.where(n_known > 0, np.nansum(met, axis=0) / np.maximum(n_known, 1), np.nan)
    return np.nan_to_num(common - met), common


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 7),
    k=st.integers(1, 8),
    spots=st.sampled_from([3, 1000]),
    filtered=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_shift_equals_the_loop(n: int, k: int, spots: int, filtered: bool, seed: int) -> None:
    """The second slide lacks five genes; with few spots a slide its level comes from an even sample."""
    reference, rng = memory_reference((14, 9, 11), seed=seed), np.random.default_rng(seed)
    allowed = None if not filtered else rng.random(34) < 0.5
    pool = np.arange(34) if allowed is None else np.flatnonzero(allowed)
    ids = rng.choice(pool, (n, k)) if len(pool) else np.full((n, k), -1)
    ids[:, k - k // 3 :] = -1
    if (ids < 0).all():
        return
    weights = np.where(ids >= 0, rng.uniform(0.1, 1, ids.shape), 0).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "LEVEL_SPOTS", spots)
        shift, level = slide_shift(reference, ids, weights, reference.panel, OPTIONS, allowed=allowed)
        expected_shift, expected_level = loop(reference, ids, weights, allowed)
    assert shift.dtype == level.dtype == np.float32
    # The level of a slide is rounded to half precision, as what it is averaged from.
    np.testing.assert_allclose(level, expected_level, atol=6e-3)
    np.testing.assert_allclose(shift, expected_shift, atol=6e-3)


def test_the_shift_takes_out_what_differs_between_slides() -> None:
    """Neighbours that are all alike but for their slide's level predict the same everywhere."""
    reference = memory_reference((40, 30, 50))
    reference.known[:] = True
    offset = np.random.default_rng(0).integers(0, 4, (3, 20)).astype(np.float16)
    reference.values[:] = 2 + offset[reference.owner]
    rng = np.random.default_rng(1)
    ids, weights = rng.integers(0, 120, (9, 12)), rng.dirichlet(np.ones(12), 9).astype(np.float32)
    mean = np.einsum("nk,nkg->ng", weights, reference.values[ids].astype(np.float32))
    shift, level = slide_shift(reference, ids, weights, reference.panel, OPTIONS)
    np.testing.assert_allclose(mean + shift, np.tile(level, (9, 1)), atol=6e-3)
    np.testing.assert_allclose(shift.mean(axis=0), 0, atol=1e-5)


def test_one_slide_alone_has_no_shift() -> None:
    reference = memory_reference()
    ids = np.random.default_rng(0).integers(0, 30, (6, 5))
    shift, level = slide_shift(reference, ids, np.full((6, 5), 0.2, np.float32), reference.panel, OPTIONS)
    np.testing.assert_allclose(shift, 0, atol=1e-5)
    np.testing.assert_allclose(level, reference.values[:30].astype(float).mean(axis=0), atol=6e-3)


def test_a_large_slide_s_level_is_of_an_even_sample() -> None:
    reference = memory_reference((3 * LEVEL_SPOTS, 5))
    ids, weights = np.array([[0, 7]]), np.array([[0.5, 0.5]], np.float32)
    _, level = slide_shift(reference, ids, weights, reference.panel, OPTIONS)
    sample = evenly(3 * LEVEL_SPOTS, LEVEL_SPOTS)
    assert len(sample) == LEVEL_SPOTS
    np.testing.assert_allclose(level, reference.values[sample].astype(float).mean(axis=0), atol=3e-3)


# From images to a prediction: the slide's own image tells its level, whatever the reference holds.

CONFIG = ModelConfig(
    encoder=EncoderSpec("test_resnet", pooling="covariance"),
    patch=PatchSpec(size_px=32, mpp=None),
    shared=SharedSpaceConfig(components=3),
    retrieval=RetrievalConfig(k=60, temperature=0.2, depth_weighted=True, slide_levelled=True),
    n_genes=40,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[Slide]:
    return tiny_slides(tmp_path_factory.mktemp("world"), 4, n_spots=64)


@pytest.fixture(scope="module")
def model(world: list[Slide]) -> Model:
    return train(world[:3], recipe=CONFIG, encoder_weights="random", device="cpu", cache=False)


@pytest.fixture(scope="module")
def reference(world: list[Slide], model: Model, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference.build(tmp_path_factory.mktemp("reference") / "r", world[:3], model)


@pytest.mark.filterwarnings("ignore:3 of 6 slides have no image:mclstexp.errors.MclstexpWarning")
def test_shallow_slides_in_the_reference_do_not_move_the_level(
    world: list[Slide], model: Model, reference: Reference, tmp_path: Path
) -> None:
    shallow = [thinned(slide, slide_id=f"{slide.slide_id}-thin", image=None) for slide in world[:3]]
    mixed = Reference.build(tmp_path / "mixed", [*world[:3], *shallow], model)
    means = []
    for one in (reference, mixed):
        prediction = one.query(world[3], thumbnail=False, device="cpu")
        assert prediction.settings["level"] == "image"
        means.append(prediction.mean.mean(axis=0))
    # 64 spots against 10 of doubt leave a trace of what the neighbours expressed.
    assert np.abs(means[0] - means[1]).max() < 0.25 * means[0].max()
    assert abs(means[0].mean() - means[1].mean()) < 0.1 * means[0].mean()


def test_a_condition_on_spots_keeps_their_level(world: list[Slide], reference: Reference) -> None:
    depth = int(np.median(np.asarray(world[0].spots.counts.sum(axis=1))))
    condition = Filter(where=f"total_counts > {depth}")
    prediction = reference.query(world[3], filter=condition, thumbnail=False, device="cpu")
    assert prediction.settings["level"] == "neighbours"


@pytest.mark.filterwarnings("ignore:No intervals:mclstexp.errors.MclstexpWarning")
def test_on_another_scale_the_level_is_the_reference_s(world: list[Slide], reference: Reference) -> None:
    other_scale = dataclasses.replace(CONFIG.normalisation, target_sum=1e6)
    prediction = reference.query(world[3], normalisation=other_scale, thumbnail=False, device="cpu")
    assert prediction.settings["level"] == "reference"
