"""Print docs/reference/cli.md from the commands themselves: ``python docs/make_cli.py > docs/reference/cli.md``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from mclstexp.cli._speaking import COMMON
from mclstexp.cli.app import app

HEAD = """\
# Commands and options

Made by `python docs/make_cli.py` from the commands; `mst COMMAND --help` says the same.
Data goes to stdout, progress and notes to stderr.
What the exit codes mean: [exit-codes.md](exit-codes.md).

Every command has these options, too, before its name or after it:

| | value | default | what |
|---|---|---|---|
"""

_NAMES = {"Path": "path", "str": "text", "int": "number", "float": "number"}


def reference() -> str:
    """Return the text of docs/reference/cli.md."""
    commands = dict(_flat(typer.main.get_command(app)))
    listed = "".join(f"- [`mst {name}`](#mst-{name.replace(' ', '-')})\n" for name in commands)
    functions = {command.name: command.callback for command in app.registered_commands}
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands if group.typer_instance else ():
            functions[f"{group.name} {command.name}"] = command.callback
    common = _rows(functions["demo"], {parameter.name: parameter for parameter in commands["demo"].params}, common=True)
    head = HEAD + "\n".join([*common, ""])
    return "\n".join([head, listed, *(_command(name, functions[name], commands[name]) for name in commands)])


def _flat(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its name, those of a group by both names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _flat(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _command(name: str, function: Any, command: Any) -> str:
    about, example = _about(function)
    lines = [f"## mst {name}", "", *about, ""]
    if example:
        lines += ["```sh", example, "```", ""]
    rows = _rows(function, {parameter.name: parameter for parameter in command.params})
    return "\n".join([*lines, "| | value | default | what |", "|---|---|---|---|", *rows, ""])


def _about(function: Any) -> tuple[list[str], str]:
    """Return what a command's docstring says, a sentence a line, and its example."""
    sentences: list[str] = []
    example = ""
    for paragraph in inspect.cleandoc(function.__doc__ or "").split("\n\n"):
        text = " ".join(paragraph.split())
        if text.startswith("Example: "):
            example = text.removeprefix("Example: ")
        elif paragraph.startswith("\b"):  # a table, as it is
            sentences += ["", "```text", *paragraph.splitlines()[1:], "```"]
        else:
            sentences += [*([""] if sentences else []), *re.split(r"(?<=[.!?]) (?=[A-Z`])", text)]
    return sentences, example


def _rows(function: Any, parameters: dict[str, Any], *, common: bool = False) -> Iterator[str]:
    """Yield a line of the table for each argument and option, in the order of the help: its own, or all commands'."""
    for name, hint in get_type_hints(function).items():
        if name != "return" and (name in COMMON) == common:
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(hint, parameters[name])) + " |"


def _cells(hint: Any, parameter: Any) -> tuple[str, str, str, str]:
    flags = [*parameter.opts, *parameter.secondary_opts]
    named = parameter.param_type_name == "option"
    shown = ", ".join(f"`{flag}`" for flag in sorted(flags, key=len)) if named else f"`{parameter.name.upper()}`"
    what = (parameter.help or "") + (f" (`${parameter.envvar}`)" if parameter.envvar else "")
    return shown, _value(hint, parameter), _default(parameter), what


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is True:
        return f"`{parameter.opts[0]}`"
    return "" if value is None or value is False or value == "" else f"`{value}`"


def _value(kind: Any, parameter: Any) -> str:
    """Name the values that a parameter takes."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
    if get_origin(kind) is list:
        return f"{_value(get_args(kind)[0], parameter)}, repeatable"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return ""
    name = _NAMES.get(kind.__name__, kind.__name__)
    low, high = parameter.min, parameter.max
    if low is not None and high is not None:
        return f"{name}, {low:g} to {high:,}"
    return name if low is None else f"{name}, at least {low:g}"


if __name__ == "__main__":
    sys.stdout.write(reference())
