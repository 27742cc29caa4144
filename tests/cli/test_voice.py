"""--verbose, --quiet, --log-file: how much is said, where, and that a silent command says it is at work."""

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from commands import Run, command, error_of, usage_of

from mclstexp.cli import _voice, app
from mclstexp.cli._speaking import speaking
from mclstexp.cli._voice import VOICE, listen
from mclstexp.errors import InputError
from mclstexp.notes import inform, warn


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs ``mst speak``, a command that says one thing of each kind."""

    def speak(fail: bool = typer.Option(False, "--fail")) -> None:
        """Say something."""
        told = VOICE.progress()
        told("counting", 1, 2)
        told("counting", 2, 2)
        inform("fitting")
        warn("assumed")
        VOICE.note("done")
        if fail:
            raise InputError("no such thing")

    monkeypatch.setattr(app.app, "registered_commands", list(app.app.registered_commands))
    app.app.command("speak")(speaking(speak))
    return command()


def test_usually_steps_that_are_quick_are_not_said(verb: Run) -> None:
    assert verb("speak").stderr.splitlines() == ["fitting", "assumed", "done"]


def test_verbose_says_every_step_with_its_time(verb: Run) -> None:
    lines = verb("speak", "--verbose").stderr.splitlines()
    assert [re.sub(r"\d+:\d\d", "T", line) for line in lines] == [
        "[T] counting: 2 in 0 s",
        "[T] fitting",
        "[T] assumed",
        "[T] done",
    ]


@pytest.mark.parametrize("words", [("speak", "--quiet"), ("--quiet", "speak")])
def test_quiet_says_nothing_but_errors(verb: Run, words: tuple[str, ...]) -> None:
    assert verb(*words).stderr == ""
    assert error_of(verb(*words, "--fail", ok=False)) == "no such thing"


def test_both_are_refused(verb: Run) -> None:
    assert "one of --verbose and --quiet" in usage_of(verb("--quiet", "speak", "--verbose", ok=False))


def test_the_log_file_has_everything_with_times_and_is_added_to(verb: Run, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    for _ in range(2):
        verb("speak", "--quiet", "--log-file", log)
    verb("speak")  # ends what is written to the file before
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING) ", line) for line in lines)
    texts = [line.split(" ", 3)[3] for line in lines]
    assert texts.count("fitting") == texts.count("assumed") == texts.count("done") == 2
    assert sum(text.startswith("mst ") for text in texts) == sum("ended after" in text for text in texts) == 2


def test_a_log_file_that_cannot_be_written_is_refused_before_any_work(verb: Run, tmp_path: Path) -> None:
    result = verb("speak", "--log-file", tmp_path, ok=False)
    assert "cannot be written: Is a directory" in error_of(result)
    assert "done" not in result.stderr


def test_a_file_that_is_no_log_is_left_as_it_was(verb: Run, tmp_path: Path) -> None:
    spots = tmp_path / "coords.csv"
    spots.write_text("id,x,y\na,1,2\n")
    assert "is no log" in error_of(verb("speak", "--log-file", spots, ok=False))
    assert spots.read_text() == "id,x,y\na,1,2\n"


def test_a_pipe_that_nobody_reads_is_no_log(verb: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "cannot be written" in error_of(verb("speak", "--log-file", tmp_path / "pipe", ok=False))


def test_a_full_disk_ends_the_log_and_not_the_command(verb: Run) -> None:
    result = verb("speak", "--log-file", "/dev/full")
    (line,) = [line for line in result.stderr.splitlines() if "ends here" in line]
    assert "No space left" in line
    assert result.stderr.splitlines()[-1] == "done"


def test_an_error_is_one_line_and_verbose_says_where_it_came_from(
    verb: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for option in ("--quiet", "--verbose"):
        monkeypatch.setattr(sys, "argv", ["mst", "speak", "--fail", option])
        with pytest.raises(SystemExit) as stop:
            app.main()
        assert stop.value.code == 1
        said[option] = capsys.readouterr().err
    assert said["--quiet"] == "mst: error: no such thing\n"
    assert "Traceback" in said["--verbose"]
    assert said["--verbose"].splitlines()[-1].endswith("mst: error: no such thing")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Take SIGINT as a command in the foreground does: ``make test &`` has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signals_have_codes_and_a_line(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(one) for one in app.SIGNALS]
    cleaned = []

    def busy() -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(app, "_run", busy)
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert (stop.value.code, cleaned) == (code, [True])
    assert capsys.readouterr().err.endswith("; nothing half-written was left behind\n")
    assert [signal.getsignal(one) for one in app.SIGNALS] == handlers


def test_a_silent_command_says_that_it_is_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_voice, "SILENCE", 0.05)
    listen()
    inform("cross-validating")
    with VOICE.heartbeat():
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["cross-validating", "[0:00] still at work: cross-validating"]
    VOICE.resting = True
    with VOICE.heartbeat():
        time.sleep(0.15)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 179. GiB for an array with shape (4, 5)"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 200000000000 bytes."
        ),
        RuntimeError("Error in faiss: std::bad_alloc"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
    ],
)
def test_memory_that_is_not_there_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listen()
    inform("searching")
    capsys.readouterr()

    def fail() -> None:
        raise error

    monkeypatch.setattr(app, "_run", fail)
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    amount = re.search(r"\d[\d.]* ?(GiB|bytes)", str(error))
    assert line.startswith("mst: error: memory ran out: ")
    assert "while at: searching" in line
    assert ("GiB more" in line or "MiB more" in line) == (amount is not None)


def test_the_loggers_of_others_are_left_alone() -> None:
    listen()
    assert not logging.getLogger().handlers or all(
        type(handler).__module__ != _voice.__name__ for handler in logging.getLogger().handlers
    )
