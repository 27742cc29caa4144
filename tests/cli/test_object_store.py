"""The commands of a reference on an S3 server of this machine, as on a folder."""

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import Run, error_of

from mclstexp.cli import _options
from mclstexp.data.synthetic import CohortPaths
from mclstexp.outputs.maps import embedding
from mclstexp.outputs.serve.session import Session
from mclstexp.predict.prediction import Prediction


@pytest.fixture
def address(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URI at which nothing lies yet; what is derived goes to an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return f"{s3}/{uuid.uuid4().hex}/ref"


def test_a_reference_lives_in_an_object_store(
    mst: Run, built: Path, world: CohortPaths, address: str, tmp_path: Path
) -> None:
    def told(*arguments: object) -> object:
        return json.loads(mst(*arguments, "--json").stdout)

    tree = told("cohorts", built / "reference")
    names = [slide["slide"] for cohort in tree for patient in cohort["patients"] for slide in patient["slides"]]
    build = ("build-index", world.refs, "--model", built / "model", "-o", address, "--device", "cpu")
    assert mst(*build, "--slides", names[0]).stdout.strip() == address
    assert "exists already; give --force" in error_of(mst(*build, ok=False))
    mst("add", world.refs, "-r", address, "--device", "cpu")
    assert [row["version"] for row in told("history", address)] == [1, 2]
    here, there = told("info", built / "reference"), told("info", address)
    assert {name: there[name] for name in ("n_spots", "n_slides", "n_genes", "model", "settings")} == {
        name: here[name] for name in ("n_spots", "n_slides", "n_genes", "model", "settings")
    }
    mst("query", world.query_image, world.query_coords, "-r", address, "-o", tmp_path / "p.h5ad", "--device", "cpu")
    ours, local = Prediction.load(tmp_path / "p.h5ad"), Prediction.load(built / "p.h5ad")
    np.testing.assert_array_equal(ours.mean, local.mean)
    assert ours.settings["reference"] == address
    spot = ours.spot_ids[0]
    gene = ours.genes.symbols[0]
    assert "name it with --reference" in error_of(mst("neighbours", tmp_path / "p.h5ad", spot, "-g", gene, ok=False))
    drawn = ("plot", tmp_path / "p.h5ad", "--what", "embedding", "-o", tmp_path / "e.png")
    assert f"its reference is at {address}; name it with --reference" in error_of(mst(*drawn, ok=False))
    page = mst("report", tmp_path / "p.h5ad", "-o", tmp_path / "p.html").stderr
    assert f"its reference is at {address}; name it with --reference" in " ".join(page.split())
    values = told("neighbours", tmp_path / "p.h5ad", spot, "-g", gene, "-r", address)
    assert values["neighbours"] == told("neighbours", built / "p.h5ad", spot, "-g", gene)["neighbours"]

    assert told("tag", "paper", address) == {"tag": "paper", "version": 2}
    assert told("remove", address, "--slide", names[1])["n_slides"] == 1
    assert told("restore", "paper", address)["n_spots"] == here["n_spots"]
    told("optimize", address)
    assert told("verify", address)["ok"]
    assert "a repair is safe only while nobody writes" in mst("verify", address, "--repair").output
    mst("export", "-r", address, "-o", tmp_path / "t.parquet", "--version", "paper")
    assert (tmp_path / "t.parquet").stat().st_size > 0
    assert not Path("s3:").exists()


def options_in_place_of_variables(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take what reaches the store out of the environment, and return it as options."""
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT", "AWS_ALLOW_HTTP")
    given = [word for key in keys for word in ("--storage-option", f"{key.lower()}={os.environ[key]}")]
    for key in keys:
        monkeypatch.delenv(key)
    return given


def test_what_shows_a_prediction_reads_its_reference_there(
    mst: Run, built: Path, world: CohortPaths, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mst("build-index", world.refs, "--model", built / "model", "-o", address, "--device", "cpu")
    there = ("-r", address, *options_in_place_of_variables(monkeypatch))
    shown = built / "p.h5ad"

    monkeypatch.setattr(embedding, "umap", lambda points, seed: points[:, :2])
    pictures = [tmp_path / "here.png", tmp_path / "there.png"]
    for picture, where in zip(pictures, ((), there), strict=True):
        mst("plot", shown, "--what", "embedding", "-o", picture, "--dpi", 50, *where)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()

    pages = [tmp_path / "here.html", tmp_path / "there.html"]
    for page, where in zip(pages, ((), there), strict=True):
        mst("report", shown, "-o", page, "--patches", 30, *where)
    assert pages[0].read_text() == pages[1].read_text()

    answers: list[tuple[object, bytes]] = []
    monkeypatch.setattr("mclstexp.outputs.serve.app.make_app", lambda sessions, *_: answers.append(asked(sessions[0])))
    monkeypatch.setattr("mclstexp.outputs.serve.run._run", lambda *_: None)
    for where in ((), there):
        mst("serve", shown, "--device", "cpu", *where)
    assert answers[0] == answers[1]


def asked(session: Session) -> tuple[object, bytes]:
    """Return what a served prediction answers of a gene of its reference alone, and of a neighbour's patch."""
    other = next(name for name in session.reference.genes.symbols if session.prediction.genes.find(name) is None)
    gene = session.gene(other)
    assert gene["values"]
    row = session.neighbours(str(session.prediction.spot_ids[0]))["rows"][0]["row"]
    return gene, session.patch(row)


def test_what_reaches_it_may_be_given_and_is_not_kept(
    mst: Run, built: Path, world: CohortPaths, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options_in_place_of_variables(monkeypatch)
    given[3] = "aws_secret_access_key=the-secret"
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")  # what is given goes before it
    words = ["build-index", str(world.refs), "--model", str(built / "model"), "-o", address, *given]
    monkeypatch.setattr(_options.sys, "argv", ["mst", *words])
    mst(*words, "--device", "cpu")
    kept = mst("history", address, "--json", *given).stdout
    assert "--storage-option aws_secret_access_key=..." in kept
    assert "the-secret" not in kept
    said = error_of(mst("info", address, *given[:-2], ok=False))
    assert "is not encrypted; allow it with --storage-option allow_http=true" in said


def test_what_a_store_refuses_is_one_line(mst: Run, address: str, world: CohortPaths, built: Path) -> None:
    build = ("build-index", world.refs, "--model", built / "model", "-o")
    assert f"{address} is not a reference" in error_of(mst("info", address, ok=False))
    for command in (("info", "s3://nowhere/ref"), ("verify", "s3://nowhere/ref"), (*build, "s3://nowhere/ref")):
        said = error_of(mst(*command, ok=False))
        assert "s3://nowhere/ref: there is no bucket nowhere; make it first" in said
    for place in ("http://127.0.0.1:9", "http://store.invalid"):
        said = error_of(mst("info", address, "--storage-option", f"endpoint={place}", ok=False))
        assert f"the store does not answer at {place}; check the network" in said


@pytest.fixture
def forbidding() -> Iterator[str]:
    """Address of a server that answers every request as S3 answers a wrong key."""
    listener = socket.create_server(("127.0.0.1", 0))
    text = b"<Error><Code>InvalidAccessKeyId</Code><Message>It is not known.</Message></Error>"
    head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n"

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + text)

    threading.Thread(target=answer, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_wrong_credentials_are_said(mst: Run, address: str, forbidding: str) -> None:
    said = error_of(mst("info", address, "--storage-option", f"endpoint={forbidding}", ok=False))
    assert "the store refuses access; check AWS_ACCESS_KEY_ID" in said
