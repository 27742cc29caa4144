"""The page on disk: what it holds, what it refuses, and that names in it stay names."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pages import HOSTILE, plain_prediction, save_query, without_values
from references import Library, build_library

import mclstexp
from mclstexp.errors import ExistsAlreadyError, InputError, MclstexpWarning
from mclstexp.outputs.report.evidence import page_evidence
from mclstexp.outputs.report.pack import STEPS, packed_genes, quantised
from mclstexp.outputs.report.page import embedded_json
from mclstexp.outputs.report.patches import chosen


class Parsed(HTMLParser):
    """The elements of a page, and the text inside its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> dict:
        return json.loads(next(text for text in self.scripts if text.lstrip().startswith("{")))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(tmp_path_factory.mktemp("library"))


def unpack(packed: dict) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(packed["data"])), {"f4": "<f4", "i4": "<i4"}[packed["type"]])


def page(prediction, path: Path, **options) -> Parsed:
    with pytest.warns(MclstexpWarning):
        assert mclstexp.report(prediction, path, **options) == path
    return Parsed(path.read_text())


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    plain = page(plain_prediction(), tmp_path / "plain.html")
    hostile = page(plain_prediction(hostile=HOSTILE), tmp_path / "hostile.html", title=f"title {HOSTILE}")
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)
    (item,) = hostile.data["predictions"]
    assert item["genes"]["symbols"] == [f"ERBB2{HOSTILE}", f"CD3E{HOSTILE}"]
    assert item["spots"]["ids"][0] == f"s0{HOSTILE}"


def test_a_page_loads_nothing_and_runs_its_own_scripts_alone(tmp_path: Path) -> None:
    tags = page(plain_prediction(), tmp_path / "a.html").tags
    assert not any(name in attributes for tag, attributes in tags for name in ("src", "srcset") if tag != "noscript")
    assert [attributes["href"] for tag, attributes in tags if tag == "link"] == ["data:,"]
    (policy,) = [attributes["content"] for tag, attributes in tags if attributes.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert not re.search(r"unsafe|https?:|\*", policy)


def test_a_page_holds_every_value_to_half_a_step(tmp_path: Path) -> None:
    prediction = plain_prediction(n=25)
    (item,) = page(prediction, tmp_path / "a.html").data["predictions"]
    genes = item["genes"]
    assert genes["layers"] == ["mean", "lower", "width"]
    for column, text in enumerate(genes["values"]):
        codes = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(3, -1)
        for layer, truth in enumerate((prediction.mean, prediction.lower, prediction.upper - prediction.lower)):
            low, high = genes["low"][layer][column], genes["high"][layer][column]
            values = low + codes[layer] * (high - low) / STEPS
            assert np.abs(values - truth[:, column]).max() <= 0.51 * (high - low) / STEPS
    np.testing.assert_allclose(unpack(item["spots"]["x"]), prediction.xy_px[:, 0])


VALUES = st.one_of(st.floats(0, 1e4, width=32), st.sampled_from([np.float32("nan"), np.float32("inf")]))


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(1, 4)), elements=VALUES))
def test_quantised_values_come_back(values: np.ndarray) -> None:
    codes, low, high = quantised(values)
    known = np.isfinite(values)
    assert ((codes == STEPS + 1) == ~known).all()
    step = (high - low) / STEPS
    error = np.abs(np.where(known, low + codes * step - np.where(known, values, 0), 0))
    assert (error <= 0.501 * step + 1e-6 * np.abs(high)).all()
    json.dumps(packed_genes([values]), allow_nan=False)


@given(st.text())
def test_no_text_ends_the_element_that_holds_it(text: str) -> None:
    embedded = embedded_json({text: [text]})
    assert not set(embedded) & set("<>&")
    assert json.loads(embedded) == {text: [text]}


