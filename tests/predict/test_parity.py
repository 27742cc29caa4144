"""One rule, two references: in memory and on disk the same slide is predicted the same, whole, by the same predictor.

Calibration predicts from memory, queries from disk: intervals hold only while the two agree.
"""

import dataclasses

import numpy as np
import pytest
from worlds import thinned, tiny_config, tiny_slides

from mclstexp.config import RetrievalConfig, recipe
from mclstexp.data.genes.expression import expression_for
from mclstexp.errors import MclstexpWarning
from mclstexp.index.reference import Reference
from mclstexp.index.source import StoreSource
from mclstexp.model.model import Model
from mclstexp.model.space.neighbourhood import positions_um
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict.levels import LEVEL_SPOTS
from mclstexp.predict.memory import MemoryReference
from mclstexp.predict.predictor import Predicted, Predictor, Query
from mclstexp.slide import Slide
from mclstexp.train import train

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
N_SPOTS = 289
UNMEASURED = ("ERBB2", "COL1A1", "CD3E")
CONFIG = tiny_config("default", calibrate=False)


def unmeasured(slide: Slide) -> Slide:
    """Return the slide without the counts of a few genes."""
    counts, genes = slide.spots.require_counts()
    kept = [column for column, symbol in enumerate(genes.symbols) if symbol not in UNMEASURED]
    spots = dataclasses.replace(slide.spots, counts=counts[:, kept], genes=genes.subset(kept))
    return dataclasses.replace(slide, spots=spots)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[Slide]:
    """Five slides of unequal size and depth, one larger than a level's sample; the last is the query."""
    whole = tiny_slides(tmp_path_factory.mktemp("world"), 5, n_spots=N_SPOTS)
    rows = [np.arange(N_SPOTS), np.arange(60), np.arange(40, 140), np.arange(100, 170), np.arange(36)]
    cut = [slide.take(chosen) for slide, chosen in zip(whole, rows, strict=True)]
    return [cut[0], thinned(cut[1], 0.1), unmeasured(cut[2]), thinned(cut[3], 0.5), cut[4]]


@pytest.fixture(scope="module")
def model(world: list[Slide]) -> Model:
    """A model of the default recipe that knows more genes than the third slide measured."""
    genes = world[0].spots.genes.symbols[:30]
    with pytest.warns(MclstexpWarning, match="3 genes were not measured on every slide"):
        return train(world[:4], recipe=CONFIG, genes=genes, encoder_weights="random", device="cpu", cache=False)


@pytest.fixture(scope="module")
def on_disk(world: list[Slide], model: Model, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The reference of the first four slides, grown in two steps and in another order than that of their names."""
    reference = Reference.build(tmp_path_factory.mktemp("reference") / "r", [world[2], world[0]], model)
    reference.add([world[3], world[1]])
    return reference


@pytest.fixture(scope="module")
def in_memory(world: list[Slide], model: Model) -> MemoryReference:
    """The same slides in memory, as the calibration has them."""
    arrays = []
    for slide in world[:4]:
        expression, measured = expression_for(slide.spots, model.panel, model.config.normalisation)
        depth = np.asarray(slide.spots.counts.sum(axis=1), dtype=np.float64).ravel()
        features, where = model.features(slide), positions_um(slide)
        arrays.append(SlideArrays(slide.slide_id, slide.patient, features, expression, measured, where, depth))
    return MemoryReference.of(arrays, model.space, model.config.key_mix, model.panel, model.config.normalisation)


@pytest.fixture(scope="module")
def query(world: list[Slide], model: Model) -> Query:
    features = model.features(world[4])
    embedding = model.space.embed_images(features, world[4])
    return Query(embedding, features, model.panel, model.config.normalisation, model.config.retrieval)


def names(predicted: Predicted, source: StoreSource | MemoryReference, world: list[Slide]) -> list[list[str]]:
    """Return each neighbour by slide and spot, whatever its id; "" where there is none."""
    slides = in_order(world)
    first = [int(source.spots_of(number)[0]) for number in range(len(slides))]
    ids = predicted.neighbours.ids
    return [
        [
            "" if spot < 0 else f"{slides[number].slide_id} {slides[number].spots.spot_ids[spot - first[number]]}"
            for spot, number in zip(row, numbers, strict=True)
        ]
        for row, numbers in zip(ids.tolist(), source.slide_of(ids).tolist(), strict=True)
    ]


def in_order(world: list[Slide]) -> list[Slide]:
    """Return the reference's slides as every source numbers them: by name, however the reference grew."""
    return sorted(world[:4], key=lambda slide: slide.slide_id)


def assert_parity(
    query: Query, model: Model, memory: MemoryReference, disk: StoreSource, world: list[Slide]
) -> Predicted:
    """Predict from both, compare everything, and return what was predicted."""
    predictor = Predictor(model.space, model.config, model.panel)
    here, there = predictor.predict(memory, query), predictor.predict(disk, query)
    assert names(here, memory, world) == names(there, disk, world)
    np.testing.assert_allclose(here.neighbours.similarity, there.neighbours.similarity, **TOLERANCE)
    for name in ("mean", "sd", "retrieved", "weights", "n_effective"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), err_msg=name, **TOLERANCE)
    assert (here.adjusted, here.level, here.missing) == (there.adjusted, there.level, there.missing)
    return here


