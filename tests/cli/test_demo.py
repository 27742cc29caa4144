"""``mst demo``: the whole way, offline."""

import functools
import json
import socket
from pathlib import Path

import anndata as ad
import pytest
from commands import SMALL, command, error_of

from mclstexp.data.synthetic import cohort


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the demo opened a connection")


def test_the_demo_needs_no_network_and_records_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(cohort, "write_cohort", functools.partial(cohort.write_cohort, spec=SMALL))
    monkeypatch.chdir(tmp_path)
    result = command()("demo", "--patients", 2, "-o", "demo")
    folder = tmp_path / "demo"
    assert sorted(path.name for path in folder.iterdir()) == [
        "CD3E.png", "COL1A1.png", "ERBB2.png", "cache", "cohort", "model",
        "prediction.h5ad", "prediction.neighbours.parquet", "reference",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert "all genes" in result.stdout
    record = ad.read_h5ad(folder / "prediction.h5ad").uns["mclstexp"]
    for name in ("image", "reference"):
        assert Path(record[name]).exists()
        assert Path(json.loads(record["settings"])[name]) == Path(record[name])
    suggested = result.stdout.strip().splitlines()[-1]
    assert suggested.startswith("mst neighbours demo/prediction.h5ad ")
    listed = command()(*suggested.split()[1:])
    assert "effective number" in listed.stdout.splitlines()[0]


def test_a_demo_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("mine")
    monkeypatch.setattr(cohort, "write_cohort", refuse)
    assert "exists already; give --force" in error_of(command()("demo", "-o", tmp_path / "demo", ok=False))
    result = command()("demo", "-o", tmp_path / "demo", "--force", ok=False)
    assert isinstance(result.exception, AssertionError)
    assert (tmp_path / "demo" / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
