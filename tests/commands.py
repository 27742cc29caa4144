"""The command as tests run it: in this process, as a user would type it."""

import shutil
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner, Result

from mclstexp.cli.app import app
from mclstexp.data.synthetic import SlideSpec, write_cohort
from mclstexp.errors import MclstexpError

ENCODER = ["--encoder", "test_resnet", "--encoder-weights", "random", "--device", "cpu"]
FAST = ["--set", "patch.size_px=64", "--set", "encoder.views=1", "--set", "choose=[]", "--n-genes", "40"]
VARIABLES = ("MST_CACHE", "MST_ENCODER", "MST_ENCODER_WEIGHTS", "MST_MODEL", "MST_REFERENCE")

SMALL = SlideSpec(n_genes=60, side_px=900, pitch_um=80.0)

Run = Callable[..., Result]


def command(cache: Path | None = None) -> Run:
    """Return what runs ``mst``; without a cache folder the environment alone decides. ``ok=False`` lets it fail."""
    environment: dict[str, str | None] = dict.fromkeys(VARIABLES)
    if cache is not None:
        environment["MST_CACHE"] = str(cache)

    def run(*arguments: object, ok: bool = True, env: dict[str, str] | None = None) -> Result:
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(app, words, env={**environment, **(env or {})})
        if ok and result.exit_code != 0:
            raise AssertionError(f"{words}: {result.output} {result.exception!r}") from result.exception
        return result

    return run


def error_of(result: Result) -> str:
    """Return the one line that the command says of an error of the input."""
    assert result.exit_code == 1
    assert isinstance(result.exception, MclstexpError), repr(result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def usage_of(result: Result) -> str:
    """Return what the command says to wrong usage, in one line."""
    assert result.exit_code == 2, (result.output, result.exception)
    return " ".join(result.output.replace("│", " ").split())


def working_folder(folder: Path) -> Path:
    """Make a new folder of a user who has ``refs/`` of two patients, ``slide.tif`` and ``coords.csv``."""
    cohort = write_cohort(folder, n_patients=2, slides_per_patient=1, spec=SMALL)
    cohort.query_image.rename(folder / "slide.tif")
    cohort.query_coords.rename(folder / "coords.csv")
    shutil.rmtree(folder / "query")
    return folder
