"""Every entry of the table of rubbish: one line that names what is wrong and what helps, and nothing left behind.

``MST_HOSTILE=all`` runs each as a command of its own, and prints the figures.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.entry import Entry, Outcome, problem
from hostile.pool import run_all
from hostile.table import ENTRIES
from hostile.table.base import BASE
from hostile.table.numbers import options
from hostile.table.others import SHORT
from hostile.world import make_world

from mclstexp.cli.app import app

IN_FULL = os.environ.get("MST_HOSTILE") == "all"
FEWEST = 300
CHOSEN = ENTRIES if IN_FULL else [entry for entry in ENTRIES if entry.always]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """What became of every entry, run side by side."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "world").mkdir()
    make_world(folder / "world")
    before = _everything(folder / "world")
    results = run_all(CHOSEN, folder / "world", folder / "scratch", apart=IN_FULL)
    assert _everything(folder / "world") == before
    yield results
    if IN_FULL:
        figures = Counter(problem(entry, results[entry.name]) or results[entry.name].kind for entry in CHOSEN)
        sys.stdout.write(f"\n{len(CHOSEN)} tried: {dict(figures)}\n")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("entry", CHOSEN, ids=lambda entry: entry.name)
def test_it_is_one_line_or_works(entry: Entry, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[entry.name]
    assert problem(entry, outcome) == "", outcome


def test_the_table_is_long_and_names_each_entry_once() -> None:
    names = Counter(entry.name for entry in ENTRIES)
    assert not [name for name, n in names.items() if n > 1]
    assert sum(entry.always for entry in ENTRIES) >= FEWEST


def test_every_command_is_in_the_table() -> None:
    assert {command.name for command in app.registered_commands} == set(BASE)


@pytest.mark.parametrize("command", BASE)
def test_every_option_that_takes_a_value_has_a_row(command: str) -> None:
    spelled = {word for entry in ENTRIES if entry.command[:1] == (command,) for word in entry.command}
    lacking = [
        option
        for option, kind in options(command)
        if kind is not bool and not {option, SHORT.get(option, option)} & spelled
    ]
    assert lacking == []


def _everything(folder: Path) -> set[str]:
    """Every file of the world that is no cache."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not {"cache", "derived"} & set(path.relative_to(folder).parts)
    }
