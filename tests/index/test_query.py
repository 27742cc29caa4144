"""`Reference.query`: what a prediction holds, what is said of it, and the work that it costs."""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references import Library, build_library, quietly, without_counts

from mclstexp.config import Normalisation
from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.index.filter import Filter
from mclstexp.index.query import QueryOptions, predict_slide
from mclstexp.index.reference import Reference
from mclstexp.index.search import choose
from mclstexp.index.search.spot_index import SpotIndex
from mclstexp.predict.prediction import Prediction
from mclstexp.slide import Slide


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def reference(library: Library) -> Reference:
    return Reference.open(library.folder, device="cpu", cache=False)


@pytest.fixture(scope="module")
def query(library: Library) -> Slide:
    return without_counts(library.slides[4])


def said(reference: Reference, slide: Slide, **options: Any) -> tuple[Prediction, list[str]]:
    """Query; return the prediction and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prediction = reference.query(slide, **options)
    return prediction, [str(one.message) for one in caught if one.category is MclstexpWarning]


def test_what_a_prediction_holds(library: Library, reference: Reference, query: Slide) -> None:
    prediction = quietly(reference, query)
    assert (prediction.slide_id, len(prediction)) == ("query", 36)
    assert prediction.genes == library.model.panel
    np.testing.assert_array_equal(prediction.xy_px, query.spots.xy_px)
    assert np.isfinite(prediction.mean).all()
    assert (prediction.lower <= prediction.mean).all()
    assert (prediction.mean <= prediction.upper).all()
    shares = [f"share_{part}" for part in ("neighbours", "correction", "level")]
    assert set(prediction.obs) == {"similarity", "n_effective", "familiarity", *shares}
    np.testing.assert_allclose(sum(prediction.obs[share] for share in shares), 1, atol=1e-6)
    assert np.isfinite(prediction.var["reliability"]).any()
    settings = prediction.settings
    assert (settings["model"], settings["recipe"]) == (library.model.digest, "default")
    assert (settings["reference"], settings["reference_version"]) == (str(reference.path), 1)
    assert settings["image"] == str(query.image.path)
    assert settings["retrieval"]["k"] == 30
    rows = prediction.neighbours(prediction.spot_ids[0])
    assert len(rows) == 30
    assert rows.weight.sum() == pytest.approx(1, abs=1e-5)
    assert rows.similarity.is_monotonic_decreasing
    assert set(rows.slide) <= set(reference.slides.index)


def test_counts_of_the_query_are_not_looked_at(library: Library, reference: Reference) -> None:
    known = dataclasses.replace(library.slides[4], slide_id="query", patient="", cohort="")
    one, other = quietly(reference, known), quietly(reference, without_counts(known))
    np.testing.assert_array_equal(one.mean, other.mean)
    assert one.settings == other.settings


def test_the_same_query_gives_the_same_bits_from_a_model_at_hand(
    library: Library, reference: Reference, query: Slide, tmp_path: Path
) -> None:
    own = library.copy(tmp_path / "reference")
    own.use_model(library.model)
    one, other = quietly(reference, query), quietly(own, query)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.upper, other.upper)
    assert one.evidence.equals(other.evidence)


def test_genes_may_be_named_or_all(reference: Reference, query: Slide) -> None:
    panel = quietly(reference, query)
    two = quietly(reference, query, genes=["ERBB2", "COL1A1"])
    assert two.genes.symbols == ("ERBB2", "COL1A1")
    columns = panel.genes.columns(two.genes)
    np.testing.assert_allclose(two.mean, panel.mean[:, columns], atol=1e-6)
    assert quietly(reference, query, genes="ERBB2").genes.symbols == ("ERBB2",)
    every = quietly(reference, query, genes="all")
    assert every.genes == reference.genes
    outside = [symbol for symbol in every.genes.symbols if symbol not in panel.genes.position]
    assert outside
    assert np.isnan(every.var["reliability"][every.genes.find(outside[0])])
    with pytest.raises(InputError, match=r"'erbb2' was measured by no slide of the reference; near: ERBB2"):
        quietly(reference, query, genes=["erbb2"])


def test_a_filter_holds_for_every_neighbour(reference: Reference, query: Slide) -> None:
    prediction = quietly(reference, query, filter=Filter(exclude_patients=("P1",), where="array_row > 1"))
    assert set(prediction.evidence["patient"].to_pylist()) == {"P2"}
    assert min(prediction.evidence["array_row"].to_pylist()) == 2
    assert prediction.settings["filter"]["exclude_patients"] == ["P1"]
    assert prediction.settings["level"] == "neighbours", "whoever asks for some kind of spot wants its level"


def test_settings_of_ones_own_have_no_intervals_and_that_is_said(reference: Reference, query: Slide) -> None:
    text = "No intervals: they are calibrated for the model's own normalisation and neighbours."
    for options in (
        {"k": 7},
        {"weights": "inverse_square"},
        {"temperature": 0.5},
        {"normalisation": Normalisation(log="log10")},
    ):
        prediction, warned = said(reference, query, **options)
        assert (prediction.lower, prediction.upper) == (None, None)
        assert text in prediction.notes
        assert text in warned
    assert len(quietly(reference, query, k=7).neighbours("0x0")) == 7
    prediction, warned = said(reference, query)
    assert text not in warned
    for options, name in (({"k": 0}, "k"), ({"temperature": -1.0}, "temperature")):
        with pytest.raises(InputError, match=name):
            quietly(reference, query, **options)


def test_what_is_said_is_kept_once_and_saved(library: Library, reference: Reference, tmp_path: Path) -> None:
    slide = dataclasses.replace(library.slides[0], notes=("The pixel size was taken from the distance of spots.",))
    prediction, warned = said(reference, slide, filter=Filter(exclude_patients=("P2",), exclude_slides=("P1_B",)), k=36)
    assert list(prediction.notes) == warned
    first, *leaks, intervals = [text for text in warned if "patches are unlike" not in text]
    assert first == slide.notes[0], "before the patches are encoded"
    assert "this image is slide 'P1_A' of the reference" in leaks[0]
    assert "the model was trained on slide P1_A and slides of the same patient (P1_B)" in leaks[1]
    assert prediction.settings["leakage"] == "\n".join(leaks)
    assert intervals.startswith("No intervals")
    prediction.save(tmp_path / "p.h5ad")
    assert Prediction.load(tmp_path / "p.h5ad").notes == prediction.notes
    record = prediction.adata.uns["mclstexp"]
    assert json.loads(record["settings"])["notes"] == warned


def test_too_few_neighbours_are_said(reference: Reference, query: Slide) -> None:
    only = Filter(exclude_slides=("P1_A", "P1_B", "P2_A"))
    prediction, warned = said(reference, query, k=40, filter=only)
    text = "36 of 36 spots have fewer than 40 neighbours: no more spots remain."
    assert text in prediction.notes
    assert text in warned
    assert len(prediction.evidence) == 36 * 36
    assert np.isfinite(prediction.mean).all()


def test_a_slide_unlike_the_reference_is_said(
    reference: Reference, query: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("unlike" in note for note in quietly(reference, query).notes)
    monkeypatch.setattr("mclstexp.index.query.familiarity", lambda store, neighbours, **_: np.full(36, 1.5, np.float32))
    prediction, warned = said(reference, query)
    (text,) = [note for note in warned if "unlike the reference's (median familiarity" in note]
    assert text in prediction.notes
    assert "Do not rely on this prediction" in text


def test_a_slide_without_an_image_cannot_be_queried(reference: Reference, query: Slide) -> None:
    with pytest.raises(InputError, match="image"):
        quietly(reference, dataclasses.replace(query, image=None))


def test_a_thumbnail_is_held_unless_it_is_not_wanted(reference: Reference, query: Slide) -> None:
    assert quietly(reference, query).thumbnail is None
    prediction, _ = said(reference, query)
    assert prediction.thumbnail is not None
    assert prediction.thumbnail_scale == pytest.approx(prediction.thumbnail.shape[1] / query.image.size_px[0])


# The work that a query costs, and where it is done.


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """Record what searched, and the number of queries, of every search."""
    searches: list[tuple[str, int]] = []
    search = SpotIndex.search

    def recorded(index: SpotIndex, vectors: np.ndarray, k: int, **options: Any) -> Any:
        searches.append((index.backend.name, len(vectors)))
        return search(index, vectors, k, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SpotIndex, "search", recorded)
        yield searches


def never_asked(library: Library, folder: Path) -> Reference:
    """Return a version of three slides of which nothing derived is kept yet."""
    reference = library.copy(folder)
    reference.remove(slides=["P2_B"])
    return reference


def test_a_query_searches_once(library: Library, query: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = never_asked(library, tmp_path / "reference")
    with counted(monkeypatch) as searches:
        quietly(reference, query)
    assert len(searches) == 1 + 3, "the first query of a version also scores each slide of the reference, to be kept"
    with counted(monkeypatch) as searches:
        quietly(reference, query)
        quietly(reference, query, filter=Filter(exclude_patients=("P1",)))
        quietly(Reference.open(reference.path, device="cpu", cache=False), query, genes="all")
    assert searches == [("exact on the CPU", 36)] * 3


@pytest.mark.parametrize(("search", "name"), [("exact", "exact on the CPU"), ("lancedb", "lancedb")])
def test_whatever_searches_gives_the_same_answer(
    reference: Reference, query: Slide, monkeypatch: pytest.MonkeyPatch, search: str, name: str
) -> None:
    expected = quietly(reference, query)
    with counted(monkeypatch) as searches:
        prediction = quietly(reference, query, search=search)
    assert searches == [(name, 36)]
    assert (expected.settings["search"], prediction.settings["search"]) == ("faiss", search)
    np.testing.assert_array_equal(prediction.mean, expected.mean)


def test_the_cpu_is_where_everything_is_done_that_is_asked_for_there(
    library: Library, query: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that has a GPU, as far as torch says: whatever asks for another device than the CPU fails."""
    reference = never_asked(library, tmp_path / "reference")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked: list[str] = []
    choose_device = choose.choose_device
    monkeypatch.setattr(choose, "choose_device", lambda name: (asked.append(name), choose_device(name))[1])
    with counted(monkeypatch) as searches:
        quietly(reference, query)
    assert set(asked) == {"cpu"}
    assert {name for name, _ in searches} == {"exact on the CPU"}
    assert len(searches) == 1 + 3, "the scale of familiarity as well"


