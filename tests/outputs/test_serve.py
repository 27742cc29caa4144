"""The server: who is answered, what tiles and genes hold, and how it starts and stops."""

import base64
import dataclasses
import gzip
import io
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages import plain_prediction
from PIL import Image
from references import Library, build_library, quietly, without_counts
from starlette.testclient import TestClient

from mclstexp.data.images import open_image
from mclstexp.data.images.pixels import resize
from mclstexp.data.synthetic.cohort import write_pyramid
from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.index.reference import Reference
from mclstexp.outputs.report.pack import STEPS
from mclstexp.outputs.serve.app import host_allowed, make_app
from mclstexp.outputs.serve.region import MOST_SQUARES, Box, region_slide
from mclstexp.outputs.serve.run import bound, require_libraries
from mclstexp.outputs.serve.session import Session
from mclstexp.outputs.serve.tiles import TILE_PX, TilePyramid
from mclstexp.predict.prediction import Prediction

TOKEN = "a-secret"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def saved(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prediction of some of the panel's genes, so that others have to be asked of the reference."""
    reference = Reference.open(library.folder, device="cpu", cache=False)
    genes = list(reference.panel.symbols[:5])
    path = tmp_path_factory.mktemp("saved") / "P3_A.h5ad"
    quietly(reference, without_counts(library.slides[4], "P3_A"), genes=genes).save(path)
    return path


@pytest.fixture(scope="module")
def session(saved: Path) -> Iterator[Session]:
    session = Session(Prediction.load(saved), "P3_A", saved.parent, device="cpu")
    yield session
    session.close()


@pytest.fixture(scope="module")
def client(session: Session) -> TestClient:
    return TestClient(make_app([session], TOKEN, "P3_A", "127.0.0.1"), base_url="http://127.0.0.1:8000")


def layers_of(body: dict) -> dict[str, np.ndarray]:
    codes = np.frombuffer(gzip.decompress(base64.b64decode(body["values"])), np.uint8).reshape(len(body["layers"]), -1)
    values = {}
    for i, name in enumerate(body["layers"]):
        low, high = body["low"][i], body["high"][i]
        values[name] = np.where(codes[i] > STEPS, np.nan, low + codes[i] * (high - low) / STEPS)
    return values


def close_to(values: np.ndarray, truth: np.ndarray) -> bool:
    return bool(np.nanmax(np.abs(values - truth)) <= 0.51 * np.ptp(truth) / STEPS + 1e-5)


@pytest.mark.parametrize("path", ["/", "/a-secre/", "/a-secrets/", "/x/0/gene?name=G", "//", "/%61-secre/"])
def test_nothing_is_answered_without_the_token(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 403
    assert TOKEN not in answer.text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example:8000", "", "192.0.2.1"])
def test_a_foreign_name_for_this_address_is_refused(client: TestClient, host: str) -> None:
    assert client.get(f"/{TOKEN}/", headers={"Host": host}).status_code == 421


def test_who_may_be_called_what() -> None:
    assert all(host_allowed(name, "127.0.0.1") for name in ("127.0.0.1:1", "localhost", "localhost:80", "[::1]:80"))
    assert host_allowed("10.0.0.7:80", "0.0.0.0")
    assert not host_allowed("evil.example", "0.0.0.0")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_the_server_only_reads(client: TestClient, method: str) -> None:
    assert client.request(method, f"/{TOKEN}/").status_code == 405


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "0/slide_files/../../../etc/passwd", "0/slide_files/%2e%2e/%2e%2e/etc/passwd", "0/../../x",
     "1/gene?name=a", "99/slide_files/0/0_0.jpeg", "0/nothing", "0/slide_files/3/-1_0.jpeg", "page.css"],
)  # fmt: skip
def test_no_path_leads_elsewhere(client: TestClient, path: str) -> None:
    assert client.get(f"/{TOKEN}/{path}").status_code in (403, 404)


@pytest.mark.parametrize(
    "path",
    ["neighbours?spot=nobody", "neighbours", "spot?spot=..%2F..%2Fetc", "patch?row=-1", "patch?row=99999999",
     "patch?row=1e400", "patch?row=nan", "region?x0=0&y0=0&x1=nan&y1=5&gene=a",
     "region?x0=-900&y0=-900&x1=-800&y1=-800&gene=a", "region?x0=0", "slide_files/99/0_0.jpeg",
     "slide_files/3/5000_0.jpeg"],
)  # fmt: skip
def test_wrong_questions_get_one_line(client: TestClient, path: str) -> None:
    answer = client.get(f"/{TOKEN}/0/{path}")
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_the_page_is_served_with_its_policy(client: TestClient) -> None:
    answer = client.get(f"/{TOKEN}/")
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_predicted_gene_is_the_prediction(client: TestClient, session: Session) -> None:
    prediction = session.prediction
    for column, name in enumerate(prediction.genes.symbols):
        layers = layers_of(client.get(f"/{TOKEN}/0/gene", params={"name": name}).json())
        assert close_to(layers["mean"], prediction.mean[:, column])
        assert close_to(layers["lower"], prediction.lower[:, column])


