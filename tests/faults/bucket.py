"""Run schedules on an object store whose network fails: ``python tests/faults/bucket.py --runs 50 --steps 6 --seed 0``.

As `run.py` does on a disk: a line of JSON a violation, then a summary; a seed is replayed by ``--runs 1 --seed N``. Two
writers of a step are two machines: each has a cache of its own and a way to the store of its own, and only the first
one's fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import lance  # noqa: E402  before any fork
import lance.fragment  # noqa: E402, F401
import numpy as np  # noqa: E402
import pyarrow.fs  # noqa: E402, F401
from children import together, told  # noqa: E402
from network import Fault, struck, tell  # noqa: E402
from plan import State, Step, applied, far_steps, outcomes  # noqa: E402
from simulation import Simulation  # noqa: E402

from mclstexp.index.store.store import ReferenceStore  # noqa: E402
from mclstexp.index.verify.run import verify  # noqa: E402

SIM = Simulation(n_genes=16, n_panel=8, dim=8, n_niches=8)
DEBRIS = ("orphan", "hint", "unhashed", "derived", "busy", "duplicate")
"""What a writer that was killed or given up may leave: it harms nothing, and a repair removes it."""
TIMES = {"connect_timeout": "1s", "timeout": "1s", "client_max_retries": "2", "client_retry_timeout": "1"}
SECONDS = 30.0
"""An operation that takes longer hangs: with the times above the longest wait for a request is four."""
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "aws_region": "us-east-1", "allow_http": "true"}


def record(number: int, variant: int) -> Any:
    return SIM.record(number, 5 + 2 * number, variant=variant, image=number != 2)


CONTENT = {record(n, v).content_hash: (n, v) for n in range(7) for v in range(3)}


class Bucket:
    """An S3 server and a proxy before it, in a process of their own."""

    def __init__(self, server: str = "moto") -> None:
        words = [sys.executable, str(HERE / "network.py"), server]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.proxy, self.address = self._process.stdout.readline().split()

    def options(self, *, far: bool) -> dict[str, str]:
        """Storage options: through the network that fails, or beside it."""
        return {**KEYS, **TIMES, "endpoint": self.proxy if far else self.address}

    def close(self) -> None:
        self._process.communicate("")


class Run:
    """One schedule on one reference."""

    def __init__(self, bucket: Bucket, folder: Path, seed: int) -> None:
        self.bucket, self.folder, self.seed = bucket, folder, seed
        self.uri = f"s3://references/{uuid.uuid4().hex}/ref"
        self.longest = 0.0
        self.state, self.versions = State(), {}
        self.violations: list[dict[str, Any]] = []
        self.counts: collections.Counter[str] = collections.Counter()

    def run(self, n_steps: int) -> None:
        """Build, then take every step, then show that the reference still works."""
        self._in_child(lambda: self.act({"verb": "build", "numbers": [0, 1, 2]}, far=False))
        self.state = State({0: 0, 1: 0, 2: 0})
        self._look("build", {self.state.key()})
        for number, step in enumerate(far_steps(self.seed, n_steps)):
            if any(one["what"] in ("lost", "hang") for one in self.violations):
                return
            self._step(number, step)
        last = self._in_child(self._use)
        if last["how"] != "done":
            self._violation("end", "useless", last)

    def _use(self) -> None:
        options = self.bucket.options(far=False)
        ReferenceStore.open(self.uri, options=options).add([record(6, 2)], replace=True)
        report = verify(self.uri, repair=True, options=options)
        again = verify(self.uri, options=options)
        if not report.ok or [one for one in again.findings if one.kind != "duplicate"]:
            raise RuntimeError(f"not whole after a repair: {report.findings} {again.findings}")

    def _step(self, number: int, step: Step) -> None:
        known = sorted(self.versions)
        operations = [{**one, "version": known[int(one["place"] * len(known))]} for one in step.operations]
        for operation in operations:
            self.counts[f"operation {operation['verb']}"] += 1
        kind = step.fault["kind"]
        self.counts[f"fault {kind}"] += 1
        self.counts["two writers"] += len(operations) == 2
        name = f"{number}: {' + '.join(one['verb'] for one in operations)}, {json.dumps(step.fault)}"
        tell(self.bucket.proxy, *faults_of(step.fault))
        bodies = [lambda one=one, i=i: self._faulty(one, step.fault, first=i == 0) for i, one in enumerate(operations)]
        started = time.monotonic()
        ended = together([lambda body=body: told(body) for body in bodies], SECONDS)
        self.longest = max(self.longest, time.monotonic() - started)
        hit = struck(self.bucket.proxy)
        tell(self.bucket.proxy)
        self.counts["struck"] += bool(sum(hit)) or ended[0]["how"] == "killed"
        for one in ended:
            self.counts[f"end {one['how']}"] += 1
            if one["how"] in ("hang", "traceback") or "\n" in one.get("error", ""):
                self._violation(name, one["how"], one)
        self._answers(name, operations, ended, disturbed=len(operations) > 1 or bool(sum(hit)))
        hows = [one["how"] if one["how"] in ("refused", "done") else "stopped" for one in ended]
        self._look(name, outcomes(self.state, tuple(operations), hows, self.versions))

    def _answers(
        self, name: str, operations: list[dict[str, Any]], ended: list[dict[str, Any]], *, disturbed: bool
    ) -> None:
        """Where nothing has disturbed a writer it has to succeed, or to be refused rightly."""
        (operation, end), newest = (operations[0], ended[0]), max(self.versions, default=0)
        if disturbed or end["how"] == "killed" or operation["verb"] == "verify":
            return
        right = "refused" if applied(self.state, operation, self.versions) is None else "done"
        if end["how"] != right and not (operation["verb"] == "restore" and operation["version"] == newest):
            self._violation(name, "answer", {"expected": right, **end})

    def _look(self, name: str, allowed: set[str]) -> None:
        """Have a fresh process look at the reference, and take what it finds as the state."""
        end = self._in_child(self.inspect)
        if end["how"] != "done":
            self._violation(name, "lost", end)
            return
        found = end["value"]
        slides = {int(n): v for n, v in found["slides"].items()}
        state = State(slides, found["tags"])
        if state.key() not in allowed:
            self._violation(name, "lost", {"found": state.key(), "allowed": sorted(allowed)})
        if found["findings"]:
            self._violation(name, "verify", {"findings": found["findings"]})
        if found["wrong"] > 1e-5:
            self._violation(name, "answers", {"wrong": found["wrong"]})
        self.state = state
        self.versions[found["version"]] = slides

    def inspect(self) -> dict[str, Any]:
        """Return what a reader with an empty cache finds: slides, tags, what verify says, how wrong a search is."""
        self._cache(f"reader-{uuid.uuid4().hex}")
        options = self.bucket.options(far=False)
        store = ReferenceStore.open(self.uri, options=options)
        listed = [CONTENT[entry.content_hash] for entry in store.slides()]
        findings = [
            f"{one.kind} {one.path} {one.message}"
            for one in verify(self.uri, options=options).findings
            if one.kind not in DEBRIS
        ]
        if len(dict(listed)) != len(listed):
            findings.append(f"a slide is there twice: {listed}")
        return {"slides": dict(listed), "tags": store.tags(), "version": store.version, "findings": findings,
                "wrong": self._wrong(store, dict(listed))}  # fmt: skip

    def _wrong(self, store: ReferenceStore, slides: dict[int, int]) -> float:
        """Return how far the similarities of a search are from those of every stored key."""
        query = SIM.queries(4)
        found = store.index("cpu").search(query, 5).similarity
        keys = np.concatenate([record(n, v).embedding for n, v in slides.items()])
        truth = -np.sort(-(query @ keys.T), axis=1)[:, :5]
        return float(np.abs(np.sort(found)[:, ::-1] - truth).max())

    def _cache(self, machine: str) -> None:
        os.environ["XDG_CACHE_HOME"] = str(self.folder / machine)

    def _faulty(self, operation: dict[str, Any], fault: dict[str, Any], *, first: bool) -> None:
        self._cache("one" if first else "other")
        if first and fault["kind"] == "kill":
            threading.Timer(fault["seconds"] / 2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        self.act(operation, far=first)

    def act(self, operation: dict[str, Any], *, far: bool) -> None:
        """Do one operation, as the commands do it."""
        verb, numbers, options = operation["verb"], operation["numbers"], self.bucket.options(far=far)
        if verb == "build":
            records = (record(n, 0) for n in numbers)
            ReferenceStore.create(self.uri, SIM.identity(), records, force=True, options=options)
            return
        if verb == "verify":
            verify(self.uri, options=options)
            return
        store = ReferenceStore.open(self.uri, options=options)
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
        return together([lambda: told(body)], 2 * SECONDS)[0]

    def _violation(self, step: str, what: str, about: dict[str, Any]) -> None:
        self.violations.append({"seed": self.seed, "step": step, "what": what, **about})


def faults_of(fault: dict[str, Any]) -> list[Fault]:
    """Return what the proxy is told of a step's fault."""
    kind = fault["kind"]
    if kind in ("none", "kill"):
        return []
    where = {name: fault[name] for name in ("method", "path", "after", "times")}
    if kind == "full":
        return [Fault("refuse", **where, status=507, code="InsufficientStorage")]
    return [Fault(kind, **where, seconds=1.6)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    bad, longest = 0, 0.0
    started = time.monotonic()
    bucket = Bucket()
    try:
        for seed in range(chosen.seed, chosen.seed + chosen.runs):
            folder = Path(tempfile.mkdtemp(prefix="mst-faults-"))
            run = Run(bucket, folder, seed)
            run.run(chosen.steps)
            shutil.rmtree(folder)
            counts += run.counts
            bad += len(run.violations)
            longest = max(longest, run.longest)
            for violation in run.violations:
                print(json.dumps(violation), flush=True)  # noqa: T201
    finally:
        bucket.close()
    summary = {
        "runs": chosen.runs,
        "operations": sum(n for name, n in counts.items() if name.startswith("operation ")),
        "faults": sum(n for name, n in counts.items() if name.startswith("fault ") and name != "fault none"),
        "violations": bad,
        "longest": round(longest, 1),
        "seconds": round(time.monotonic() - started),
        **dict(sorted(counts.items())),
    }
    print(json.dumps(summary), flush=True)  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
