"""Builds by a local Ray cluster beside the plain build, of the same simulated slides.

    python benchmarks/scale/ray_builds.py --slides 2 8 32

It asks three things: whether the tables are equal, row for row, whatever is killed; and what Ray costs by the number of
slides. The plain build and Ray's are timed in turn, and medians are printed; everything is written to
benchmarks/results/scale-ray.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks")]
from _measure import Clock  # noqa: E402  it lies beside this folder

import mclstexp as mst  # noqa: E402
from mclstexp.cluster import Cluster  # noqa: E402
from mclstexp.data.synthetic import SlideSpec, write_cohort  # noqa: E402
from mclstexp.index.cluster.workers import Workers  # noqa: E402


def rows(path: Path) -> Any:
    """Everything that a reference holds, in its order, but for when it was added."""
    return mst.Reference.open(path).store.table.dataset.to_table(with_row_id=True).drop_columns(["added"])


def world(folder: Path, n: int) -> tuple[Path, Path]:
    """Write ``n`` slides and a model of two of them, unless they are there; return both folders."""
    spec = SlideSpec(n_genes=500, side_px=1200, pitch_um=80.0)
    refs = folder / f"cohort{n}" / "refs"
    if not refs.exists():
        write_cohort(refs.parent, n_patients=n, slides_per_patient=1, spec=spec)
    if not (folder / "model").exists():
        few = mst.read_slides(refs)[:2]
        changes = ["patch.size_px=112", "choose=[]"]
        model = mst.train(
            few, encoder="test_resnet", encoder_weights="random", settings=changes, n_genes=100, cache=False
        )
        model.save(folder / "model")
    return refs, folder / "model"


def plain(refs: Path, model: Path, target: Path) -> None:
    mst.Reference.build(target, mst.read_slides(refs), mst.Model.load(model, cache=False), force=True)


def spread(refs: Path, model: Path, target: Path, address: str = "auto", every: int = 0, progress: Any = None) -> None:
    workers = Workers(address, commit_every=every, cache=False)
    model = mst.Model.load(model, cache=False)
    mst.Reference.build(target, mst.find_slides(refs), model, ray=workers, force=True, on_progress=progress)


def timed(call: Any, *arguments: Any) -> float:
    with Clock() as clock:
        call(*arguments)
    return clock.seconds


def overhead(folder: Path, n: int, rounds: int) -> dict[str, Any]:
    """Time the plain build, Ray's on a cluster that is started for it, and Ray's on one that runs."""
    refs, model = world(folder, n)
    took: dict[str, list[float]] = {"plain": [], "ray_started": [], "ray_running": []}
    for _ in range(rounds):
        took["plain"].append(timed(plain, refs, model, folder / "plain"))
        took["ray_started"].append(timed(spread, refs, model, folder / "started"))
        with Cluster():
            took["ray_running"].append(timed(spread, refs, model, folder / "running"))
    expected = rows(folder / "plain")
    equal = all(rows(folder / name).equals(expected) for name in ("started", "running"))
    return {"slides": n, "spots": len(expected), "equal": equal, **{key: median(value) for key, value in took.items()}}


def killed_worker(folder: Path, n: int) -> dict[str, Any]:
    """Kill a worker when the first slides are there, and see whether the table is that of the plain build."""
    import psutil

    refs, model = world(folder, n)
    killed: list[int] = []

    def kill(step: str, done: int, total: int) -> None:
        below = psutil.Process().children(recursive=True)
        busy = [process for process in below if "".join(process.cmdline()).startswith("ray::MapWorker")]
        if not killed and step.startswith("encoding") and busy:
            busy[0].send_signal(signal.SIGKILL)
            killed.append(done)

    spread(refs, model, folder / "killed", every=4, progress=kill)
    plain(refs, model, folder / "plain")
    return {"slides": n, "killed_after": killed, "equal": rows(folder / "killed").equals(rows(folder / "plain"))}


def driver_twice(folder: Path, n: int) -> dict[str, Any]:
    """Kill the command once it has committed twice, run it again, and compare."""
    refs, model = world(folder, n)
    target = folder / "twice"
    words = ["-c", "from mclstexp.cli.app import main; main()", "build-index", refs, "--model", model, "-o", target]
    words += ["--ray", "auto", "--commit-every", "2", "--cache", folder / "cache"]
    driver = subprocess.Popen([sys.executable, *map(str, words)], start_new_session=True)
    versions = target / "spots.lance" / "_versions"
    while driver.poll() is None and not (versions.is_dir() and len(list(versions.glob("*.manifest"))) >= 2):
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    stood = len(mst.Reference.open(target).slides)
    subprocess.run([sys.executable, *map(str, words)], check=True)
    plain(refs, model, folder / "plain")
    return {"slides": n, "stood_at_kill": stood, "equal": rows(target).equals(rows(folder / "plain"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ray-builds-"))
    try:
        n = sorted(options.slides)[len(options.slides) // 2]
        found = {
            "overhead": [overhead(folder, each, options.rounds) for each in options.slides],
            "killed_worker": killed_worker(folder, n),
            "driver_twice": driver_twice(folder, n),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| slides | spots | plain s | Ray, started s | Ray, running s | equal |\n|---|---|---|---|---|---|")
    for one in found["overhead"]:
        print(
            f"| {one['slides']} | {one['spots']} | {one['plain']:.1f} | {one['ray_started']:.1f} | "
            f"{one['ray_running']:.1f} | {one['equal']} |"
        )
    print(f"worker killed: {found['killed_worker']}\ndriver killed and run again: {found['driver_twice']}")
    target = ROOT / "benchmarks" / "results" / "scale-ray.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
