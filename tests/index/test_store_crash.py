"""Killed at any moment, refused by the disk, met by another writer: the last whole state stays.

A helper process imports everything once and forks a fresh child for each attempt, before any thread has started; the
child works on its own copy of a small reference and is killed with SIGKILL.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from simulation import Simulation

from mclstexp.errors import FormatError, LockedError, StorageError
from mclstexp.index.store.lock import writing
from mclstexp.index.store.place import Place
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify
from mclstexp.storage import storage_error

SIM = Simulation(n_genes=24, n_panel=12, dim=8)
FAR = pytest.mark.skipif(os.environ.get("MST_TEST_STORE") != "s3", reason="the nightly run kills all tasks in a bucket")


def environment(**more):
    """Of the snippets below: they import the simulation, which lies beside this file."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


HELPER = r"""
import json, os, shutil, signal, sys, time

import lance, numpy, pyarrow, scipy.sparse  # before any fork, and without starting a thread
from mclstexp.errors import InputError
from forked import child, result
from simulation import Simulation
from mclstexp.index.store.place import Place
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify

SIM = Simulation(n_genes=24, n_panel=12, dim=8)
DEBRIS = ("orphan", "hint", "unhashed", "derived", "busy")
BASE, WORK = sys.argv[1:]


def prepare(work):
    if "://" in work:
        return prepare_bucket(work)
    shutil.rmtree(work, ignore_errors=True)
    if TASK != "build":
        shutil.copytree(BASE, work)


def prepare_bucket(work):
    import boto3  # which starts no thread for these calls

    store = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT"])
    (bucket, new), (_, old) = (uri.removeprefix("s3://").split("/", 1) for uri in (work, BASE))

    def keys(prefix):
        pages = store.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/")
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    for key in keys(new):
        store.delete_object(Bucket=bucket, Key=key)
    for key in keys(old) if TASK != "build" else []:
        store.copy_object(Bucket=bucket, Key=new + key[len(old) :], CopySource={"Bucket": bucket, "Key": key})


def act(work):
    if TASK == "build":
        ReferenceStore.create(work, SIM.identity(), SIM.records(3, 8))
    elif TASK == "rebuild":
        ReferenceStore.create(work, SIM.identity(), SIM.records(4, 8, start=3), force=True)
    elif TASK == "add":
        ReferenceStore.open(work).add([SIM.record(0, 9, variant=1), *SIM.records(2, 8, start=5)], replace=True)
    elif TASK == "remove":
        ReferenceStore.open(work).remove(slides=["slide0001"])
    elif TASK == "optimize":
        ReferenceStore.open(work).optimize()


def state(work):
    if not any(name.endswith(".manifest") for name in Place(work).names("spots.lance/_versions")):
        return None
    store = ReferenceStore.open(work)
    return store.version, {e.slide_id: e.content_hash for e in store.slides()}


def calls_until(limit):
    seen = 0

    def count(frame, event, arg):
        nonlocal seen
        if event == "call" and "/index/" in frame.f_code.co_filename:
            seen += 1
            if seen == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    return lambda: seen


def measured():
    prepare(WORK)
    before = state(WORK)
    counter = calls_until(0)
    start = time.perf_counter()
    act(WORK)
    seconds = time.perf_counter() - start
    sys.setprofile(None)
    return [counter(), seconds, before, state(WORK)]


def after_a_kill():
    found = [state(WORK)]
    if found[0] is None:
        found.append([])
    else:
        report = verify(WORK)
        found.append([f"{f.kind} {f.path} {f.message}" for f in report.findings if f.kind not in DEBRIS])
    try:
        act(WORK)
    except InputError as error:
        if TASK != "remove" or "no slide" not in str(error):
            raise
    except Exception as error:
        if type(error).__name__ != "ExistsAlreadyError" or TASK != "build":
            raise
    repaired = verify(WORK, repair=True)
    again = verify(WORK)
    return [*found, state(WORK)[1], repaired.ok, [f"{f.kind} {f.path}" for f in again.findings]]


for line in sys.stdin:
    TASK, how, where = json.loads(line)
    if how == "measure":
        print(json.dumps(result(*child(measured))[1]), flush=True)
        continue
    prepare(WORK)
    pid, read = child(lambda: (calls_until(where) if how == "call" else None, act(WORK), True)[-1])
    if how == "time":
        time.sleep(where)
        os.kill(pid, signal.SIGKILL)
    status, done = result(pid, read)
    print(json.dumps([done, *result(*child(after_a_kill))]), flush=True)
"""


