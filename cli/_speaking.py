"""The options that every command has: --verbose, --quiet and --log-file."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from mclstexp.cli._voice import VOICE

Verbose = Annotated[
    bool, typer.Option("--verbose", help="Say more: every step with its time, and where an error came from.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say errors only.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="File that gets everything said, with times; added to.")
]

COMMON: dict[str, Any] = {"verbose": (Verbose, False), "quiet": (Quiet, False), "log_file": (LogFile, None)}
"""Name of each parameter, its annotation and default."""


def speaking(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the options that every command has, which it is not given itself."""
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command)
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in COMMON.items()
    ]

    @functools.wraps(command)
    def run(*arguments: Any, **values: Any) -> None:
        choose_voice(**{name: values.pop(name, default) for name, (_, default) in COMMON.items()})
        command(*arguments, **values)

    parameters = [parameter.replace(annotation=hints[name]) for name, parameter in own.parameters.items()]
    run.__signature__ = own.replace(parameters=[*parameters, *common])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, **{name: annotation for name, (annotation, _) in COMMON.items()}}
    return run


def choose_voice(*, verbose: bool, quiet: bool, log_file: Path | None) -> None:
    """Speak as the options say.

    Raises
    ------
    typer.BadParameter
        When both --verbose and --quiet are given.
    InputError
        When the log file cannot be written.
    """
    if (verbose or VOICE.verbose) and (quiet or VOICE.quiet):
        raise typer.BadParameter("give one of --verbose and --quiet.", param_hint="--verbose")
    VOICE.configure(verbose=verbose, quiet=quiet, log_file=log_file)