def test_the_world_has_what_the_copies_used_to_differ_in(model: Model, in_memory: MemoryReference) -> None:
    default = recipe("default")
    for name in ("normalisation", "space", "shared", "retrieval", "key_mix", "correction"):
        assert getattr(model.config, name) == getattr(default, name), name
    assert (model.config.encoder.pooling, model.config.encoder.scales) == ("covariance", default.encoder.scales)
    assert model.config.encoder.views == default.encoder.views
    assert (model.config.correction, model.config.shared.context_um > 0) == (1.0, True)
    assert model.config.retrieval.depth_weighted
    assert model.config.retrieval.slide_levelled
    assert len(in_memory.spots_of(0)) > LEVEL_SPOTS
    assert (~in_memory.known).sum(axis=1).tolist() == [0, 0, 3, 0]
    medians = in_memory.depth_summary.of_slide
    assert medians.max() > 5 * medians.min()
    assert default.retrieval.k < in_memory.n_spots


def test_the_default_recipe_from_memory_and_from_disk(model, query, in_memory, on_disk, world) -> None:
    predicted = assert_parity(query, model, in_memory, StoreSource(on_disk.store, "cpu"), world)
    assert predicted.adjusted
    assert predicted.level == "image"
    assert predicted.neighbours.ids.shape == (36, 400)
    assert np.isfinite(predicted.mean).all()
    # Every step of the rule leaves a mark, so that none can be missing on both sides.
    plain = dataclasses.replace(query, retrieval=RetrievalConfig(k=400, temperature=0.2))
    unlike = Predictor(model.space, model.config, model.panel).predict(in_memory, plain)
    assert np.abs(predicted.retrieved - unlike.retrieved).max() > 0.01, "depth weights"
    assert np.abs(predicted.mean - predicted.retrieved).max() > 0.01, "correction and level"
    assert np.abs(predicted.mean - unlike.mean).max() > 0.01, "level"


def test_more_neighbours_than_spots_by_inverse_square(model, query, in_memory, on_disk, world) -> None:
    retrieval = dataclasses.replace(query.retrieval, k=10_000, weights="inverse_square")
    asked = dataclasses.replace(query, retrieval=retrieval)
    predicted = assert_parity(asked, model, in_memory, StoreSource(on_disk.store, "cpu"), world)
    assert predicted.neighbours.ids.shape == (36, in_memory.n_spots)
    assert (predicted.neighbours.ids >= 0).all()


@pytest.mark.parametrize("changes", [{"distance": "l1", "weights": "inverse_square"}, {"slide_levelled": False}])
def test_other_settings(changes, model, query, in_memory, on_disk, world) -> None:
    asked = dataclasses.replace(query, retrieval=dataclasses.replace(query.retrieval, k=30, **changes))
    assert_parity(asked, model, in_memory, StoreSource(on_disk.store, "cpu"), world)


def test_fewer_allowed_spots_than_neighbours(model, query, in_memory, on_disk, world) -> None:
    """Spots that may be neighbours, the same ones by both numberings; beyond them there is nobody."""
    disk = StoreSource(on_disk.store, "cpu")
    allowed_here = np.zeros(in_memory.n_spots, dtype=bool)
    allowed_there = np.zeros(1 + max(disk.spots_of(number).max() for number in range(4)), dtype=bool)
    for number, slide in enumerate(in_order(world)):
        chosen = np.random.default_rng(number).random(len(slide)) < 0.4
        allowed_here[in_memory.spots_of(number)] = chosen
        allowed_there[disk.spots_of(number)] = chosen
    predictor = Predictor(model.space, model.config, model.panel)
    here = predictor.predict(in_memory, dataclasses.replace(query, allowed=allowed_here))
    there = predictor.predict(disk, dataclasses.replace(query, allowed=allowed_there))
    n_allowed = int(allowed_here.sum())
    assert n_allowed < query.retrieval.k
    assert ((here.neighbours.ids >= 0).sum(axis=1) == n_allowed).all()
    assert names(here, in_memory, world) == names(there, disk, world)
    for name in ("mean", "sd", "retrieved", "weights", "n_effective"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), err_msg=name, **TOLERANCE)


def test_counts_from_the_table_are_the_copy_s(model, query, in_memory, on_disk, world) -> None:
    assert_parity(query, model, in_memory, StoreSource(on_disk.store, "cpu", use_copy=False), world)


def test_a_query_of_the_reference_is_the_predictor_s(model, query, in_memory, on_disk, world) -> None:
    prediction = on_disk.query(world[4], device="cpu", thumbnail=False)
    predicted = Predictor(model.space, model.config, model.panel).predict(in_memory, query)
    for name in ("mean", "sd", "retrieved"):
        np.testing.assert_allclose(getattr(prediction, name), getattr(predicted, name), err_msg=name, **TOLERANCE)
    np.testing.assert_allclose(prediction.obs["n_effective"], predicted.n_effective, **TOLERANCE)
    spot = prediction.spot_ids[7]
    frame = prediction.neighbours(spot)
    assert (frame["slide"] + " " + frame["spot"]).tolist() == names(predicted, in_memory, world)[7]
    np.testing.assert_allclose(frame["weight"], predicted.weights[7], **TOLERANCE)
