"""The command ``mst``: one function a verb, registered here; errors become one line on stderr."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import typer

from mclstexp.cli._memory import is_out_of_memory, out_of_memory
from mclstexp.cli._speaking import LogFile, Quiet, Verbose, choose_voice, speaking
from mclstexp.cli._voice import VOICE, listen
from mclstexp.errors import InputError, MclstexpError

_ABOUT = (
    "Predict spatial gene expression from H&E slides by retrieval from a reference that grows and shows its evidence."
)

app = typer.Typer(
    name="mst",
    help=_ABOUT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
"""Signals that end the command through every clean-up, and the word for it."""


def _show_version(value: bool) -> None:
    if value:
        from mclstexp import __version__

        typer.echo(f"mst {__version__}")
        raise typer.Exit


@app.callback(help=_ABOUT)
def main_options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", callback=_show_version, is_eager=True
    ),
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Take the options that come before a command; the text for ``--help`` is `_ABOUT`."""
    listen()
    choose_voice(verbose=verbose, quiet=quiet, log_file=log_file)


def main() -> None:
    """Run the command; the exit codes are those of docs/reference/exit-codes.md."""
    _open_streams()
    before = {number: signal.signal(number, _leave) for number in SIGNALS if number != signal.SIGINT}
    try:
        _check_surroundings()
        with VOICE.heartbeat():
            _run()
    except MclstexpError as error:
        _fail(str(error))
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer turns Ctrl-C into an exit of its own, without a word
        code = stop.code if isinstance(stop, SystemExit) else _code(signal.SIGINT)
        word = {_code(number): word for number, word in SIGNALS.items()}.get(code)  # type: ignore[arg-type]
        if word is None:
            raise
        VOICE.note(f"mst: {word}; nothing half-written was left behind", logging.ERROR)
        sys.exit(code)
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(1)
    except OSError as error:
        from mclstexp.storage import storage_error

        _discard_stdout()
        _fail(str(storage_error(error, error.filename or "the system")))
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(out_of_memory(error, VOICE.last))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        VOICE.close()


def _run() -> None:
    try:
        app(standalone_mode=True)
    finally:
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told from a success


def _code(number: int) -> int:
    """Return the exit code of a signal, as shells give it."""
    return 128 + number


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave as on Ctrl-C: through every clean-up."""
    sys.exit(_code(number))


def _check_surroundings() -> None:
    """Refuse what libraries stumble over after the work: a removed working folder, names that are no text."""
    try:
        words = [*sys.argv[1:], str(Path.cwd())]
        for word in words:
            word.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The name {error.object!a} is not UTF-8, and no record can keep it; rename the file or folder, or set "
            "LC_ALL=C.UTF-8 where only the terminal's settings are of another kind."
        ) from error
    except OSError as error:
        raise InputError("The working folder is not there any more; change to one that is: cd ~") from error


def _open_streams() -> None:
    """Give a stream that the caller closed somewhere to go, as `print` does: output that nobody wants is no error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115


def _discard_stdout() -> None:
    """Keep Python from writing again, as it ends, what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> None:
    """Say what is wrong, in one line, and exit with 1; where it came from, too, to who asked for more."""
    VOICE.note(traceback.format_exc().rstrip(), logging.DEBUG)
    VOICE.note("mst: error: " + " ".join(message.split()), logging.ERROR)
    sys.exit(1)


def _register() -> None:
    from mclstexp.cli import (
        build_index,
        cache,
        check,
        demo,
        evaluate,
        export,
        fetch,
        neighbours,
        plot,
        publish,
        query,
        reference,
        report,
        serve,
        train,
    )

    commands: dict[str, Callable[..., None]] = {
        "demo": demo.demo,
        "check": check.check,
        "train": train.train,
        "build-index": build_index.build_index,
        "query": query.query,
        "neighbours": neighbours.neighbours,
        "plot": plot.plot,
        "report": report.report,
        "serve": serve.serve,
        "export": export.export,
        "evaluate": evaluate.evaluate,
        "add": build_index.add,
        "publish": publish.publish,
        "cache": cache.cache,
    }
    verbs = ("remove", "cohorts", "info", "verify", "history", "restore", "tag", "optimize")
    commands |= {verb: getattr(reference, verb) for verb in verbs}
    for name, command in commands.items():
        app.command(name)(speaking(command))
    app.add_typer(fetch.app, name="fetch")


_register()
