"""A row of the table of rubbish, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

REFUSED, USAGE, ACCEPTED, EITHER = "refused", "usage", "accepted", "either"
"""What is expected: one line and exit 1; one line of wrong usage and exit 2; exit 0; not known beforehand, but no worse
than these three."""


NOT_ACCEPTED = "refused or usage"
"""Either of the two, as the command parses the option itself or the library does."""


@dataclass(frozen=True)
class Spoil:
    """A file of the world, copied into the entry's folder and damaged there.

    Attributes
    ----------
    copy
        File or folder of the world that is copied.
    damage
        A name in `hostile.damage.DAMAGE`; what comes after a colon is its argument.
    file
        Which file is damaged, where a folder is copied: its path in the copy.
    """

    copy: str
    damage: str = "none"
    file: str = ""


@dataclass(frozen=True)
class Entry:
    """One input that nobody should give.

    Attributes
    ----------
    name
        Unique; the test's id.
    command
        Words after ``mst``. ``{w}`` is the world's folder, ``{i}`` the entry's inputs, ``{o}`` its empty output folder.
    spoils
        What is put into ``{i}`` first.
    expected
        ``refused``, ``usage``, ``accepted`` or ``either``.
    names
        Words that the line has to have: the file or the option, and where it matters the value.
    environment
        Variables of the environment.
    always
        Whether it is run with the other tests, and not in full runs alone.
    keeps
        Whether what is whole may be left although the command fails: predictions of the other slides.
    """

    name: str
    command: tuple[str, ...]
    spoils: tuple[Spoil, ...] = ()
    expected: str = REFUSED
    names: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    always: bool = True
    keeps: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    seconds: float
    cpu: float
    left: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The lines that are the error: notes come before it, and usage around it."""
        lines = [line for line in self.err.splitlines() if line.startswith(("mst: error: ", "Error: "))]
        return lines or [line for line in self.out.splitlines()[-1:] if line.endswith("NOT whole")]

    @property
    def said(self) -> str:
        """The error with what `mst check` says of each slide before it."""
        return " ".join(line for line in (*self.err.splitlines(), *self.lines) if line.startswith(SAYING))

    @property
    def kind(self) -> str:
        """Which row of the table of figures it counts in."""
        if "Traceback (most recent call last)" in self.err:
            return "traceback"
        if self.code == HUNG:
            return "hang"
        if self.code < 0 or self.code in (134, 139):
            return "crash"
        if self.left and self.code != 0:
            return "left behind"
        if self.code == 0:
            return ACCEPTED
        known = {1: REFUSED, 2: USAGE}.get(self.code)
        return known if known is not None and len(self.lines) == 1 else "not one line"


HUNG = -1000
SAYING = ("mst: error: ", "Error: ", "problem: ", "Try ")


def problem(entry: Entry, outcome: Outcome) -> str:
    """Say what is wrong with an outcome; "" where it is as it should be."""
    kind = replace(outcome, left=()).kind if entry.keeps else outcome.kind
    if kind not in (REFUSED, USAGE, ACCEPTED):
        return kind
    allowed = (REFUSED, USAGE) if entry.expected == NOT_ACCEPTED else (entry.expected,)
    if entry.expected != EITHER and kind not in allowed:
        return "silently wrong" if kind == ACCEPTED else f"{kind}, not {entry.expected}"
    if kind == ACCEPTED:
        return ""
    line, said = outcome.lines[0], outcome.said
    absent = [word for word in entry.names if word.lower() not in said.lower()]
    if absent:
        return f"the line does not name {absent[0]!r}"
    if not outcome.err.rstrip().endswith(line) and not line.endswith("NOT whole"):
        return "the error is not the last line"
    return "" if has_remedy(f"{said} {outcome.err[-300:]}") else "the line names no remedy"


REMEDIES = (
    "needed", "needs", "give", "copy", "correct", "remove", "rename", " use ", "name", "write", "save", "download",
    "requires", " add ", "make ", "choose", "leave", "convert", "is not one of", "not in the range", "should be",
    "holds", " has ",
    "known:", "near:", "did you mean", "one of", "mst ", "--", "expected", "keep", "restore", "repair", "try",
    "build",
    "train", "repeat", "join", "must be", "of the form", "layers are", "set both",
    "there already", "free some space", "load", "belongs", " are.",
    "export ",
)  # fmt: skip
"""Words of which a line that helps has one."""


def has_remedy(line: str) -> bool:
    """Whether a line says what would help."""
    return any(word in f"{line} ".lower() for word in REMEDIES)