def test_a_device_may_be_named_for_one_query(
    library: Library, query: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference(never_asked(library, tmp_path / "reference").store, device="auto", cache=False)
    reference.use_model(library.model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    quietly(reference, query, device="cpu")


def test_a_built_reference_is_searched_where_its_model_computes(
    library: Library, query: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    built = Reference.build(tmp_path / "reference", library.slides[:2], library.model)
    assert library.model.device == "cpu"
    assert built.model is library.model
    quietly(built, query)


def test_familiarity_is_ranked_by_as_many_neighbours_as_were_asked_for(
    library: Library, reference: Reference, query: Slide
) -> None:
    """Few neighbours are nearer than many: patches of the reference's kind stay as familiar as they are."""
    few, many = (np.median(quietly(reference, query, k=k).obs["familiarity"]) for k in (3, 30))
    assert abs(few - many) < 25


def test_the_same_from_the_steps(library: Library, reference: Reference, query: Slide) -> None:
    prediction = predict_slide(query, library.model, reference.store, QueryOptions(device="cpu", command="mst query"))
    np.testing.assert_array_equal(prediction.mean, quietly(reference, query).mean)
    assert prediction.settings["command"] == "mst query"


def test_misplaced_spots_are_doubted_by_familiarity_and_pixel_size(
    reference: Reference, query: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = np.r_[np.full(12, 1.0), np.full(24, 70.0)].astype(np.float32)
    monkeypatch.setattr("mclstexp.index.query.familiarity", lambda store, neighbours, **_: low)
    slide = dataclasses.replace(query, mpp=1.2, mpp_source="pitch")
    notes = quietly(reference, slide).settings["notes"]
    assert sum("patches are unlike" in note or "follows from the distance" in note for note in notes) == 2
