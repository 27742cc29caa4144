"""mst neighbours."""

import json
from pathlib import Path

from typer import Typer
from typer.testing import CliRunner
from worlds import tiny_prediction

from mclstexp.cli.neighbours import neighbours
from mclstexp.errors import InputError


def test_neighbours_command(tmp_path: Path) -> None:
    path, app = tmp_path / "p.h5ad", Typer()
    app.command()(neighbours)
    tiny_prediction().save(path)
    lines = CliRunner().invoke(app, [str(path), "0x0", "--top", "2"]).stdout.splitlines()
    assert lines[0].split()[:3] == ["rank", "similarity", "weight"]
    assert [line.split()[:2] for line in lines[1:]] == [["1", "1.0000"], ["2", "0.5000"]]
    listed = json.loads(CliRunner().invoke(app, [str(path), "0x0", "--json"]).stdout)
    assert [row["row_id"] for row in listed] == [1001, 1002, 1003]
    assert isinstance(CliRunner().invoke(app, [str(path), "?"]).exception, InputError)
