"""The server of ``mst serve``, asked as an attacker would."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import plain_prediction
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mclstexp.outputs.serve.app import make_app
from mclstexp.outputs.serve.run import bound
from mclstexp.outputs.serve.session import Session
from mclstexp.predict.prediction import Prediction

TOKEN = "a-secret"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("served")
    plain_prediction().save(folder / "a.h5ad")
    (folder / "private.txt").write_text("private")
    session = Session(Prediction.load(folder / "a.h5ad"), "a", folder)
    yield TestClient(make_app([session], TOKEN, "a", "127.0.0.1"), base_url="http://127.0.0.1:8000")
    session.close()


def test_it_listens_on_loopback_alone_unless_told() -> None:
    from mclstexp.cli.serve import serve

    assert serve.__defaults__ is not None
    assert "127.0.0.1" in serve.__defaults__
    with bound("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "127.0.0.1.attacker.example:8000", "attacker.example#127.0.0.1", "2130706434",
     "127.0.0.1@attacker.example", "[::ffff:192.0.2.1]", "0x7f000001.x"],
)  # fmt: skip
def test_a_rebound_name_is_refused(client: TestClient, host: str) -> None:
    answer = client.get(f"/{TOKEN}/0/gene?name=ERBB2", headers={"Host": host})
    assert answer.status_code == 421
    assert "values" not in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"/?token={TOKEN}", f"//{TOKEN}/"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_nothing_is_told_without_the_token(client: TestClient, path: str, method: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code in (403, 404, 405)
    assert TOKEN not in answer.text
    assert "ERBB2" not in answer.text


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND"])
def test_it_only_reads(client: TestClient, method: str) -> None:
    assert client.request(method, f"/{TOKEN}/0/gene?name=ERBB2").status_code == 405


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_other_sites_may_not_read_it(client: TestClient, method: str) -> None:
    asked = {"Origin": "https://attacker.example", "Access-Control-Request-Method": "GET"}
    answer = client.request(method, f"/{TOKEN}/0/gene?name=ERBB2", headers=asked)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_there_are_no_sockets_beside(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(f"/{TOKEN}/0/gene"):
        pass
    assert refused.value.code == 1008


@pytest.mark.parametrize(
    "path",
    ["../private.txt", "0/../private.txt", "0/slide_files/0/../../private.txt", "0/slide_files/%2e%2e%2fprivate.txt",
     "0/..%2f..%2fprivate.txt", "..%5cprivate.txt", "private.txt", "0/%00", "0//etc/passwd", "0/file:///etc/passwd"],
)  # fmt: skip
def test_nothing_is_served_but_its_slides(client: TestClient, path: str) -> None:
    answer = client.get(f"/{TOKEN}/{path}")
    assert answer.status_code in (400, 403, 404)
    assert "private" not in answer.text.replace("private.txt", "")


@pytest.mark.parametrize(
    "path",
    ["0/gene?name=" + "A" * 60_000, "0/neighbours?spot=" + "9" * 60_000, "0/patch?row=" + "9" * 5_000,
     "0/region?x0=1e308&y0=-1e308&x1=1e308&y1=1e308&gene=ERBB2", "9" * 4_999 + "/gene?name=A",
     "0/slide_files/" + "9" * 5_000 + "/0_0.jpeg", "0/slide_files/0/" + "9" * 5_000 + "_0.jpeg",
     "0/gene?name=%00", "0/gene?name=%ff%fe", "0/gene?" + "a=b&" * 5_000],
)  # fmt: skip
def test_huge_and_odd_questions_get_short_answers(client: TestClient, path: str) -> None:
    answer = client.get(f"/{TOKEN}/{path}")
    assert answer.status_code in (200, 400, 404, 414)
    assert len(answer.content) < 100_000


def test_a_file_of_a_slide_is_not_asked_for_by_a_path(client: TestClient) -> None:
    for place in ("/etc/passwd", "../a.h5ad", "s3://x/y"):
        answer = client.get(f"/{TOKEN}/0/spot", params={"spot": place})
        assert answer.status_code == 400
        assert "root:" not in answer.text


def test_its_secret_is_new_each_time_and_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mclstexp.outputs.serve import run

    plain_prediction().save(tmp_path / "a.h5ad")
    urls: list[str] = []
    monkeypatch.setattr(run, "_run", lambda app, listening, ready: ready())
    for _ in range(2):
        run.serve([tmp_path / "a.h5ad"], on_ready=urls.append)
    tokens = {url.rsplit("/", 2)[1] for url in urls}
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 32
    assert all(url.startswith("http://127.0.0.1:") for url in urls)
