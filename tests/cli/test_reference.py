"""The commands that look after a reference, run as a user runs them."""

import json
import os
import subprocess
import sys

import pytest
import typer
from simulation import Simulation
from typer.testing import CliRunner

from mclstexp.cli import reference as commands
from mclstexp.errors import MclstexpError
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.table import manifest_name

SIM = Simulation(n_genes=24, n_panel=12, dim=8)
NAMES = ("remove", "cohorts", "info", "verify", "history", "restore", "tag", "optimize")


@pytest.fixture
def root(tmp_path):
    store = ReferenceStore.create(
        tmp_path / "ref", SIM.identity(patch={"mpp": 0.5}), SIM.records(3, 12), command="mst b"
    )
    store.add([SIM.record(9, 12, image=False)], command="mst add more")
    return tmp_path / "ref"


def run(*arguments):
    app = typer.Typer()
    for name in NAMES:
        app.command(name)(getattr(commands, name))
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def data(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_info(root):
    values = data("info", "-r", root)
    assert (values["n_spots"], values["n_slides"], values["n_with_image"], values["version"]) == (48, 4, 3, 2)
    assert values["settings"]["patch"] == {"mpp": 0.5}
    assert values["bytes"]["total"] > values["bytes"]["tables"] > 0
    assert data("info", "-r", root, "--version", "1")["n_spots"] == 36
    text = run("info", "-r", root).stdout
    assert "48 spots of 4 slides (3 with image)" in text
    assert "mpp=0.5" in text


def test_cohorts(root):
    tree = data("cohorts", "-r", root)
    assert [(cohort["cohort"], cohort["spots"], cohort["genes"]) for cohort in tree] == [
        ("cohort000", 36, 24),
        ("cohort001", 12, 24),
    ]
    (patient,) = tree[0]["patients"]
    assert [slide["slide"] for slide in patient["slides"]] == ["slide0000", "slide0001", "slide0002"]
    text = run("cohorts", "-r", root).stdout
    assert "cohort000: 1 patient, 3 slides" in text
    assert "slide0009 (no image)" in text


def test_remove_history_restore_tag(root):
    assert data("tag", "before", "-r", root) == {"tag": "before", "version": 2}
    assert data("tag", "first", "-r", root, "--version", "1") == {"tag": "first", "version": 1}
    gone = data("remove", "-r", root, "--patient", "patient0000", "-m", "wrong stain")
    assert gone == {"version": 3, "removed": ["slide0000", "slide0001", "slide0002"], "n_spots": 12, "n_slides": 1}
    assert data("tag", "spare", "-r", root, "--version", "1") == {"tag": "spare", "version": 1}
    assert "removed tag spare of version 1" in run("tag", "spare", "-r", root, "--remove").stdout
    with pytest.raises(MclstexpError, match="no tag 'spare'"):
        run("tag", "spare", "-r", root, "--remove")
    assert data("restore", "before", "-r", root)["n_spots"] == 48
    rows = data("history", "-r", root)
    assert [(row["version"], row["spots"], row["tags"]) for row in rows] == [
        (1, 36, ["first"]),
        (2, 48, ["before"]),
        (3, 12, []),
        (4, 48, []),
    ]
    assert rows[1]["command"] == "mst add more"
    assert rows[2]["message"] == "wrong stain"
    lines = run("history", "-r", root).stdout.splitlines()
    assert len(lines) == 5
    assert "first" in lines[1]
    assert (
        "version 5: 1 slide removed (slide0009); 36 spots remain"
        in run("remove", "-r", root, "--slide", "slide0009").stdout
    )
    assert "is version 1 again" in run("restore", "1", "-r", root).stdout
    assert data("optimize", "-r", root)["index"][0]["kind"] == "exact"


def test_verify_says_what_is_wrong_and_exits_with_1(root):
    assert data("verify", "-r", root)["ok"]
    assert "4 slides, 48 spots: whole" in run("verify", "-r", root).stdout
    version = root / manifest_name(2)
    version.unlink()
    result = run("verify", "-r", root)
    assert result.exit_code == 1
    assert f"error: {manifest_name(2)}: the file is missing" in result.stdout
    assert "NOT whole" in result.stdout
    assert run("verify", "-r", root, "--json").exit_code == 1
    assert run("verify", "-r", root, "--repair").exit_code == 0
    assert data("verify", "-r", root)["findings"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "-r", "nowhere"),
        ("restore", "99", "-r", "{root}"),
        ("restore", "nope", "-r", "{root}"),
        ("remove", "-r", "{root}"),
        ("remove", "--cohort", "nope", "-r", "{root}"),
        ("tag", "1bad", "-r", "{root}"),
        ("cohorts", "-r", "{root}", "--version", "7"),
    ],
)
def test_mistakes_are_one_line(root, arguments):
    with pytest.raises(MclstexpError) as error:
        run(*(argument.format(root=root) for argument in arguments))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) > 20


def test_the_module_imports_nothing_heavy():
    heavy = "numpy torch faiss lance lancedb pyarrow anndata scanpy scipy"
    script = f"import sys, mclstexp.cli.reference; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\n"
