"""Work on a Ray cluster of this machine: builds that equal those of one process, and what is killed in between."""

import builtins
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from clusters import Doubling, KilledOnce
from commands import ENCODER, FAST, command, error_of, usage_of
from references import quietly
from worlds import TINY

from mclstexp import cluster as clusters
from mclstexp.cluster import Cluster, Outcome
from mclstexp.data.readers import find_slides, read_slides
from mclstexp.data.synthetic import SlideSpec, write_cohort
from mclstexp.errors import InputError, MclstexpError, MismatchError
from mclstexp.index.cluster import build as on_cluster
from mclstexp.index.cluster.workers import Workers, in_order
from mclstexp.index.reference import Reference
from mclstexp.model.model import Model
from mclstexp.predict.prediction import Prediction
from mclstexp.train import train

SPEC = SlideSpec(n_genes=60, side_px=600, pitch_um=80.0)
HERE = Path(__file__).parent

nightly = pytest.mark.skipif("MST_CLUSTER" not in os.environ, reason="slow; MST_CLUSTER=all runs it")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two workers on this machine, on loopback; what connects to ``auto`` is given them."""
    ray = pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's sockets lie below it
    before = os.environ.copy()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), before.get("PYTHONPATH", "")])
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=clusters.OBJECT_STORE,
        log_to_driver=False,
        _temp_dir=folder,
    )
    clusters._quiet()
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class World:
    """Five slides, a model of them, and the reference that one process builds."""

    refs: Path
    model: Path
    plain: Reference

    def workers(self, every: int = 0, n: int = 1) -> Workers:
        return Workers("auto", n, every, "cpu", cache=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("spread")
    refs = write_cohort(folder / "cohort", n_patients=5, slides_per_patient=1, spec=SPEC).refs
    slides = read_slides(refs)
    model = train(slides[:3], recipe=TINY, encoder_weights="random", n_genes=30, device="cpu", cache=False)
    model.save(folder / "model")
    plain = Reference.build(folder / "plain", slides, model, command="mst build-index")
    return World(refs, folder / "model", plain)


def rows(reference: Reference, *, ids: bool = True) -> pa.Table:
    """Everything that a reference holds, in its order, but for when it was added."""
    return reference.store.table.dataset.to_table(with_row_id=ids).drop_columns(["added"])


def test_items_fail_alone_and_outlive_their_worker(address: str, tmp_path: Path) -> None:
    kinds = {2: "once", 3: "bad", 4: "bug", 5: "doubtful"}
    items = [{"number": number, "kind": kinds.get(number)} for number in range(7)]
    with Cluster("auto") as cluster:
        assert "1 machine, 2 CPUs" in str(cluster)
        found = list(in_order(cluster.each(Doubling, {"by": 2, "marker": str(tmp_path / "killed")}, items, workers=2)))
    assert (tmp_path / "killed").exists()
    assert [outcome.item for outcome in found] == list(range(7))
    assert {outcome.item: outcome.answer["number"] for outcome in found if outcome.answer} == {
        0: 0,
        1: 2,
        2: 4,
        5: 10,
        6: 12,
    }
    assert isinstance(found[3].error, InputError)
    assert str(found[3].error) == "3 is bad; give another."
    assert str(found[4].error) == "ZeroDivisionError: a bug"
    assert found[5].notes == ["5 is doubtful"]


@nightly
def test_an_item_that_kills_every_worker_fails_alone(address: str, tmp_path: Path) -> None:
    items = [{"number": 0, "kind": "poison"}, {"number": 1}]
    with Cluster("auto") as cluster:
        found = {o.item: o for o in cluster.each(Doubling, {"by": 2, "marker": str(tmp_path / "m")}, items, workers=1)}
    assert found[1].answer is not None
    assert "killed 4 times" in str(found[0].error)


def test_a_build_is_that_of_one_machine_row_for_row(address: str, world: World, tmp_path: Path) -> None:
    built = Reference.build(
        tmp_path / "ray", find_slides(world.refs), Model.load(world.model, device="cpu"), ray=world.workers(n=2),
        command="mst build-index",
    )  # fmt: skip
    assert rows(built).equals(rows(world.plain))
    assert [(c["version"], c["message"]) for c in built.history()] == [
        (c["version"], c["message"]) for c in world.plain.history()
    ]
    query = read_slides(world.refs, only=["P2_A"])[0]
    assert np.array_equal(*(quietly(one, query).mean for one in (built, world.plain)))
    assert Reference.verify(tmp_path / "ray").ok


def test_a_killed_worker_and_a_bad_slide(
    address: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs, target = tmp_path / "refs", tmp_path / "reference"
    shutil.copytree(world.refs, refs)
    counts = refs / "P4_A.h5ad"
    kept = counts.read_bytes()
    counts.write_bytes(b"")
    monkeypatch.setattr(on_cluster, "EncodeSlide", KilledOnce)
    (tmp_path / "reference.kill-P2_A").touch()
    model = Model.load(world.model, device="cpu")
    with pytest.raises(InputError, match=r"1 of 5 slides failed: .*P4_A"):
        Reference.build(target, find_slides(refs), model, ray=world.workers(every=2))
    assert not (tmp_path / "reference.kill-P2_A").exists()
    names = [entry.slide_id for entry in Reference.open(target).store.entries]
    assert names == ["P1_A", "P2_A", "P3_A", "P5_A"]
    counts.write_bytes(kept)
    whole = Reference.build(target, find_slides(refs), model, ray=world.workers(every=2))
    assert [entry.slide_id for entry in whole.store.entries] == [*names, "P4_A"]
    order = [("slide_id", "ascending"), ("spot_id", "ascending")]
    left_out = ["image_path", "sources"]  # the slides lie elsewhere
    held, expected = (rows(one, ids=False).drop_columns(left_out).sort_by(order) for one in (whole, world.plain))
    assert held.equals(expected)


def test_a_killed_driver_goes_on_by_the_same_command(
    address: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["build-index", str(world.refs), "--model", str(world.model), "-o", str(tmp_path / "reference")]
    words += ["--ray", "auto", "--workers", "1", "--commit-every", "1", "--device", "cpu"]
    driver = subprocess.Popen(
        [sys.executable, "-c", "from mclstexp.cli.app import main; main()", *words],
        env={**os.environ, "RAY_ADDRESS": address, "MST_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    versions = tmp_path / "reference" / "spots.lance" / "_versions"
    for _ in range(6000):
        if driver.poll() is not None or (versions.is_dir() and len(list(versions.glob("*.manifest"))) >= 2):
            break
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    stood = len(Reference.open(tmp_path / "reference").store.entries)
    assert 2 <= stood <= 5
    again = command(tmp_path / "cache")(*words, ok=stood < 5)
    if stood < 5:
        assert "going on with" in again.stderr
    whole = Reference.open(tmp_path / "reference")
    assert rows(whole).equals(rows(world.plain))
    refused = command(tmp_path / "cache")(*words, ok=False)
    assert "exists already" in error_of(refused)


def two_of_five(world: World, folder: Path) -> list[object]:
    """Build a reference of two slides, and return the command that adds all five by a cluster."""
    first = read_slides(world.refs, only=["P1_A", "P2_A"])
    Reference.build(folder / "reference", first, Model.load(world.model, device="cpu"))
    return ["add", world.refs, "-r", folder / "reference", "--ray", "auto", "--workers", 1, "--device", "cpu"]


def test_an_add_leaves_what_is_there(address: str, world: World, tmp_path: Path) -> None:
    words = two_of_five(world, tmp_path)
    assert "version 2: 3 added, 0 replaced, 2 skipped" in command(tmp_path / "cache")(*words).stdout
    assert rows(Reference.open(tmp_path / "reference")).equals(rows(world.plain))


@nightly
def test_a_dry_run_counts_and_writes_nothing(address: str, world: World, tmp_path: Path) -> None:
    said = command(tmp_path / "cache")(*two_of_five(world, tmp_path), "--dry-run")
    assert f"5 slides, {len(world.plain)} spots, images of " in said.stdout
    assert "passes of the encoder" in said.stdout
    assert Reference.open(tmp_path / "reference").version == 1


@nightly
def test_a_bucket_is_built_as_a_folder(address: str, world: World, s3: str) -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT", "AWS_ALLOW_HTTP")
    access = {name.lower(): os.environ[name] for name in names}  # the workers' environment is older, and lacks them
    model, found = Model.load(world.model, device="cpu"), find_slides(world.refs)
    built = Reference.build(f"{s3}/spread", found, model, ray=world.workers(every=2, n=2), storage_options=access)
    assert built.version == 3
    assert rows(built).equals(rows(world.plain))


def test_many_slides_are_queried_as_one_by_one(address: str, world: World, tmp_path: Path) -> None:
    slides, mst = tmp_path / "slides", command(tmp_path / "cache")
    slides.mkdir()
    (image,) = (world.refs.parent / "query").glob("*.tif")
    for name in ("a", "c"):
        shutil.copy(image, slides / f"{name}.tif")
        shutil.copy(image.parent / "coords.csv", slides / f"{name}.csv")
    (slides / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    words = ["query", slides, "-r", world.plain.path, "--device", "cpu"]
    done = mst(*words, "-o", tmp_path / "ray", "--ray", "auto", "--workers", 1, ok=False)
    assert "1 of 3 slides failed: b" in error_of(done)
    assert sorted(done.stdout.split()) == [str(tmp_path / "ray" / f"{name}.h5ad") for name in ("a", "c")]
    (slides / "b.png").unlink()
    assert "2 there already" in mst(*words, "-o", tmp_path / "ray").stderr
    mst(*words, "-o", tmp_path / "plain")
    for name in ("a.h5ad", "c.h5ad"):
        ours, theirs = (Prediction.load(tmp_path / folder / name) for folder in ("ray", "plain"))
        assert np.array_equal(ours.mean, theirs.mean)
        assert ours.evidence.equals(theirs.evidence)


@nightly
def test_folds_are_evaluated_as_on_one_machine(address: str, world: World, tmp_path: Path) -> None:
    mst = command(tmp_path / "cache")
    words = ["evaluate", world.refs, "--train", "P1_A,P2_A,P3_A", "--test", "P4_A", "--json", *ENCODER, *FAST]
    words += ["--slides", "P1_A,P2_A,P3_A,P4_A", "--n-genes", 20]
    spread = mst(*words, "-o", tmp_path / "ray", "--ray", "auto", "--workers", 1)
    assert "of a method on a fold" in spread.stderr
    assert json.loads(spread.stdout) == json.loads(mst(*words, "-o", tmp_path / "plain").stdout)
    assert not (tmp_path / "ray.partial").exists()


def test_slides_that_were_read_are_refused(world: World, tmp_path: Path) -> None:
    slides = read_slides(world.refs)
    with pytest.raises(InputError, match="find_slides"):
        Reference.build(tmp_path / "r", slides, Model.load(world.model), ray="auto")


@pytest.mark.parametrize(
    ("where", "said"),
    [("127.0.0.1:1", "No Ray cluster answers"), ("head", "no address"), ("ray://head:1", "client address")],
)
def test_an_address_without_a_cluster_is_one_line(where: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        Cluster(where)
    assert "\n" not in str(refused.value)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else there(name, *a))
    imported = builtins.__import__

    def no_ray(name: str, *rest: object, **named: object) -> object:
        assert not name.startswith("ray"), "imported before it was looked for"
        return imported(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", no_ray)
    words = ["build-index", world.refs, "--model", world.model, "-o", tmp_path / "r", "--ray", "auto"]
    assert "pip install 'mclstexp[ray]'" in error_of(command()(*words, ok=False))
    assert not (tmp_path / "r").exists()


def test_other_versions_are_said_in_one_line() -> None:
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.7")
    refused = clusters._refusal("head:6379", error)
    assert isinstance(refused, MismatchError)
    assert "2.59.0" in str(refused)
    assert "\n" not in str(refused)


def test_a_worker_of_another_version_refuses_every_item(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = clusters._Worker(Doubling, {"by": 2, "marker": ""}, "0.0.1")
    outcome = clusters._outcome(json.loads(worker._one(0, {"number": 1})))
    assert isinstance(outcome.error, MismatchError)
    assert "0.0.1" in str(outcome.error)


def test_outcomes_come_in_order_as_soon_as_they_can() -> None:
    taken: list[int] = []

    def early() -> Iterator[Outcome]:
        for item in (1, 0, 3, 2):
            taken.append(item)
            yield Outcome(item, error=MclstexpError(""))

    ordered = in_order(early())
    assert next(ordered).item == 0
    assert taken == [1, 0]
    assert [outcome.item for outcome in ordered] == [1, 2, 3]


def test_options_of_a_cluster_go_with_one(world: World) -> None:
    assert "--ray" in usage_of(command()("add", world.refs, "--workers", 2, "-r", world.plain.path, ok=False))
