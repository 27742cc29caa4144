"""Run schedules of operations and faults on references: ``python tests/faults/run.py --runs 300 --steps 8 --seed 0``.

Each line of the output is JSON: a violation with its seed, then a summary. A seed is replayed by ``--runs 1 --seed N``.
Every operation runs in a child that is forked from this process, which has imported everything and started no thread.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SECONDS = 60.0
"""An operation that takes longer hangs."""


def with_disk() -> None:
    """Start this program again with the failing disk loaded before everything else."""
    if "MST_DISK" in os.environ:
        return
    library = Path(tempfile.mkdtemp(prefix="mst-disk-")) / "disk.so"
    words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "disk.c"), "-ldl"]
    subprocess.run(words, check=True)
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *[entry for entry in sys.path if entry]])
    fresh = {
        "MST_DISK": str(library),
        "LD_PRELOAD": str(library),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": paths,
    }
    done = subprocess.run([sys.executable, *sys.argv], env={**os.environ, **fresh})
    shutil.rmtree(library.parent)
    sys.exit(done.returncode)


if __name__ == "__main__":
    with_disk()

import lance  # noqa: E402, F401  before any fork
import numpy as np  # noqa: E402
import torch  # noqa: E402, F401
from children import together, told  # noqa: E402
from plan import ERRORS, SIGNALS, State, Step, applied, outcomes, steps  # noqa: E402
from simulation import Simulation  # noqa: E402

from mclstexp.config import ModelConfig  # noqa: E402
from mclstexp.index.store.store import ReferenceStore  # noqa: E402
from mclstexp.index.verify.run import verify  # noqa: E402
from mclstexp.model.folder import ModelFiles, read_model, write_model  # noqa: E402

warnings.simplefilter("ignore")
SIM = Simulation(n_genes=16, n_panel=8, dim=8, n_niches=8)
DEBRIS = ("orphan", "hint", "unhashed", "derived", "busy", "duplicate")
"""What a killed writer may leave: it harms nothing, and a repair removes it."""

_disk = ctypes.CDLL(None)


def disk_fault(folder: Path, kinds: int, action: int, value: int, at: int, *, always: bool = False) -> None:
    _disk.disk_fault(os.fsencode(folder), kinds, action, value, ctypes.c_long(at), int(always))


def record(number: int, variant: int) -> Any:
    return SIM.record(number, 5 + 2 * number, variant=variant, image=number != 2)


CONTENT = {record(n, v).content_hash: (n, v) for n in range(7) for v in range(3)}


class Run:
    """One schedule on one reference."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.place, self.model_at = folder / "ref", folder / "model"
        self.state, self.versions = State(), {}
        self.violations: list[dict[str, Any]] = []
        self.counts: collections.Counter[str] = collections.Counter()

    def run(self, n_steps: int, *, damage: bool = False) -> None:
        """Build, then take every step, then show that the reference still works."""
        self._in_child(lambda: self.act({"verb": "build", "numbers": [0, 1, 2]}))
        self.state = State({0: 0, 1: 0, 2: 0})
        self._look("build", {self.state.key()})
        if damage:
            _damage(self.place)
        for number, step in enumerate(steps(self.seed, n_steps)):
            if any(one["what"] in ("lost", "hang") for one in self.violations):
                return
            self._step(number, step)
        last = self._in_child(self._use)
        if last["how"] != "done":
            self._violation("end", "useless", last)

    def _use(self) -> None:
        store = ReferenceStore.open(self.place)
        store.add([record(6, 2)], replace=True)
        report = verify(self.place, repair=True)
        again = verify(self.place)
        if not report.ok or [one for one in again.findings if one.kind not in ("duplicate",)]:
            raise RuntimeError(f"not whole after a repair: {report.findings} {again.findings}")

    def _step(self, number: int, step: Step) -> None:
        operations = []
        for operation in step.operations:
            known = sorted(self.versions)
            version = known[int(operation["place"] * len(known))]
            operations.append({**operation, "version": version, "variant_of_model": number})
            self.counts[f"operation {operation['verb']}"] += 1
        kind = step.fault["kind"]
        self.counts[f"fault {kind}"] += 1
        name = f"{number}: {' + '.join(one['verb'] for one in operations)}, {json.dumps(step.fault)}"
        with_reader = kind == "readers"
        allowed = outcomes(self.state, tuple(operations), ["stopped"] * len(operations), self.versions)
        ballast = self._fill(step.fault) if kind == "full-disk" else None
        bodies = [lambda one=one, i=i: self._faulty(one, step.fault, first=i == 0) for i, one in enumerate(operations)]
        if with_reader:
            bodies.append(lambda: self._read(allowed))
        ended = together([lambda body=body: _told(body) for body in bodies], SECONDS)
        if ballast is not None:
            ballast.unlink()
        read = ended.pop() if with_reader else None
        if read is not None and read["how"] != "done":
            self._violation(name, "reader", read)
        for operation, one in zip(operations, ended, strict=True):
            self._judge(name, step, operation, one)
        hows = [
            "refused" if one["how"] == "refused" else "done" if one["how"] == "done" else "stopped" for one in ended
        ]
        self._look(name, outcomes(self.state, tuple(operations), hows, self.versions))

    def _judge(self, name: str, step: Step, operation: dict[str, Any], end: dict[str, Any]) -> None:
        self.counts[f"end {end['how']}"] += 1
        self.counts["struck"] += bool(end.get("struck"))
        if end["how"] in ("hang", "traceback"):
            self._violation(name, end["how"], end)
        alone = len(step.operations) == 1
        if not alone or end["how"] not in ("done", "refused"):
            return
        refused = applied(self.state, operation, self.versions) is None
        newest = operation["verb"] == "restore" and operation["version"] == max(self.versions, default=0)
        if refused != (end["how"] == "refused") and not newest and operation["verb"] != "verify":
            self._violation(name, "answer", {"expected": "refused" if refused else "done", **end})

    def _look(self, name: str, allowed: set[str]) -> None:
        """Have a fresh process look at the reference, and take what it finds as the state."""
        end = self._in_child(self.inspect)
        if end["how"] != "done":
            self._violation(name, "lost", end)
            return
        found = end["value"]
        slides = {int(n): v for n, v in found["slides"].items()}
        state = State(slides, found["tags"], found["model"])
        if state.key() not in allowed:
            self._violation(name, "lost", {"found": state.key(), "allowed": sorted(allowed)})
        if found["findings"]:
            self._violation(name, "verify", {"findings": found["findings"]})
        if found["wrong"] > 1e-5:
            self._violation(name, "answers", {"wrong": found["wrong"]})
        if found["version"] < max(self.versions, default=0):
            self.versions = {}
        self.state = state
        self.versions[found["version"]] = slides

    def inspect(self) -> dict[str, Any]:
        """Return what a reader finds: slides, tags, model, what verify says, and how wrong a search is."""
        store = ReferenceStore.open(self.place)
        slides = dict(CONTENT[entry.content_hash] for entry in store.slides())
        findings = [
            f"{one.kind} {one.path} {one.message}" for one in verify(self.place).findings if one.kind not in DEBRIS
        ]
        model = None
        if self.model_at.exists():
            model = read_model(self.model_at).history[0]["variant"]
        return {"slides": slides, "tags": store.tags(), "version": store.version, "model": model,
                "findings": findings, "wrong": self._wrong(store, slides)}  # fmt: skip

    def _wrong(self, store: ReferenceStore, slides: dict[int, int]) -> float:
        """Return how far the similarities of a search are from those of every stored key."""
        query = SIM.queries(4)
        found = store.index("cpu").search(query, 5).similarity
        keys = np.concatenate([record(n, v).embedding for n, v in slides.items()])
        truth = -np.sort(-(query @ keys.T), axis=1)[:, :5]
        return float(np.abs(np.sort(found)[:, ::-1] - truth).max())

    def _read(self, allowed: set[str]) -> None:
        """Read again and again while somebody writes; every state must be one of those before or after."""
        for _ in range(12):
            store = ReferenceStore.open(self.place)
            slides = dict(CONTENT[entry.content_hash] for entry in store.slides())
            if State(slides, {}, self.state.model).key().rsplit(" ", 1)[0] not in {
                one.rsplit(" ", 1)[0] for one in allowed
            }:
                raise RuntimeError(f"a reader found {sorted(slides.items())}")
            if self._wrong(store, slides) > 1e-5:
                raise RuntimeError("a reader's search is wrong")

    def _fill(self, fault: dict[str, Any]) -> Path | None:
        """Fill the disk but for a little, where it is a small one of our own."""
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_bsize
        if free > 2**28:
            self.counts["skipped full-disk"] += 1
            return None
        ballast = self.folder / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - fault["bytes"]))
        return ballast

    def _faulty(self, operation: dict[str, Any], fault: dict[str, Any], *, first: bool) -> Any:
        kind = fault["kind"]
        if kind == "second-writer":
            kind = fault["first"] if first else "none"
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind in SIGNALS:
            disk_fault(self.folder, 1, 2, SIGNALS[kind], fault["at"])
        elif kind in ERRORS:
            reads = 2 if kind == "unreadable" else 1
            disk_fault(self.folder, reads, 1, ERRORS[kind], fault["at"], always=kind == "eio-for-ever")
        elif kind == "slow":
            disk_fault(self.folder, 3, 3, 3000, 1, always=True)
        elif kind == "file-size":
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], hard))
        elif kind == "clock":
            _disk.disk_clock(ctypes.c_long(-10 * 365 * 86400))
        elif kind == "read-only" and os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)
        return self.act(operation)

    def act(self, operation: dict[str, Any]) -> None:
        """Do one operation, as the commands do it."""
        verb, numbers = operation["verb"], operation["numbers"]
        if verb == "build":
            ReferenceStore.create(self.place, SIM.identity(), (record(n, 0) for n in numbers), force=True)
            return
        if verb == "model":
            arrays = {"w": np.full((64, 64), operation["variant_of_model"], np.float32)}
            files = ModelFiles(
                ModelConfig(), SIM.panel, arrays, {}, [{"variant": operation["variant_of_model"]}], "card"
            )
            write_model(self.model_at, files, digest="0" * 64, force=True)
            return
        if verb in ("verify", "repair"):
            verify(self.place, repair=verb == "repair")
            return
        store = ReferenceStore.open(self.place)
        if verb in ("add", "replace"):
            store.add([record(n, operation["variant"]) for n in numbers], replace=verb == "replace")
        elif verb == "remove":
            store.remove(slides=[f"slide{numbers[0]:04d}"])
        elif verb == "restore":
            store.restore(operation["version"])
        elif verb == "tag":
            store.tag(operation["name"], force=True)
        elif verb == "optimize":
            store.optimize()
        elif verb == "query":
            self._wrong(store, dict(CONTENT[entry.content_hash] for entry in store.slides()))

    def _in_child(self, body: Any) -> dict[str, Any]:
        return together([lambda: _told(body)], SECONDS)[0]

    def _violation(self, step: str, what: str, about: dict[str, Any]) -> None:
        self.violations.append({"seed": self.seed, "step": step, "what": what, **about})