def test_another_gene_is_the_mean_of_the_neighbours(client: TestClient, session: Session, library: Library) -> None:
    reference = session.reference
    other = [name for name in reference.genes.symbols if name not in session.prediction.genes.symbols][:3]
    plain = quietly(reference, without_counts(library.slides[4], "P3_A"), genes=other)
    truth = plain.mean if plain.retrieved is None else plain.retrieved
    for column, name in enumerate(other):
        body = client.get(f"/{TOKEN}/0/gene", params={"name": name}).json()
        assert "plain weighted mean" in body["origin"]
        layers = layers_of(body)
        assert close_to(layers["mean"], truth[:, column])
        assert close_to(layers["sd"], plain.sd[:, column])
    assert client.get(f"/{TOKEN}/0/gene", params={"name": "no such gene"}).json() == {"values": None}


def test_neighbours_and_their_patches(client: TestClient, session: Session, library: Library) -> None:
    spot = str(session.prediction.spot_ids[7])
    body = client.get(f"/{TOKEN}/0/neighbours", params={"spot": spot}).json()
    truth = session.prediction.neighbours(spot)
    assert [row["spot"] for row in body["rows"]] == truth["spot"].tolist()[: len(body["rows"])]
    assert sum(one["weight"] for one in body["sums"]) == pytest.approx(truth["weight"].sum(), abs=1e-4)
    row = body["rows"][0]
    slide = next(slide for slide in library.slides if slide.slide_id == row["slide"])
    picture = client.get(f"/{TOKEN}/0/patch", params={"row": row["row"]})
    shown = np.asarray(Image.open(io.BytesIO(picture.content)), dtype=float)
    cut = slide.image.read_region(round(row["x"] - 16), round(row["y"] - 16), 32, 32)
    assert np.abs(shown - resize(cut, (144, 144))).mean() < 6
    own = client.get(f"/{TOKEN}/0/spot", params={"spot": spot})
    assert Image.open(io.BytesIO(own.content)).size == (288, 288)


def test_a_region_is_predicted_by_the_reference(client: TestClient, session: Session) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        question = {"x0": 40, "y0": 40, "x1": 200, "y1": 160, "gene": session.prediction.genes.symbols[0]}
        body = client.get(f"/{TOKEN}/0/region", params=question).json()
    x = np.frombuffer(gzip.decompress(base64.b64decode(body["x"]["data"])), "<f4")
    assert len(x) == len(layers_of(body)["mean"]) > 0
    assert ((x > 40) & (x < 200)).all()
    assert "predicted anew as a slide of their own" in body["about"]


def test_a_region_of_any_size_has_few_squares(session: Session) -> None:
    with open_image(session.pyramid._image.path) as image:
        wide = dataclasses.replace(session.prediction, spot_diameter_px=1.0)
        slide, step = region_slide(wide, image, Box(0, 0, 1e6, 1e6))
    assert len(slide) <= MOST_SQUARES
    assert step > 1


def test_a_prediction_without_slide_or_reference_is_served_all_the_same(tmp_path: Path) -> None:
    plain_prediction().save(tmp_path / "a.h5ad")
    session = Session(Prediction.load(tmp_path / "a.h5ad"), "a", tmp_path)
    client = TestClient(make_app([session], TOKEN, "a", "127.0.0.1"), base_url="http://127.0.0.1")
    assert client.get(f"/{TOKEN}/").status_code == 200
    assert client.get(f"/{TOKEN}/0/gene", params={"name": "ERBB2"}).json()["values"]
    assert client.get(f"/{TOKEN}/0/gene", params={"name": "VIM"}).json() == {"values": None}
    assert "no picture" in client.get(f"/{TOKEN}/0/slide_files/0/0_0.jpeg").json()["error"]
    assert "names no image" in client.get(f"/{TOKEN}/0/region?x0=0&y0=0&x1=9&y1=9&gene=a").json()["error"]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A smooth picture of 5,000 by 3,100 px, so that tiles of every level can be compared with it."""
    y, x = np.mgrid[:3100, :5000].astype(np.float32)
    pixels = np.stack([x / 5000, y / 3100, (x + y) / 8100], axis=2)
    rgb = (40 + 200 * pixels).astype(np.uint8)
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pyramid(rgb, path, mpp=0.5)
    return path, rgb


def test_tiles_of_every_level_are_the_slide(slide: tuple[Path, np.ndarray]) -> None:
    path, rgb = slide
    with open_image(path) as image:
        pyramid = TilePyramid(image)
        assert pyramid.level_size(pyramid.last_level) == (5000, 3100)
        for level in range(pyramid.last_level + 1):
            width, height = pyramid.level_size(level)
            whole = resize(rgb, (width, height)).astype(float)
            for col, row in {(0, 0), ((width - 1) // TILE_PX, (height - 1) // TILE_PX)}:
                tile = np.asarray(Image.open(io.BytesIO(pyramid.tile(level, col, row))), dtype=float)
                part = whole[row * TILE_PX : (row + 1) * TILE_PX, col * TILE_PX : (col + 1) * TILE_PX]
                assert tile.shape == part.shape
                assert np.abs(tile - part).mean() < (
                    4 if min(width, height) >= 64 else 30
                )  # colours of a few JPEG pixels


def test_a_taken_port_is_said_in_a_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"Port {port} of 127\.0\.0\.1 cannot be used: .*--port"):
            bound("127.0.0.1", port)
    with pytest.raises(InputError, match="--host"):
        bound("no.such.host.invalid", 0)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"starlette and uvicorn: pip install 'mclstexp\[serve\]'"):
        require_libraries()
