"""Two writers at the same moment: both killed at any moment, and both adding the same slide.

A helper process imports everything once and forks fresh children, before any thread has started. MST_RACE_ROUNDS sets
the number of rounds.
"""

import json
import os
import subprocess
import sys

import pytest
from simulation import Simulation

from mclstexp.index.store.store import ReferenceStore

SIM = Simulation(n_genes=24, n_panel=12, dim=8)
ROUNDS = int(os.environ.get("MST_RACE_ROUNDS", "12"))

HELPER = r"""
import json, os, shutil, signal, sys, time
from pathlib import Path

import lance, lance.fragment, numpy, pyarrow, pyarrow.fs, scipy.sparse
from mclstexp.errors import ExistsAlreadyError
from forked import child, result
from simulation import Simulation
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify

SIM = Simulation(n_genes=24, n_panel=12, dim=8)
BASE, WORK = Path(sys.argv[1]), Path(sys.argv[2])


def add(numbers, variants, build):
    records = [SIM.record(n, 8, variant=v) for n, v in zip(numbers, variants)]
    if build:
        try:
            ReferenceStore.create(WORK, SIM.identity(), records)
        except ExistsAlreadyError:
            return [[], [], [record.slide_id for record in records]]
        return [[record.slide_id for record in records], [], []]
    report = ReferenceStore.open(WORK).add(records, replace=True)
    return [report.added, report.replaced, report.skipped]


def look():
    seen = {e.slide_id: e.content_hash for e in ReferenceStore.open(WORK).slides()}
    n_rows = ReferenceStore.open(WORK).n_spots
    kinds = sorted({f.kind for f in verify(WORK).findings})
    repaired = verify(WORK, repair=True)
    again = [f"{f.kind} {f.path}" for f in verify(WORK).findings]
    return [seen, n_rows, kinds, repaired.ok, again]


for line in sys.stdin:
    jobs = json.loads(line)
    shutil.rmtree(WORK, ignore_errors=True)
    if not jobs[0].get("build"):
        shutil.copytree(BASE, WORK)
    gate = os.pipe()
    children = [child(lambda job=job: add(job["slides"], job["variants"], job.get("build")), gate) for job in jobs]
    os.close(gate[0])
    os.close(gate[1])
    start = time.perf_counter()
    for when, pid in sorted((job["kill"], pid) for job, (pid, _) in zip(jobs, children) if job.get("kill")):
        time.sleep(max(0.0, when - (time.perf_counter() - start)))
        os.kill(pid, signal.SIGKILL)
    done = [result(*one)[1] for one in children]
    print(json.dumps([done, time.perf_counter() - start, *result(*child(look))]), flush=True)
"""


class Helper:
    def __init__(self, folder):
        base = folder / "base"
        self.base = ReferenceStore.create(base, SIM.identity(), SIM.records(2, 8))
        self.process = subprocess.Popen(
            [sys.executable, "-c", HELPER, base, folder / "work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, *jobs):
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    helper = Helper(tmp_path_factory.mktemp("race"))
    yield helper
    helper.process.stdin.close()
    assert helper.process.wait(timeout=30) == 0


def job(*slides, variant=0, kill=None):
    return {"slides": slides, "variants": [variant] * len(slides), "kill": kill}


def hashes(*numbers, variant=0):
    return {f"slide{n:04d}": SIM.record(n, 8, variant=variant).content_hash for n in numbers}


def test_the_same_slide_added_by_two_at_once_is_there_once(helper):
    """Every round one of the two adds it and the other finds it there."""
    for _ in range(ROUNDS):
        done, _, status, (seen, n_rows, kinds, _, _) = helper(job(7), job(7))
        assert status == 0
        assert sorted(len(added) for added, _, _ in done) == [0, 1]
        assert sorted(len(skipped) for _, _, skipped in done) == [0, 1]
        assert seen == hashes(0, 1, 7)
        assert n_rows == 24
        assert kinds == []


def test_a_slide_that_two_share_is_there_once_with_the_slides_of_both(helper):
    for _ in range(ROUNDS // 2):
        done, _, status, (seen, n_rows, kinds, _, _) = helper(job(7, 5), job(6, 7))
        assert status == 0
        assert None not in done
        assert seen == hashes(0, 1, 5, 6, 7)
        assert n_rows == 40
        assert kinds == []


def test_two_that_replace_one_slide_leave_one_of_the_two_whole(helper):
    for _ in range(ROUNDS // 2):
        done, _, status, (seen, n_rows, kinds, _, _) = helper(job(1, variant=1), job(1, variant=2))
        assert status == 0
        assert None not in done
        assert seen in ({**hashes(0), **hashes(1, variant=1)}, {**hashes(0), **hashes(1, variant=2)})
        assert n_rows == 16
        assert kinds == []


def test_two_that_build_one_reference_leave_one_of_the_two(helper):
    for _ in range(ROUNDS // 2):
        done, _, status, (seen, _, kinds, _, _) = helper({**job(1), "build": True}, {**job(2), "build": True})
        assert status == 0
        assert sorted(len(added) for added, _, _ in done) == [0, 1]
        (built,) = (added for added, _, _ in done if added)
        assert list(seen) == built
        assert set(kinds) <= {"orphan"}


def test_two_adders_killed_at_any_moment(helper):
    """Each slide is there whole or not at all; what was reported as done is there; a repair leaves nothing behind."""
    _, seconds, _, _ = helper(job(5, 6), job(7, 8))
    landed = set()
    for i in range(ROUNDS):
        kills = [1.1 * seconds * (i + 0.5) / ROUNDS, 1.1 * seconds * ((i * 7) % ROUNDS + 0.5) / ROUNDS]
        done, _, status, (seen, n_rows, kinds, repaired, left) = helper(
            job(5, 6, kill=kills[0]), job(7, 8, kill=kills[1])
        )
        assert status == 0
        one, two = set(seen) & set(hashes(5, 6)), set(seen) & set(hashes(7, 8))
        assert one in (set(), set(hashes(5, 6)))
        assert two in (set(), set(hashes(7, 8)))
        assert done[0] is None or one
        assert done[1] is None or two
        assert seen.items() <= hashes(0, 1, 5, 6, 7, 8).items()
        assert n_rows == 8 * len(seen)
        assert set(kinds) <= {"orphan", "hint", "unhashed", "derived"}
        assert repaired
        assert left == []
        landed.add((bool(one), bool(two)))
    assert (False, False) in landed, "some kills came before the commits"