def test_neighbours_of_the_page_are_those_of_the_prediction() -> None:
    prediction = plain_prediction(n=16, k=6)
    evidence = page_evidence(prediction, nearest=3)
    assert evidence is not None
    for i, spot in enumerate(prediction.spot_ids):
        truth = prediction.neighbours(spot)
        assert [evidence.spot_ids[at] for at in evidence.spot[i]] == truth["spot"].tolist()[:3]
        assert [evidence.labels[at] for at in evidence.spot[i]] == truth["label"].tolist()[:3]
        np.testing.assert_allclose(evidence.weight[i], truth["weight"].to_numpy()[:3])
        by_slide = truth.groupby("slide")["weight"].sum()
        held = {slide: weight for (slide, _, _), weight in zip(evidence.slides, evidence.by_slide[i], strict=True)}
        assert held == pytest.approx({**dict.fromkeys(held, 0.0), **by_slide.to_dict()}, abs=1e-6)


def test_every_spot_gets_its_nearest_patch_before_any_gets_a_second() -> None:
    evidence = page_evidence(plain_prediction(n=16, k=6))
    assert evidence is not None
    nearest = set(evidence.spot[:, 0].tolist())
    assert set(chosen(evidence, len(nearest)).tolist()) == nearest
    assert set(chosen(evidence, 10**6).tolist()) == set(range(len(evidence.row_id)))


def test_patches_are_those_of_the_reference(library: Library, tmp_path: Path) -> None:
    path = save_query(library, tmp_path)
    page_path = mclstexp.report(path, tmp_path / "a.html", patches=40)
    (item,) = Parsed(page_path.read_text()).data["predictions"]
    assert item["patches"]["missing"] == {}
    assert item["image"]["origin"].startswith("P3_A.tif at 100%") or "of its size" in item["image"]["origin"]
    position = unpack(item["patches"]["position"])
    assert (position >= 0).sum() == 40
    assert len(item["patches"]["sheets"]) == 1
    assert sorted(position[position >= 0].tolist()) == list(range(40))


def test_what_is_not_at_hand_is_said(library: Library, tmp_path: Path) -> None:
    path = save_query(library, tmp_path)
    moved = library.slides[0].image.path
    moved.rename(tmp_path / "elsewhere.tif")
    try:
        with pytest.warns(MclstexpWarning, match="no patches from 1 slide of the reference .*image not found"):
            mclstexp.report(path, tmp_path / "a.html")
    finally:
        (tmp_path / "elsewhere.tif").rename(moved)
    with pytest.warns(MclstexpWarning) as told:
        mclstexp.report(plain_prediction(), tmp_path / "b.html")
    assert {str(one.message) for one in told} == {
        "S1: the prediction's own small picture: the prediction names no image.",
        "S1: no patches of neighbours: the prediction does not say which reference it was made from; name it with "
        "--reference.",
    }


def test_a_wrong_reference_is_refused(library: Library, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the prediction was made with another"):
        mclstexp.report(plain_prediction(), tmp_path / "a.html", reference=library.folder)
    assert not (tmp_path / "a.html").exists()


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text("mine")
    with pytest.raises(ExistsAlreadyError):
        mclstexp.report(plain_prediction(), tmp_path / "there.html")
    with pytest.raises(InputError, match=r"\.html file, got 'a\.pdf'"):
        mclstexp.report(plain_prediction(), tmp_path / "a.pdf")
    with pytest.raises(InputError, match="no prediction"):
        mclstexp.report([], tmp_path / "a.html")
    with pytest.raises(InputError):
        mclstexp.report(tmp_path / "missing.h5ad", tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


def test_several_predictions_share_a_page(tmp_path: Path) -> None:
    second = without_values(plain_prediction(n=4, genes=("CD3E", "VIM")), 1, "no slide of the reference measured it")
    data = page([plain_prediction(), second], tmp_path / "a.html").data
    assert [item["name"] for item in data["predictions"]] == ["S1 (1)", "S1 (2)"]
    assert data["predictions"][1]["reasons"] == ["", "no slide of the reference measured it"]


def test_the_same_prediction_gives_the_same_page(tmp_path: Path) -> None:
    page(plain_prediction(), tmp_path / "a.html")
    page(plain_prediction(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