class Helper:
    def __init__(self, root, **more):
        base = f"{root}/base"
        store = ReferenceStore.create(base, SIM.identity(), SIM.records(3, 8))
        store.add(SIM.records(1, 8, start=4))
        self.process = subprocess.Popen(
            [sys.executable, "-c", HELPER, base, f"{root}/work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(OMP_NUM_THREADS="1", **more),
        )

    def __call__(self, *question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    helper = Helper(tmp_path_factory.mktemp("crash"))
    yield helper
    helper.end()


@pytest.fixture(scope="module")
def far_helper(s3, tmp_path_factory):
    """The same in a bucket."""
    cache = str(tmp_path_factory.mktemp("cache"))
    keys = {"AWS_DEFAULT_REGION": "us-east-1", "XDG_CACHE_HOME": cache}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", cache)
        helper = Helper(f"{s3}/crash-{uuid.uuid4().hex}", **keys)
    yield helper
    helper.end()


@pytest.mark.parametrize(
    ("task", "n_times", "n_calls"),
    [("build", 7, 7), ("add", 8, 8), ("optimize", 6, 6), ("rebuild", 3, 3), ("remove", 2, 3)],
)
def test_sigkill_at_any_moment(helper, task, n_times, n_calls):
    """53 moments: by the clock, which reaches into Lance's own code, and by the number of calls, which repeats."""
    killed(helper, task, n_times, n_calls)


@pytest.mark.parametrize(
    "task", ["add", *(pytest.param(task, marks=FAR) for task in ("build", "optimize", "rebuild", "remove"))]
)
def test_sigkill_at_any_moment_in_a_bucket(far_helper, task):
    """20 moments in all, 4 of them in every run: two by the clock, two by the number of calls."""
    killed(far_helper, task, 2, 2)


def killed(helper, task, n_times, n_calls):
    """Kill a task at moments that lie evenly over it, and look at what is there, then and after the next run."""
    n_total, seconds, before, after = helper(task, "measure", 0)
    moments = [("time", seconds * 1.1 * (i + 0.5) / n_times) for i in range(n_times)]
    moments += [("call", 1 + round((n_total - 1) * i / (n_calls - 1))) for i in range(n_calls)]
    states = []
    for how, where in moments:
        done, status, found = helper(task, how, where)
        assert status == 0, f"after a kill at {how} {where} the next run failed"
        reached, problems, finally_there, repaired, left = found
        states.append(reached)
        assert reached in (before, after), f"neither the old nor the new state after {how} {where}"
        assert done is None or reached == after, "what was reported as done is there"
        assert problems == []
        assert finally_there == after[1], "the next run carries on"
        assert repaired
        assert left == []
    assert before in states, "some kills came before the commit"


HOLD = """
import sys, time
from mclstexp.index.store.lock import writing
from mclstexp.index.store.place import Place
with writing(Place(sys.argv[1]), 'mst add more', alone=sys.argv[2] == 'alone'):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    holders = []

    def start(root, how):
        holders.append(subprocess.Popen([sys.executable, "-c", HOLD, root, how], stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout.readline() == "held\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.wait()


def test_a_repair_waits_for_writers_and_nobody_else_does(tmp_path, hold):
    root = tmp_path / "ref"
    store = ReferenceStore.create(root, SIM.identity(), SIM.records(2, 8))
    holder = hold(root, "with others")
    with pytest.raises(LockedError, match=rf"is in use by process {holder.pid} on .* \(mst add more\) since 20"):
        verify(root, repair=True)
    report = verify(root)
    assert report.ok
    assert [finding.kind for finding in report.findings] == ["busy"]
    store.add(SIM.records(1, 8, start=5))
    store.remove(slides=["slide0000"])
    store.tag("x")
    assert ReferenceStore.open(root).index("cpu").search(SIM.queries(2), 3).ids.shape == (2, 3), "readers go on"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert verify(root, repair=True).findings == []


def test_writers_are_told_of_a_repair(tmp_path, hold):
    root = tmp_path / "ref"
    store = ReferenceStore.create(root, SIM.identity(), SIM.records(2, 8))
    holder = hold(root, "alone")
    for change in (
        lambda: store.add(SIM.records(1, 8, start=5)),
        lambda: store.remove(slides=["slide0000"]),
        lambda: store.tag("x"),
        lambda: ReferenceStore.create(root, SIM.identity(), SIM.records(1, 8), force=True),
    ):
        with pytest.raises(LockedError, match=f"is in use by process {holder.pid}"):
            change()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert store.add(SIM.records(1, 8, start=5)).version == 2


WRITER = """
import sys
from simulation import Simulation
from mclstexp.index.store.store import ReferenceStore
sim = Simulation(n_genes=24, n_panel=12, dim=8)
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 6):
    ReferenceStore.open(sys.argv[1]).add([sim.record(number, 8)])
"""


@pytest.mark.parametrize("where", ["local", "s3"], indirect=True)
def test_two_writers_and_readers_lose_nothing(where):
    root = where()
    ReferenceStore.create(root, SIM.identity(), SIM.records(1, 8))
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, root, str(first)], env=environment()) for first in (10, 20)
    ]
    seen = []
    while any(writer.poll() is None for writer in writers):
        reader = ReferenceStore.open(root)
        found = reader.index("cpu").search(SIM.queries(2), 8 * len(reader.entries))
        assert (found.ids >= 0).all(), "a reader sees every spot of its version"
        assert reader.n_spots == 8 * reader.version
        seen.append(reader.version)
        time.sleep(0.02)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen == sorted(seen)
    store = ReferenceStore.open(root)
    assert len(store.entries) == store.version == 13
    assert verify(root).findings == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
from mclstexp.errors import StorageError
from simulation import Simulation
from mclstexp.index.store.store import ReferenceStore
sim = Simulation(n_genes=24, n_panel=12, dim=8)
store = ReferenceStore.open(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    store.add([sim.record(7, 4000)])
except StorageError as error:
    print(error)
"""


def test_a_write_that_the_system_refuses_leaves_the_reference_as_it_was(tmp_path):
    """The limit on a file's size is refused by the kernel in the same place as a full disk."""
    root = tmp_path / "ref"
    ReferenceStore.create(root, SIM.identity(), SIM.records(2, 8))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != ".lock"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, root], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout.count("\n") == 1
    assert "a file would grow past the size limit" in done.stdout
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != ".lock"}
    assert {path.relative_to(root) for path in after} == {path.relative_to(root) for path in before}
    assert verify(root).findings == []


