"""Object stores behind a network that fails, and stores that would lose a commit: one line, or success."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from faults.network import Fault, Proxy
from simulation import Simulation

from mclstexp.errors import InputError, StorageError
from mclstexp.index.store import filesystems, remote
from mclstexp.index.store.conditional import keeps_one_commit
from mclstexp.index.store.place import Place
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify

SIM = Simulation(n_genes=16, n_panel=8, dim=8)
SHORT = {"connect_timeout": "1s", "timeout": "1s", "client_retry_timeout": "1"}
MANIFEST = r"ref/spots.lance/_versions/\d+\.manifest"


@pytest.fixture
def proxy(s3, monkeypatch, tmp_path):
    """A proxy before the server of the tests; what is remembered of stores is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Proxy(os.environ["AWS_ENDPOINT"]) as proxy:
        yield proxy


@pytest.fixture
def uri(s3):
    return f"{s3}/{uuid.uuid4().hex}/ref"


def far(proxy):
    return {**SHORT, "endpoint": proxy.address}


def names(uri):
    return [entry.slide_id for entry in ReferenceStore.open(uri).slides()]


def test_a_store_that_ignores_conditional_puts_is_refused_before_anything_is_written(proxy, uri):
    """The spike, too: the second of two commits of one version passes there, and is refused elsewhere."""
    proxy.faults(Fault("strip", times=0))
    with pytest.raises(StorageError, match="does not know conditional puts") as refused:
        ReferenceStore.create(uri, SIM.identity(), SIM.records(2, 8), options=far(proxy))
    assert "\n" not in str(refused.value)
    assert Place(uri).names() == []
    ReferenceStore.create(uri, SIM.identity(), SIM.records(2, 8))
    with pytest.raises(StorageError, match="does not know conditional puts"):
        ReferenceStore.open(uri, options=far(proxy)).add([SIM.record(5, 8)])
    assert names(uri) == ["slide0000", "slide0001"]
    proxy.faults()
    assert keeps_one_commit(f"{uri}-probe.lance", Place(uri, far(proxy)).storage_options)
    assert ReferenceStore.open(uri, options=far(proxy)).add([SIM.record(5, 8)]).added == ["slide0005"]
    assert not [name for name in Place(uri).names() if ".tmp-" in name]


@pytest.mark.parametrize("kind", ["drop-after", "refuse-after"])
def test_a_commit_whose_answer_is_lost_is_there_once(proxy, uri, kind):
    store = ReferenceStore.create(uri, SIM.identity(), SIM.records(2, 8), options=far(proxy))
    proxy.faults(Fault(kind, "PUT", MANIFEST, status=500, code="InternalError"))
    assert store.add([SIM.record(5, 8)]).added == ["slide0005"]
    assert proxy.struck() == [1]
    assert names(uri) == ["slide0000", "slide0001", "slide0005"]
    assert verify(uri).findings == []


def test_a_commit_without_an_answer_in_time_is_said_to_be_unsure(proxy, uri):
    store = ReferenceStore.create(uri, SIM.identity(), SIM.records(2, 8), options=far(proxy))
    proxy.faults(Fault("delay", "PUT", MANIFEST, seconds=2.0))
    with pytest.raises(StorageError, match="Whether the change was kept is not sure; mst history shows it") as refused:
        store.add([SIM.record(5, 8)])
    assert "\n" not in str(refused.value)
    limit = time.monotonic() + 20
    while proxy.busy and time.monotonic() < limit:
        time.sleep(0.05)
    assert names(uri) == ["slide0000", "slide0001", "slide0005"], "it arrived after the writer had given up"
    assert ReferenceStore.open(uri).add([SIM.record(5, 8)]).skipped == ["slide0005"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("refuse", "PUT|POST", "/ref/", times=0, status=507, code="InsufficientStorage"), "the store is full"),
        (Fault("refuse", "PUT|POST", "/ref/", times=0, status=403, code="QuotaExceeded"), "its quota is used up"),
        (Fault("refuse", times=0), "is overloaded or broken"),
        (Fault("drop", times=0), "does not answer at http://127.0.0.1"),
        (Fault("delay", times=0, seconds=1.3), "does not answer at http://127.0.0.1"),
    ],
    ids=["full", "quota", "overloaded", "dropped", "silent"],
)
def test_what_goes_on_failing_is_one_line_and_leaves_the_reference_as_it_was(proxy, uri, fault, said):
    store = ReferenceStore.create(uri, SIM.identity(), SIM.records(2, 8), options=far(proxy))
    proxy.faults(fault)
    started = time.monotonic()
    with pytest.raises(StorageError, match=said) as refused:
        store.add([SIM.record(5, 8)])
    assert time.monotonic() - started < 20
    assert "\n" not in str(refused.value)
    assert names(uri) == ["slide0000", "slide0001"]


def test_which_uris_can_hold_a_reference(monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AWS_ENDPOINT", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for known in ("s3://bucket/ref", "gs://bucket/ref", "az://container/ref"):
        assert Place(known).root == known
    for unknown, said in (
        ("ftp://x/ref", "lies in a folder or at s3:// or gs:// or az://"),
        ("az://container", "does not name a folder of a bucket"),
        ("az://key@container/ref", "credentials do not belong into the address"),
    ):
        with pytest.raises(InputError, match=said):
            Place(unknown)
    with pytest.raises(InputError, match="give AZURE_STORAGE_ACCOUNT_NAME"):
        filesystems.file_system("az://container/ref", {})
    with pytest.raises(InputError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        filesystems.file_system("gs://bucket/ref", {"google_service_account": "key.json"})
    files, root = filesystems.file_system("az://container/ref", {"account_name": "lab", "account_key": "a2V5"})
    assert (files.type_name, root) == ("abfs", "container/ref")


def test_an_option_goes_before_the_environment_by_whatever_name(s3, uri):
    """The environment has the server's address; each time the short name has to win."""
    for name in ("endpoint", "aws_endpoint", "AWS_ENDPOINT_URL"):
        place = Place(uri, {name: "http://127.0.0.1:9", "region": "eu-central-1"})
        assert place.storage_options["aws_endpoint"] == "http://127.0.0.1:9"
        assert not {"endpoint", "region"} & set(place.storage_options)


def test_times_are_read_as_they_are_written():
    assert [remote.seconds("timeout", {"timeout": text}) for text in ("90s", "500ms", "2m", "7")] == [90, 0.5, 120, 7]
    assert remote.seconds("timeout", {}) == 20
    assert remote.attempts({"client_max_retries": "0"}) == 1
    for wrong in ({"timeout": "soon"}, {"timeout": "0s"}):
        with pytest.raises(InputError, match="is no time"):
            remote.seconds("timeout", wrong)
    with pytest.raises(InputError, match="no number of retries"):
        remote.attempts({"client_max_retries": "many"})


@pytest.mark.skipif("MST_FAR_RUNS" not in os.environ, reason="the nightly run has these; MST_FAR_RUNS says how many")
def test_schedules_of_faults_on_a_network_lose_nothing():
    """Operations of one or two machines, and what goes wrong between them and the store."""

    program = Path(__file__).parents[1] / "faults" / "bucket.py"
    runs, steps = os.environ["MST_FAR_RUNS"], os.environ.get("MST_FAR_STEPS", "6")
    done = subprocess.run(
        [sys.executable, str(program), "--runs", runs, "--steps", steps, "--seed", "3"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, lines[:-1]) == (0, [])
