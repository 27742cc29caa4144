"""``--help`` of every command, shell completion, and what the command costs before it does anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import VARIABLES, command

from mclstexp.cli.app import app
from mclstexp.data.synthetic import CohortPaths
from mclstexp.index.search import faiss_gpu
from mclstexp.predict.prediction import Prediction

VERBS = [str(registered.name) for registered in app.registered_commands]
SHORT = {
    "check": "mst check refs/",
    "train": "mst train refs/",
    "build-index": "mst build-index refs/",
    "query": "mst query slide.tif coords.csv",
    "neighbours": "mst neighbours slide.h5ad 10x15",
    "plot": "mst plot slide.h5ad --gene ERBB2",
    "info": "mst info reference/",
}


def help_of(verb: str) -> list[str]:
    return command()(verb, "--help").stdout.splitlines()


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_shows_an_example_on_a_line_of_its_own(verb: str) -> None:
    lines = [line.strip() for line in help_of(verb)]
    (example,) = [line for line in lines if line.startswith("Example: ")]
    assert example.startswith(f"Example: mst {verb}")
    assert len(lines[lines.index(example) - 1]) == len(lines[lines.index(example) + 1]) == 0
    assert verb not in SHORT or example == f"Example: {SHORT[verb]}"


@pytest.mark.parametrize("verb", VERBS)
def test_an_example_is_accepted_as_it_is_typed(verb: str) -> None:
    """Every word of it is an argument or option of the command: it gets as far as to look for its files."""
    (example,) = [line.strip() for line in help_of(verb) if line.strip().startswith("Example: ")]
    options = {word for word in example.split() if word.startswith("-")}
    offered = set(re.findall(r"(?<![\w-])-{1,2}[a-z][a-z-]*", "\n".join(help_of(verb))))
    assert options <= offered


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_a_terminal_and_holds_no_markup(verb: str) -> None:
    lines = help_of(verb)
    assert max(map(len, lines)) <= 80
    assert not any(mark in line for line in lines for mark in ("``", "[bold]", "│", "[["))


def run(*words: str, code: str = "from mclstexp.cli.app import main; main()", **environment: str) -> str:
    known = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    words = (sys.executable, "-c", f"import sys; sys.argv = ['mst', *sys.argv[1:]]; {code}", *words)
    done = subprocess.run(words, capture_output=True, text=True, env={**known, **environment}, timeout=60)
    assert done.stderr == ""
    return done.stdout


def test_a_shell_completes_commands_options_and_choices() -> None:
    assert "_MST_COMPLETE=complete_bash" in run(_MST_COMPLETE="source_bash")

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        return run(_MST_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)).split()

    assert completed("mst bu") == ["build-index"]
    assert completed("mst train refs --rec") == ["--recipe"]
    assert completed("mst train refs --recipe pa") == ["paper", "paper-code"]
    assert completed("mst query a b --device c") == ["cpu", "cuda"]


def test_completion_can_be_shown_and_the_version_asked() -> None:
    offered = command()("--help").stdout
    assert "--install-completion" in offered
    assert "--show-completion" in offered
    assert re.fullmatch(r"mst \d+\.\d+\S*\n", run("--version"))


LOADED = (
    "import atexit, os; from mclstexp.cli.app import main\n"
    "atexit.register(lambda: print('heavy:', *(name for name in {heavy!r} if name in sys.modules)))\n"
    "main()"
)
"""A program that runs the command and says which modules it loaded."""


@pytest.mark.parametrize("verb", ["info", "cohorts", "history", "tag", "verify"])
def test_looking_after_a_reference_loads_no_model(built: Path, verb: str) -> None:
    heavy = ("torch", "timm", "anndata", "scanpy", "sklearn", "matplotlib")
    assert run(verb, "-r", str(built / "reference"), code=LOADED.format(heavy=heavy)).splitlines()[-1].split() == [
        "heavy:"
    ]


def test_a_query_of_cached_features_loads_nothing_that_takes_seconds(
    built: Path, world: CohortPaths, cache: Path, tmp_path: Path
) -> None:
    """Both torch and anndata, whose import takes longer than the query; and faiss, where there is no GPU."""
    heavy = ("torch", "timm", "anndata", "zarr", "dask", "scanpy", "sklearn", "numba", "matplotlib", "lancedb")
    heavy += ("faiss",) if not faiss_gpu.count_gpus() else ()
    words = [world.query_image, world.query_coords, "-r", built / "reference", "-o", tmp_path / "p.h5ad", "--quiet"]
    said = run("query", *map(str, words), code=LOADED.format(heavy=heavy), MST_CACHE=str(cache))
    assert said.splitlines()[-1].split() == ["heavy:"]
    assert Prediction.load(tmp_path / "p.h5ad").mean.shape == Prediction.load(built / "p.h5ad").mean.shape


def test_a_map_of_a_gene_loads_no_reader_of_slides(built: Path, tmp_path: Path) -> None:
    gene = Prediction.load(built / "p.h5ad").genes.symbols[0]
    heavy = ("torch", "anndata", "scanpy", "sklearn", "scipy.fft", "scipy.ndimage", "mclstexp.data.readers", "lance")
    words = ["--gene", gene, "-o", str(tmp_path / "p.png"), "--dpi", "50", "--quiet"]
    said = run("plot", str(built / "p.h5ad"), *words, code=LOADED.format(heavy=heavy))
    assert said.splitlines()[-1].split() == ["heavy:"]
