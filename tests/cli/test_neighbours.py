"""mst neighbours."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from typer import Typer
from typer.testing import CliRunner, Result
from worlds import tiny_prediction

from mclstexp.cli.neighbours import neighbours
from mclstexp.errors import InputError
from mclstexp.predict.prediction import Prediction


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_prediction().save(tmp_path / "p.h5ad")
    return tmp_path / "p.h5ad"


def run(*arguments: object) -> Result:
    app = Typer()
    app.command()(neighbours)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_text_has_sentences_neighbours_and_sums(saved: Path) -> None:
    done = run(saved, "0x0", "--top", 2)
    said, rows, cohorts, patients, slides = done.stdout.rstrip().split("\n\n")
    assert said.splitlines()[0] == "0x0 of S1: 3 neighbours from 1 slide of 1 patient, effective number 3."
    lines = [line.split() for line in rows.splitlines()]
    assert lines[0] == ["rank", "similarity", "weight", "patient", "slide", "spot", "cohort", "x_px", "y_px"]
    assert [line[:2] for line in lines[1:]] == [["1", "1.0000"], ["2", "0.5000"]]
    assert [part.splitlines()[1].split() for part in (cohorts, patients, slides)] == [
        ["c", "3", "1.0000"], ["p", "3", "1.0000"], ["s", "3", "1.0000"]
    ]  # fmt: skip
    assert "2 of 3 neighbours of 0x0; --top 3 lists all." in done.stderr
    assert run(saved, "0x0", "--by", "patient").stdout.split("\n\n")[1:] == [patients + "\n"]


def test_for_machines(saved: Path) -> None:
    listed = json.loads(run(saved, "0x0", "--json").stdout)
    assert [row["row_id"] for row in listed["neighbours"]] == [1001, 1002, 1003]
    assert listed["even"] is True
    rows = list(csv.DictReader(run(saved, "0x0", "--csv").stdout.splitlines()))
    assert [row["spot"] for row in rows] == ["r1", "r2", "r3"]
    (cohort,) = csv.DictReader(run(saved, "0x0", "--csv", "--by", "cohort").stdout.splitlines())
    assert (cohort["cohort"], cohort["neighbours"]) == ("c", "3")


def test_refusals(saved: Path, tmp_path: Path) -> None:
    for arguments in (["?"], ["0x0", "--gene", "ERBB2"], ["0x0", "--sheet", tmp_path / "a.gif"]):
        assert isinstance(run(saved, *arguments).exception, InputError)
    assert run(saved, "0x0", "--json", "--csv").exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.h5ad", "p.neighbours.parquet"]


def test_a_gene_and_a_sheet_from_the_recorded_reference(built: Path, mst: Run, tmp_path: Path) -> None:
    prediction = Prediction.load(built / "p.h5ad")
    spot, gene = str(prediction.spot_ids[0]), prediction.genes.symbols[0]
    sheet = tmp_path / "sheet.png"
    done: Any = mst("neighbours", built / "p.h5ad", spot, "--gene", gene, "--sheet", sheet, "-n", 2, "--json")
    listed = json.loads(done.stdout)
    assert [set(row) >= {"value", "contribution"} for row in listed["neighbours"]] == [True, True]
    assert sheet.stat().st_size > 10_000


def test_it_loads_nothing_heavy(saved: Path) -> None:
    """A second's answer: anndata, matplotlib and torch take longer to load than everything that is done."""
    spot = Prediction.load(saved).spot_ids[0]
    code = (
        "import sys; from mclstexp.cli.app import app; app(sys.argv[1:], standalone_mode=False); "
        "print('loaded', *[name for name in ('anndata', 'matplotlib', 'torch', 'lancedb') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, "neighbours", str(saved), str(spot)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"