def full_disk(tmp_path):
    """A file system of 300 kB, where this machine lets us mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (no privilege)")


def test_a_full_disk(tmp_path):
    full_disk(tmp_path)
    try:
        with pytest.raises(StorageError, match="the disk is full; free some space"):
            ReferenceStore.create(tmp_path / "ref", SIM.identity(), [SIM.record(7, 4000)])
        assert list(tmp_path.iterdir()) == []
        store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), SIM.records(2, 8))
        with pytest.raises(StorageError, match="the disk is full; free some space"):
            store.add([SIM.record(7, 4000)])
        assert verify(tmp_path / "ref").findings == []
        assert store.add([SIM.record(5, 8)]).version == 2
    finally:
        subprocess.run(["umount", tmp_path], check=True)


READ_ONLY = """
import os, sys
from pathlib import Path
from mclstexp.config import RetrievalConfig
from mclstexp.errors import StorageError
from retrieval import retrieve
from simulation import Simulation
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify
sim = Simulation(n_genes=24, n_panel=12, dim=8)
def look():
    store = ReferenceStore.open(Path(sys.argv[1]))
    return retrieve(store, sim.queries(3), RetrievalConfig(k=5)).mean.shape, verify(store.root).ok
if os.geteuid() == 0:  # root may write anything: import all there is to import, then become nobody
    look()
    os.setuid(65534)
store = ReferenceStore.open(Path(sys.argv[1]))
print(*look())
for change in ("add([sim.record(7, 8)])", "remove(slides=['slide0000'])", "tag('x')"):
    try:
        eval("store." + change)
    except StorageError as error:
        print(error)
"""


def test_a_read_only_reference_can_be_read_and_says_why_not_written():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / "ref"
        ReferenceStore.create(root, SIM.identity(), SIM.records(2, 8))
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, root], capture_output=True, text=True, check=False, env=environment()
        )
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        lines = done.stdout.splitlines()
        assert lines[0] == "(3, 12) True", done.stderr
        assert len(lines) == 4
        assert all("permission is denied; make the folder writable" in line for line in lines[1:])


def test_a_vanished_file_is_named_and_found(tmp_path):
    root = tmp_path / "ref"
    ReferenceStore.create(root, SIM.identity(), SIM.records(2, 8))
    (data,) = (root / "spots.lance/data").iterdir()
    data.unlink()
    with pytest.raises(FormatError, match=r"the table cannot be read \(.*ot found.*\); run mst verify"):
        ReferenceStore.open(root).embeddings(np.arange(3))
    assert [finding.kind for finding in verify(root).findings] == ["missing", "table"]


def test_reasons_in_one_line(tmp_path):
    for error, text in (
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError("LanceError(IO): ... No space left on device (os error 28), rust/x.rs:1"), "the disk is full"),
        (PermissionError(13, "Permission denied"), "permission is denied"),
        (OSError(30, "Read-only file system"), "read-only"),
        (RuntimeError("something\nover lines"), "something"),
    ):
        message = str(storage_error(error, tmp_path))
        assert text in message
        assert "\n" not in message


def test_the_lock_is_free_after_the_block(tmp_path):
    place = Place(tmp_path)
    refused = pytest.raises(LockedError, match=f"process {os.getpid()}")
    with writing(place, "one"), writing(place, "two"), refused, writing(place, "three", alone=True):
        pass
    with writing(place, "four", alone=True):
        pass
    (tmp_path / ".lock").write_text("rubbish")
    with writing(place, "five"):
        pass
