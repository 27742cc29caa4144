"""Options that are numbers or choices, and settings that are numbers: wrong type, out of range, NaN, huge."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hostile.entry import NOT_ACCEPTED, REFUSED, Entry, Spoil
from hostile.table.base import BASE, CHANGING

from mclstexp.cli.app import app
from mclstexp.config.ranges import RANGES, Range

NO_NUMBERS = ("x", "", "nan", "-1", "1e400", "0x10")
OFTEN = ("nan", "-1", "[]")
"""What is tried with the other tests; the rest in full runs alone."""

NO_CHOICES = ("nonsense", "")


def options(command: str) -> Iterator[tuple[str, Any]]:
    """Yield each option of a command with its type, None left aside."""
    function = next(registered.callback for registered in app.registered_commands if registered.name == command)
    for name, hint in get_type_hints(function, include_extras=True).items():
        info = getattr(hint, "__metadata__", (None,))[0]
        if info is None or type(info).__name__ != "OptionInfo":
            continue
        spelled = [word for word in info.param_decls or () if word.startswith("--")]
        yield (spelled or [f"--{name.replace('_', '-')}"])[-1], _kind(hint.__origin__)


def _kind(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (inner for inner in get_args(hint) if inner is not type(None))
    return hint


def _entry(command: str, option: str, value: str) -> Entry:
    copies = (Spoil("reference"),) if command in CHANGING else ()
    words = (*BASE[command], option, value)
    return Entry(
        f"{command} {option} {value!r}", words, copies, expected=NOT_ACCEPTED, names=(option,), always=value in OFTEN
    )


def _of_options() -> Iterator[Entry]:
    for command in BASE:
        for option, kind in options(command):
            if kind in (int, float):
                for value in NO_NUMBERS:
                    yield _entry(command, option, value)
            elif get_origin(kind) is Literal:
                for value in NO_CHOICES:
                    yield _entry(command, option, value)


def _outside(limits: Range) -> list[str]:
    """Return values that a setting cannot have, as they are typed."""
    values = ["NaN", "Infinity", "-1e300", "one", "[]", "{}", "true", '"0.5"']
    values += [] if limits.optional else ["null"]
    return values


def _of_settings() -> Iterator[Entry]:
    for name, limits in RANGES.items():
        for value in _outside(limits):
            words = (*BASE["train"], "--set", f"{name}={value}")
            yield Entry(f"train --set {name}={value}", words, expected=REFUSED, names=(name,), always=value in OFTEN)


OPTIONS = list(_of_options())
SETTINGS = list(_of_settings())
ENTRIES = [*OPTIONS, *SETTINGS]
