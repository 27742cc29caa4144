"""Where the mean over a query's spots comes from: the slide's own image, whatever the reference holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from mclstexp.index.pipeline import BuildOptions, QueryOptions, build_reference, predict_slide
from mclstexp.index.retrieval import Filter
from scipy import sparse
from worlds import tiny_slides

from mclstexp.config import EncoderSpec, ModelConfig, PatchSpec, RetrievalConfig, SharedSpaceConfig
from mclstexp.slide import Slide
from mclstexp.train import TrainedModel, TrainOptions, train

CONFIG = ModelConfig(
    encoder=EncoderSpec("test_resnet", pooling="covariance"),
    patch=PatchSpec(size_px=32, mpp=None),
    shared=SharedSpaceConfig(components=3),
    retrieval=RetrievalConfig(k=60, temperature=0.2, depth_weighted=True, slide_levelled=True),
    n_genes=40,
)
QUIET = QueryOptions(thumbnail=False, device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[Slide]:
    return tiny_slides(tmp_path_factory.mktemp("world"), 4, n_spots=64)


@pytest.fixture(scope="module")
def model(world: list[Slide]) -> TrainedModel:
    return train(world[:3], CONFIG, TrainOptions(weights="random", device="cpu"))


def thinned(slide: Slide, name: str) -> Slide:
    """Return the slide without its image, with a twentieth of its counts."""
    counts = sparse.csr_matrix(slide.spots.counts)
    thin = counts.copy()
    thin.data = np.random.default_rng(0).binomial(counts.data.astype(np.int64), 0.05).astype(counts.dtype)
    thin.eliminate_zeros()
    return dataclasses.replace(slide, slide_id=name, image=None, spots=dataclasses.replace(slide.spots, counts=thin))


def test_shallow_slides_in_the_reference_do_not_move_the_level(
    world: list[Slide], model: TrainedModel, tmp_path: Path
) -> None:
    shallow = [thinned(slide, f"{slide.slide_id}-thin") for slide in world[:3]]
    plain = build_reference(tmp_path / "a", world[:3], model.files, model.encoders, BuildOptions())
    mixed = build_reference(tmp_path / "b", [*world[:3], *shallow], model.files, model.encoders, BuildOptions())
    means = []
    for store in (plain, mixed):
        made = predict_slide(world[3], model.encoders, store, QUIET).prediction
        assert made.settings["level"] == "image"
        means.append(made.mean.mean(axis=0))
    # 64 spots against 10 of doubt leave a trace of what the neighbours expressed.
    assert np.abs(means[0] - means[1]).max() < 0.25 * means[0].max()
    assert abs(means[0].mean() - means[1].mean()) < 0.1 * means[0].mean()


def test_a_condition_on_spots_keeps_their_level(world: list[Slide], model: TrainedModel, tmp_path: Path) -> None:
    store = build_reference(tmp_path / "r", world[:3], model.files, model.encoders, BuildOptions())
    depth = np.median(np.asarray(store.spots(np.arange(*store.entries[0].rows), ["total_counts"])["total_counts"]))
    asked = dataclasses.replace(QUIET, filter=Filter(where=f"total_counts > {int(depth)}"))
    made = predict_slide(world[3], model.encoders, store, asked).prediction
    assert made.settings["level"] == "neighbours"
    own_scale = dataclasses.replace(QUIET, normalisation=dataclasses.replace(CONFIG.normalisation, target_sum=1e6))
    assert predict_slide(world[3], model.encoders, store, own_scale).prediction.settings["level"] == "reference"
