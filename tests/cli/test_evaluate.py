"""The command `mst evaluate`: wrong usage, early refusals, and what it loads."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from worlds import Told, World, oracle

from mclstexp.cli._output import table
from mclstexp.cli.evaluate import _show
from mclstexp.errors import MclstexpError
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.run import run_evaluation
from mclstexp.evaluate.scores import HEADINGS, MethodPrediction


@pytest.fixture
def command():
    import typer
    from typer.testing import CliRunner

    from mclstexp.cli.evaluate import evaluate

    app = typer.Typer(rich_markup_mode=None)
    app.command()(evaluate)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--by", "spot"], "'spot' is not one of 'patient', 'slide', 'cohort'"),
        (["--protocol", "ours"], "'ours' is not one of 'default', 'paper', 'paper-code'"),
        (["--recipe", "paper", "--recipe", "ours"], "'ours' is not one of 'default', 'paper', 'paper-code'"),
        (["--total", "spot"], "--total"),
        (["--log", "log2"], "--log"),
        (["--seeds", "0,x"], "--seeds"),
        (["--target-sum", "-5"], "--target-sum"),
        (["--target-sum", "nan"], "--target-sum"),
        (["--genes", __file__, "--n-genes", "5"], "--n-genes"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_option(command, tmp_path, arguments, says):
    result = command(str(tmp_path), *arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_the_command_refuses_early_what_cannot_work(command, tmp_path):
    (tmp_path / "refs").mkdir()
    for arguments, says in [
        ([str(tmp_path / "refs"), "-o", str(tmp_path / "refs")], "exists already"),
        ([str(tmp_path / "refs"), "--folds", str(tmp_path / "none.csv")], "do not exist; correct the path"),
        ([str(tmp_path / "refs"), "--protocol", "paper-code"], "--genes"),
        ([str(tmp_path / "refs"), "--tune", "retrieval.k=5"], "leaves nothing to choose"),
        ([str(tmp_path / "absent")], "absent"),
    ]:
        result = command(*arguments)
        assert isinstance(result.exception, MclstexpError), (arguments, result.exception)
        assert says in str(result.exception)


def test_the_command_loads_nothing_heavy_until_it_runs():
    code = "import sys, mclstexp.cli.evaluate as m; print(sorted({n.partition('.')[0] for n in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("numpy", "torch", "timm", "faiss", "lancedb", "anndata", "scanpy", "matplotlib", "sklearn"):
        assert f"'{name}'" not in loaded


@pytest.fixture(scope="module")
def result():
    """An evaluation with intervals that are too narrow, and marker sets enough for a wide table."""
    world = World(noise=0.3)
    methods = [
        Told(oracle(world), "perfect"),
        Told(oracle(world, half_width=0.0, level=0.9), "exact"),
        Told(too_sure(world), "a method of a long name", deterministic=False),
    ]
    markers = {f"set number {i}": (f"G{i}", f"G{i + 1}") for i in range(4)}
    return run_evaluation(world.slides, methods, EvaluationProtocol(seeds=(0, 1), n_genes=60, markers=markers))


def too_sure(world):
    truth = oracle(world)

    def answer(slide, panel, seed):
        mean = truth(slide, panel, seed).mean + np.random.default_rng(seed).normal(size=(len(slide), len(panel)))
        half_width = 0.5 if slide.slide_id == "C1" else 3.0
        return MethodPrediction(mean, mean - half_width, mean + half_width, None, 0.9)

    return answer


def printed(result, capsys, **options):
    _show(result, None, **{"force": False, "as_json": False, "warned": [], **options})
    out, err = capsys.readouterr()
    return out, err


def test_every_table_fits_120_columns_and_every_measure_is_shown(result, capsys):
    out, _ = printed(result, capsys)
    described, by_slide, overall = re.split("\n\n(?=by slide|overall)", out)
    for part in (by_slide, overall):
        blocks = [block.splitlines() for block in part.partition("\n")[2].strip().split("\n\n")]
        assert len(blocks) > 1
        assert max(len(line) for block in blocks for line in block) <= 120
        assert {block[0].split()[0] for block in blocks} == {blocks[0][0].split()[0]}
    shown = re.split(r"\s{2,}|\n", overall)
    header, rows = result.table()
    for key in header:
        assert HEADINGS.get(key, key.replace("pcc_set:", "PCC ")) in shown, key
    pooled = rows[2][header.index("pooled_pcc")]
    assert re.search(rf"^a method of a long name .*{pooled:.4f}", overall, re.MULTILINE)
    assert "protocol: default" in described


def test_a_narrow_terminal_table_loses_no_column():
    header, row = ["name", "first", "second", "third"], ["x", 1.0, 22, None]
    assert table(header, [row]).splitlines() == ["name   first  second  third", "x     1.0000      22      -"]
    assert table(header, [row], width=22).splitlines() == [
        "name   first  second",
        "x     1.0000      22",
        "",
        "name  third",
        "x         -",
    ]
    # a column goes on its own line even where nothing fits
    assert table(header, [row], width=1, repeated=2).count("\n\n") == 1


def test_intervals_that_hold_too_little_are_warned_of_wherever_a_result_is_read(result, capsys, tmp_path):
    (warning,) = [text for text in result.warnings if "interval" in text]
    assert re.fullmatch(
        r"The intervals of a method of a long name are too narrow on 1 of 5 slides: they should hold 0\.9 of the "
        r"measured values and hold 0\.3\d\d on C1; do not rely on them for slides like these\.",
        warning,
    )
    _, err = printed(result, capsys)
    assert f"WARNING: {warning}" in err.splitlines()
    out, _ = printed(result, capsys, as_json=True)
    report = json.loads(out)
    assert warning in report["warnings"]
    assert {row["interval_level"] for row in report["slides"]} == {None, 0.9}
    _show(result, tmp_path / "report", force=False, as_json=True, warned=[])
    assert warning in (tmp_path / "report" / "report.html").read_text()


def test_the_published_recipe_is_always_there_and_follows_the_protocol():
    from mclstexp.cli.evaluate import _recipes

    assert _recipes(None, "default") == ("default", "paper")
    assert _recipes(None, "paper-code") == ("default", "paper-code")
    assert _recipes(["paper", "default", "paper"], "default") == ("paper", "default")
    assert _recipes(["paper"], "paper-code") == ("paper",)
