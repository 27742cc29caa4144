"""Runs the whole table in a few processes, and survives what it does to them."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hostile.entry import HUNG, Entry, Outcome

HERE = Path(__file__).parent
LONGEST_S = 180
"""An entry that takes longer hangs; some run beside the rest of a busy machine."""


def environment() -> dict[str, str]:
    """Return what the workers start with: this checkout and these tests before anything that is installed."""
    paths = [str(HERE.parents[1]), str(HERE.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


class Worker:
    """A process that answers one name at a time."""

    def __init__(self, world: Path, scratch: Path, *, apart: bool) -> None:
        words = [sys.executable, str(HERE / "worker.py"), str(world), str(scratch), *(["--apart"] if apart else [])]
        self.errors = (scratch / "worker.log").open("ab")
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment(), bufsize=0
        )
        self.entry: Entry | None = None
        self.since = 0.0
        self._rest = b""

    def give(self, entry: Entry) -> None:
        """Hand an entry over."""
        self.entry, self.since = entry, time.monotonic()
        self.process.stdin.write(entry.name.encode() + b"\n")  # type: ignore[union-attr]

    def answer(self) -> Outcome | None:
        """Read what has come; an outcome where it is whole, and what the process died of where it did."""
        data = os.read(self.process.stdout.fileno(), 2**16)  # type: ignore[union-attr]
        if not data:
            return self.died(self.process.wait())
        self._rest += data
        if not self._rest.endswith(b"\n"):
            return None
        outcome, self._rest = json.loads(self._rest)["outcome"], b""
        return Outcome(**{**outcome, "left": tuple(outcome["left"])})

    def died(self, code: int) -> Outcome:
        """Return the outcome of an entry that ended the process, or that had to be ended."""
        return Outcome(code if code < 0 else -code, "", "", time.monotonic() - self.since, 0.0, ())

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            stream.close()  # type: ignore[union-attr]


def run_all(
    entries: Sequence[Entry], world: Path, scratch: Path, *, n_workers: int = 2, apart: bool = False
) -> dict[str, Outcome]:
    """Return what became of every entry, by name; a worker that crashes or hangs is replaced."""
    scratch.mkdir(parents=True, exist_ok=True)
    pending, outcomes = deque(entries), {}
    workers = [Worker(world, scratch, apart=apart) for _ in range(n_workers)]
    while len(outcomes) < len(entries):
        for worker in workers:
            if worker.entry is None and pending:
                worker.give(pending.popleft())
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                if worker.entry is not None:
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
            ready = [key.data for key, _ in selector.select(timeout=1)]
        for worker in workers:
            if worker.entry is None:
                continue
            outcome = worker.answer() if worker in ready else None
            if outcome is None and time.monotonic() - worker.since > LONGEST_S:
                outcome = worker.died(HUNG)
            if outcome is None:
                continue
            outcomes[worker.entry.name] = outcome
            worker.entry = None
            if outcome.code < 0:
                worker.stop()
                workers[workers.index(worker)] = Worker(world, scratch, apart=apart)
    for worker in workers:
        worker.stop()
    return outcomes
