"""Options that are texts or paths and have no row elsewhere: empty, and a path out of the folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_origin

from hostile.entry import EITHER, Entry, Spoil
from hostile.table.base import BASE, CHANGING
from hostile.table.numbers import options

SHORT = {
    "--output": "-o",
    "--reference": "-r",
    "--gene": "-g",
    "--k": "-k",
    "--settings": "--set",
    "--as-json": "--json",
}
VALUES = ("", "../../x")


def uncovered(entries: Iterable[Entry]) -> Iterator[tuple[str, str]]:
    """Yield command and option of those that take a value and that no entry spells."""
    spelled = {(entry.command[0], word) for entry in entries for word in entry.command[1:]}
    for command in BASE:
        for option, kind in options(command):
            known = {(command, option), (command, SHORT.get(option, option))} & spelled
            if kind is not bool and kind not in (int, float) and get_origin(kind) is not Literal and not known:
                yield command, option


def rows(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield entries for what has none."""
    for command, option in uncovered(entries):
        base = ("serve", "{i}/gone.h5ad") if command == "serve" else BASE[command]  # it would go on serving
        copies = (Spoil("reference"),) if command in CHANGING else ()
        for value in VALUES:
            name = SHORT.get(option, option)
            yield Entry(f"{command} {name} {value!r}", (*base, name, value), copies, expected=EITHER, always=False)
