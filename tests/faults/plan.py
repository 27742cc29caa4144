"""What a schedule does: operations and faults drawn from a seed, and what the table must hold afterwards."""

from __future__ import annotations

import errno
import itertools
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

N_SLIDES = 7
OPERATIONS = (
    "add",
    "add",
    "replace",
    "remove",
    "restore",
    "tag",
    "optimize",
    "query",
    "verify",
    "repair",
    "build",
    "model",
)
FAULTS = ("none", "none", "kill", "kill", "term", "interrupt", "eio", "eio-for-ever", "enospc", "unreadable", "slow",
          "file-size", "full-disk", "read-only", "clock", "second-writer", "readers")  # fmt: skip


@dataclass
class State:
    """What a reference holds: the variant of each slide, tags, and the variant of the model beside it."""

    slides: dict[int, int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    model: int | None = None

    def key(self) -> str:
        """The state as text that can be compared."""
        return f"{sorted(self.slides.items())} {self.model}"


@dataclass(frozen=True)
class Step:
    """Operations that begin together, and what goes wrong with the first."""

    operations: tuple[dict[str, Any], ...]
    fault: dict[str, Any]


def steps(seed: int, n: int) -> Iterator[Step]:
    """Yield a schedule's steps; the same seed gives the same ones."""
    rng = random.Random(seed)
    for _ in range(n):
        fault = _fault(rng, rng.choice(FAULTS))
        n_writers = 2 if fault["kind"] == "second-writer" else 1
        operations = OPERATIONS if n_writers == 1 else [one for one in OPERATIONS if one not in ("build", "model")]
        yield Step(tuple(_operation(rng, operations) for _ in range(n_writers)), fault)


def _operation(rng: random.Random, verbs: Sequence[str]) -> dict[str, Any]:
    verb = rng.choice(verbs)
    return {
        "verb": verb,
        "numbers": sorted(rng.sample(range(N_SLIDES), rng.randint(1, 3))),
        "variant": rng.randint(1, 2) if verb == "replace" else 0,
        "place": rng.random(),
        "name": rng.choice(("first", "paper", "v2")),
    }


def _fault(rng: random.Random, kind: str) -> dict[str, Any]:
    fault: dict[str, Any] = {"kind": kind, "at": max(1, round(10 ** rng.uniform(0, 2.3)))}
    if kind == "second-writer":
        fault["kind"], fault["first"] = kind, rng.choice(("none", "kill", "eio"))
    if kind in ("file-size", "full-disk"):
        fault["bytes"] = round(2 ** rng.uniform(9, 17))
    return fault


SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
ERRORS = {"eio": errno.EIO, "eio-for-ever": errno.EIO, "enospc": errno.ENOSPC, "unreadable": errno.EIO}


def applied(state: State, operation: dict[str, Any], versions: dict[int, dict[int, int]]) -> State | None:
    """Return what an operation makes of a state; None where it has to be refused."""
    slides, numbers = dict(state.slides), operation["numbers"]
    verb = operation["verb"]
    if verb == "add":
        if any(slides.get(number, 0) != 0 for number in numbers):
            return None
        slides.update(dict.fromkeys(numbers, 0))
    elif verb == "replace":
        slides.update(dict.fromkeys(numbers, operation["variant"]))
    elif verb == "remove":
        if numbers[0] not in slides or len(slides) == 1:
            return None
        del slides[numbers[0]]
    elif verb == "restore":
        if operation["version"] not in versions:
            return None
        slides = dict(versions[operation["version"]])
    elif verb == "build":
        slides = dict.fromkeys(numbers, 0)
    model = operation["variant_of_model"] if verb == "model" else state.model
    return State(slides, state.tags, model)


def outcomes(
    state: State, operations: tuple[dict[str, Any], ...], ended: list[str], versions: dict[int, dict[int, int]]
) -> set[str]:
    """Return every state that may be found: done ones happened, in any order; refused ones did not; others may have."""
    found = set()
    maybe = [i for i, how in enumerate(ended) if how == "stopped"]
    for n in range(len(maybe) + 1):
        for extra in itertools.combinations(maybe, n):
            chosen = [i for i, how in enumerate(ended) if how == "done" or i in extra]
            for order in itertools.permutations(chosen):
                now: State | None = state
                for i in order:
                    now = applied(now, operations[i], versions) if now is not None else None
                if now is not None:
                    found.add(now.key())
    return found


FAR = ("none", "drop", "drop-after", "reset", "reset-after", "cut", "delay", "delay-after", "refuse", "refuse-after",
       "full", "kill")  # fmt: skip
"""What goes wrong between a writer and an object store."""
REQUESTS = (
    (".*", ""),
    ("PUT", r"_versions/\d+\.manifest"),
    ("PUT|POST", "/data/"),
    ("GET|HEAD", r"_versions/\d+\.manifest"),
    ("PUT|POST|DELETE", ""),
)
FAR_OPERATIONS = ("add", "add", "replace", "remove", "restore", "tag", "optimize", "query", "verify", "build")


def far_steps(seed: int, n: int, kinds: tuple[str, ...] = FAR) -> Iterator[Step]:
    """Yield a schedule's steps on an object store, a third of them by two writers."""
    rng = random.Random(seed)
    for _ in range(n):
        kind = rng.choice(kinds)
        method, path = ("PUT|POST", "") if kind == "full" else rng.choice(REQUESTS)
        after, times = round(10 ** rng.uniform(0, 1.4)) - 1, rng.choice((1, 1, 2, 0)) if kind != "full" else 0
        fault = {"kind": kind, "method": method, "path": path, "after": after, "times": times,
                 "seconds": round(rng.uniform(0.0, 2.0), 2)}  # fmt: skip
        alone = rng.random() > 1 / 3
        operations = FAR_OPERATIONS if alone else FAR_OPERATIONS[:-1]
        yield Step(tuple(_operation(rng, operations) for _ in range(1 if alone else 2)), fault)
