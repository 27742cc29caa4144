"""Interrupted, terminated, out of disk, or with nobody to listen."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import ENCODER, VARIABLES, Run

from mclstexp.cli.app import main
from mclstexp.data.synthetic import CohortPaths

PRELUDE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `make test &` ignores it for all that it starts
sys.argv = ["mst", *sys.argv[1:]]
from mclstexp.cli.app import main
"""

WAITING = (
    PRELUDE
    + """
import time
from mclstexp.index import encode

def one_slide_then_none(slides, *arguments, **options):
    yield encode.slide_record(slides[0], *arguments, **options)
    sys.stderr.write("one slide is encoded\\n")
    time.sleep(60)

encode.slide_records = one_slide_then_none
main()
"""
)


@contextmanager
def running(code: str, *arguments: object, seconds: float = 120) -> Iterator[subprocess.Popen[str]]:
    """Start the command as a process of its own, which is killed where it outlives its time."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    words = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[str], start: str) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith(start):
            return
    raise AssertionError(f"the command ended without {start!r}: {''.join(said)}")


def stopped(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """Send a signal; return the exit code and what was said from then on."""
    assert process.stderr is not None
    process.send_signal(number)
    said = process.stderr.read()
    return process.wait(timeout=60), said


def test_ctrl_c_leaves_nothing(world: CohortPaths, tmp_path: Path) -> None:
    options = ["-o", tmp_path / "model", *ENCODER, "--recipe", "paper", "--n-genes", "40", "--epochs", "100000"]
    with running(PRELUDE + "main()", "train", world.refs, *options, "--cache", tmp_path / "cache") as process:
        wait_for(process, "epoch")
        code, said = stopped(process, signal.SIGINT)
    assert code == 130
    assert said.splitlines()[-1] == "mst: interrupted; nothing half-written was left behind"
    assert "Traceback" not in said
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("number", "expected", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_stopped_build_leaves_nothing_and_the_next_run_works(
    world: CohortPaths, built: Path, mst: Run, tmp_path: Path, number: int, expected: int, word: str
) -> None:
    build = ["build-index", world.refs, "--model", built / "model", "-o", tmp_path / "reference"]
    with running(WAITING, *build, "--cache", tmp_path / "cache") as process:
        wait_for(process, "one slide is encoded")
        assert (tmp_path / "reference").exists()
        code, said = stopped(process, number)
    assert (code, said) == (expected, f"mst: {word}; nothing half-written was left behind\n")
    assert not (tmp_path / "reference").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    mst(*build)
    assert "2 slides" in mst("info", tmp_path / "reference").stdout


@contextmanager
def nearly_full_disk() -> Iterator[None]:
    """A process that may not write files of more than 8 kB fails as one whose disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))  # Python ignores SIGXFSZ: the write fails instead
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("verb", ["query", "build-index"])
def test_a_full_disk_leaves_nothing(
    built: Path,
    world: CohortPaths,
    tmp_path: Path,
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = {
        "query": ["query", world.query_image, world.query_coords, "-r", built / "reference"],
        "build-index": ["build-index", world.refs, "--model", built / "model"],
    }
    words = [*commands[verb], "-o", tmp_path / "out.h5ad", "--cache", tmp_path / "nowhere" / "cache"]
    monkeypatch.setattr(sys, "argv", ["mst", *map(str, words)])
    with nearly_full_disk(), pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.strip().splitlines()[-1].startswith("mst: error:"), said
    assert "Traceback" not in said
    assert [path for path in tmp_path.iterdir() if path.name != "nowhere"] == []


def closed(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command behind a shell's redirection."""
    code = PRELUDE + "main()"
    words = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_output_that_nobody_wants_is_no_error(built: Path) -> None:
    for redirection, words in ((">&-", ("info", built / "reference")), (">&- 2>&-", ("--version",))):
        done = closed(redirection, *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_output_that_cannot_be_written_is_one_line(built: Path) -> None:
    done = closed(">/dev/full", "info", built / "reference")
    assert done.returncode == 1
    assert done.stderr == "mst: error: the system: the disk is full; free some space and run the command again.\n"


def test_a_pipe_that_closes_early_is_quiet(built: Path) -> None:
    done = closed("| true", "info", built / "reference", "--genes")
    assert done.stderr == ""


def test_a_removed_working_folder_is_one_line(tmp_path: Path) -> None:
    words = ["sh", "-c", 'mkdir "$1" && cd "$1" && rmdir "$1" && exec "$2" -c "$3" cache', "sh"]
    words += [str(tmp_path / "gone"), sys.executable, PRELUDE + "main()"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "mst: error: The working folder is not there any more; change to one that is: cd ~\n"


def test_a_name_that_is_no_text_is_refused_before_the_work(tmp_path: Path) -> None:
    name = bytes(tmp_path) + b"/sl\xffide.tif"
    words = [sys.executable, "-c", PRELUDE + "main()", "query", name]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "is not UTF-8" in done.stderr
    assert done.stderr.count("\n") == 1
