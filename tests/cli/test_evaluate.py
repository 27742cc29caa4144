"""The command `mst evaluate`: wrong usage, early refusals, and what it loads."""

import subprocess
import sys

import pytest

from mclstexp.errors import MclstexpError


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
        (["--by", "spot"], "'spot' is not one of patient, slide, cohort"),
        (["--protocol", "ours"], "'ours' is not one of default, paper, paper-code"),
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
        ([str(tmp_path / "refs"), "--folds", str(tmp_path / "none.csv")], "Cannot read folds"),
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


def test_the_published_recipe_is_always_there_and_follows_the_protocol():
    from mclstexp.cli.evaluate import _recipes

    assert _recipes(None, "default") == ("default", "paper")
    assert _recipes(None, "paper-code") == ("default", "paper-code")
    assert _recipes(["paper", "default", "paper"], "default") == ("paper", "default")
    assert _recipes(["paper"], "paper-code") == ("paper",)