def _damage(place: Path) -> None:
    """Change a byte of a table's file behind everybody's back, which the invariants have to find."""
    path = max((place / "spots.lance" / "data").iterdir(), key=lambda one: one.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(data)


def _told(body: Any) -> dict[str, Any]:
    """Run a body; return how it ended, and whether the disk failed meanwhile."""
    end = told(body)
    end["struck"] = _disk.disk_fired()
    _disk.disk_fault(b"", 0, 0, 0, ctypes.c_long(0), 0)
    return end


def small_disk(folder: Path) -> bool:
    """Mount a small disk in memory over a folder, where this is allowed."""
    words = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(words, capture_output=True).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder that gets what a run with violations leaves, by its seed")
    parser.add_argument("--damage", action="store_true", help="damage each table first: every run has to find it")
    chosen = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    bad: dict[int, int] = {}
    started = time.monotonic()
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        with tempfile.TemporaryDirectory(prefix="mst-faults-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            mounted = small_disk(folder)
            run = Run(folder, seed)
            try:
                run.run(chosen.steps, damage=chosen.damage)
                if run.violations and chosen.keep is not None:
                    shutil.copytree(folder, chosen.keep / str(seed))
            finally:
                if mounted:
                    subprocess.run(["umount", "-l", str(folder)], check=False)
        counts += run.counts
        for violation in run.violations:
            print(json.dumps(violation), flush=True)  # noqa: T201
        if run.violations:
            bad[seed] = len(run.violations)
    summary = {
        "runs": chosen.runs,
        "operations": sum(n for name, n in counts.items() if name.startswith("operation ")),
        "faults": sum(n for name, n in counts.items() if name.startswith("fault ") and name != "fault none"),
        "struck": counts["struck"],
        "violations": sum(bad.values()),
        "worst_seed": max(bad, key=lambda seed: bad[seed]) if bad else None,
        "seconds": round(time.monotonic() - started),
        **dict(sorted(counts.items())),
    }
    print(json.dumps(summary), flush=True)  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
