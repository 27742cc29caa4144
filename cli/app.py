"""The command ``mst``: one function a verb, registered here; errors become one line on stderr."""

import os
import signal
import sys
from types import FrameType

import typer

from mclstexp.cli._output import listen
from mclstexp.errors import MclstexpError

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

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of Ctrl-C and of a polite kill, as shells give them: 128 and the signal's number."""


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
) -> None:
    """Take the options that come before a command; the text for ``--help`` is `_ABOUT`."""
    listen()


def main() -> None:
    """Run the command; exit 0 on success, 1 on bad input, 2 on wrong usage, 130 on Ctrl-C, 143 on SIGTERM."""
    _open_streams()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        _run()
    except MclstexpError as error:
        _fail(str(error))
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer turns Ctrl-C into an exit of its own, without a word
        code = stop.code if isinstance(stop, SystemExit) else INTERRUPTED
        if code not in (INTERRUPTED, TERMINATED):
            raise
        word = "interrupted" if code == INTERRUPTED else "terminated"
        sys.stderr.write(f"mst: {word}; nothing half-written was left behind\n")
        sys.exit(code)
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(1)
    except OSError as error:
        from mclstexp.storage import storage_error

        _discard_stdout()
        _fail(str(storage_error(error, error.filename or "the system")))
    finally:
        signal.signal(signal.SIGTERM, before)


def _run() -> None:
    try:
        app(standalone_mode=True)
    finally:
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told from a success


def _terminate(number: int, frame: FrameType | None) -> None:
    """Leave as on Ctrl-C: through every clean-up."""
    sys.exit(TERMINATED)


def _open_streams() -> None:
    """Give a stream that the caller closed somewhere to go, as `print` does: output that nobody wants is no error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115


def _discard_stdout() -> None:
    """Keep Python from writing again, as it ends, what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> None:
    sys.stderr.write("mst: error: " + " ".join(message.split()) + "\n")
    sys.exit(1)


def _register() -> None:
    from mclstexp.cli import (
        build_index,
        check,
        demo,
        evaluate,
        export,
        fetch,
        neighbours,
        plot,
        query,
        reference,
        report,
        serve,
        train,
    )

    app.command("demo")(demo.demo)
    app.command("check")(check.check)
    app.add_typer(fetch.app, name="fetch")
    app.command("train")(train.train)
    app.command("build-index")(build_index.build_index)
    app.command("query")(query.query)
    app.command("neighbours")(neighbours.neighbours)
    app.command("plot")(plot.plot)
    app.command("report")(report.report)
    app.command("serve")(serve.serve)
    app.command("export")(export.export)
    app.command("evaluate")(evaluate.evaluate)
    app.command("add")(build_index.add)
    for verb in ("remove", "cohorts", "info", "verify", "history", "restore", "tag", "optimize"):
        app.command(verb)(getattr(reference, verb))


_register()
