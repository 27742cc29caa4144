"""Progress: bars where somebody looks, one line for a slow step where nobody does."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import tqdm.auto

from mclstexp import progress
from mclstexp.progress import ProgressBar, ProgressLines, Whole


class Terminal(io.StringIO):
    """Stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Bar:
    """What stands in for tqdm: it writes down what it is told."""

    made: list["Bar"]

    def __init__(self, *, desc: str, total: int, **options: Any) -> None:
        self.desc, self.total, self.options = desc, total, options
        self.n, self.seen, self.closed = 0, [], False
        Bar.made.append(self)

    def update(self, more: int) -> None:
        assert not self.closed
        self.n += more
        self.seen.append((self.n, self.total))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    Bar.made = []
    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    # pytest sets sys.stderr anew between a fixture and its test, so the module's own view of it is changed.
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=Terminal(), modules={}))
    return Bar.made


def test_nothing_is_drawn_into_a_pipe(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    show = ProgressBar()
    for done in range(1, 6):
        clock.now += 0.9
        show("encoding A1", done, 5)
    assert capsys.readouterr() == ("", "")


def told(clock: Clock, steps: list[tuple[str, int, int]], seconds: float, **options: float) -> list[str]:
    """What lines say of steps that come so many seconds apart."""
    said: list[str] = []
    lines = ProgressLines(said.append, clock=lambda: clock.now - 100, **options)
    for step in steps:
        lines(*step)
        clock.now += seconds
    return said


def test_a_long_step_says_how_much_is_left_but_not_too_often(clock: Clock) -> None:
    said = told(clock, [("encoding", done, 100) for done in range(1, 101)], 4)
    assert said[0] == "[0:16] encoding: 5 of 100, about 6 min left"
    assert said[-2:] == ["[6:24] encoding: 97 of 100, about 12 s left", "[6:36] encoding: 100 in 7 min"]
    assert len(said) == 25


def test_many_quick_steps_do_not_make_a_silent_log(clock: Clock) -> None:
    said = told(clock, [(f"slide {n}", 1, 1) for n in range(35)], 3)
    assert said[0] == "[0:15] slide 5: 1 in 0 s"
    assert len(said) == 6


def test_every_step_is_told_to_who_asked_for_more(clock: Clock) -> None:
    steps = [("reading", 1, 2), ("reading", 2, 2), ("writing", 1, 1)]
    assert told(clock, steps, 1, slow=0.0, every=1.0) == ["[0:01] reading: 2 in 1 s", "[0:02] writing: 1 in 0 s"]


def test_a_step_that_comes_again_is_timed_anew(clock: Clock) -> None:
    said = told(clock, [("query", 1, 2), ("query", 2, 2), ("pause", 1, 1), ("query", 1, 2), ("query", 2, 2)], 6)
    assert [line for line in said if "query" in line] == ["[0:06] query: 2 in 6 s", "[0:24] query: 2 in 6 s"]


def test_slides_are_one_step_though_some_have_nothing_to_tell() -> None:
    seen: list[tuple[str, int, int]] = []
    whole = Whole("encoding 3 slides", 60, lambda *step: seen.append(step))
    whole.part(10)("encoding A", 5, 10)
    whole.part(20)  # its features are cached
    whole.part(30)("encoding C", 15, 30)
    whole.finish()
    assert [done for _, done, _ in seen] == [5, 45, 60]
    assert {(step, total) for step, _, total in seen} == {("encoding 3 slides", 60)}
    silent = Whole("encoding 1 slide", 10, lambda *step: seen.append(step))
    silent.part(10)
    silent.finish()
    assert len(seen) == 3


def test_a_slow_step_is_one_line_in_a_pipe(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    show = ProgressBar()
    for done in range(5):
        show("encoding A1", done, 4)
        clock.now += 3
    show("encoding A2", 2, 2)
    assert capsys.readouterr() == ("", "[0:12] encoding A1: 4 in 12 s\n")


def test_each_step_has_its_own_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    show = ProgressBar()
    show("slow but never ends", 0, 2)
    clock.now += 60
    show("quick", 0, 1)
    clock.now += 1
    show("quick", 1, 1)
    show("slow again", 0, 1)
    clock.now += 7
    show("slow again", 1, 1)
    assert capsys.readouterr().err == "[1:01] quick: 1 in 1 s\n[1:08] slow again: 1 in 7 s\n"


def test_a_terminal_has_a_bar_a_step(bars: list[Bar], clock: Clock) -> None:
    show = ProgressBar()
    for step, total in (("encoding A1", 3), ("encoding A2", 2)):
        for done in range(1, total + 1):
            clock.now += 10
            show(step, done, total)
    assert [bar.desc for bar in bars] == ["encoding A1", "encoding A2"]
    assert [bar.seen for bar in bars] == [[(1, 3), (2, 3), (3, 3)], [(1, 2), (2, 2)]]
    assert all(bar.closed for bar in bars)
    assert progress.sys.stderr.getvalue() == "", "what a bar shows is not said again"


def test_a_bar_follows_jumps_and_a_total_that_grows(bars: list[Bar]) -> None:
    show = ProgressBar()
    show("reading", 2, 10)
    show("reading", 7, 10)
    show("reading", 8, 20)
    (bar,) = bars
    assert bar.seen == [(2, 10), (7, 10), (8, 20)]
    assert not bar.closed


def test_a_step_that_is_left_ends_its_bar(bars: list[Bar]) -> None:
    show = ProgressBar()
    show("one", 1, 9)
    show("two", 1, 9)
    assert [bar.closed for bar in bars] == [True, False]
    show.close()
    assert [bar.closed for bar in bars] == [True, True]
    show.close()


def test_the_same_step_may_come_twice(bars: list[Bar]) -> None:
    show = ProgressBar()
    for _ in range(2):
        show("adding", 1, 1)
    assert [bar.seen for bar in bars] == [[(1, 1)], [(1, 1)]]


def test_an_empty_step_is_harmless(bars: list[Bar]) -> None:
    ProgressBar()("nothing", 0, 0)
    assert [bar.closed for bar in bars] == [True]


def test_a_real_bar_reaches_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show = ProgressBar()
    for done in range(1, 4):
        show("encoding A1", done, 3)
    assert "encoding A1" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_a_notebook_has_bars_though_stderr_is_no_terminal(bars: list[Bar]) -> None:
    progress.sys.stderr = io.StringIO()
    ProgressBar()("encoding A1", 1, 2)
    assert not bars
    progress.sys.modules["ipykernel"] = object()
    ProgressBar()("encoding A1", 1, 2)
    assert len(bars) == 1
