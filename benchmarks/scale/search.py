"""Search large references by single and sharded inverted files, and by LanceDB's own index, beside exact search.

    python benchmarks/scale/search.py --spots 2_000_000
    python benchmarks/scale/search.py --spots 2_000_000 --keys reference/derived/keys-256/values

The atlas is simulated (`tests/simulation.py`); with ``--keys``, the keys of a real reference stand in for it, repeated
with noise. Counts are of a few genes only: they are not asked for. Building and searching run in processes of their
own, so that a peak of memory is one contender's, and timings are medians of turns. A table is printed, and everything
is written to benchmarks/results/scale-search-WORLD-SPOTS.json.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests")]
from _measure import Clock, peak_mb  # noqa: E402  they lie beside this folder
from simulation import Simulation  # noqa: E402

from mclstexp.index.search import pieces  # noqa: E402
from mclstexp.index.search.faiss_cpu import FaissBackend  # noqa: E402
from mclstexp.index.search.spot_index import SpotIndex  # noqa: E402
from mclstexp.index.search.vectors import recall_at_k  # noqa: E402
from mclstexp.index.store.store import ReferenceStore  # noqa: E402

SLIDE_SPOTS = 2500
K = 200
ROWS = {"single": 2**62, "shards": 2**20, "default": pieces.PIECE_ROWS}
"""Rows of an inverted file of each contender."""


class Atlas:
    """Slides whose counts repeat, of a simulated world or of a real one that is repeated with noise."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.sim = Simulation(n_genes=8, n_panel=8, dim=options.dim)
        self.keys = None
        if options.keys is not None:
            real = np.fromfile(options.keys, dtype="<f4").reshape(-1, options.dim)
            self.keys = real[np.abs(np.linalg.norm(real, axis=1) - 1) < 1e-3]
            self.noise = options.noise

    def embeddings(self, n: int, seed: int) -> np.ndarray:
        """Return n keys, or queries, of unit length."""
        if self.keys is None:
            return self.sim.queries(n, seed)
        rng = np.random.default_rng((7, seed))
        rows = self.keys[rng.integers(0, len(self.keys), n)]
        rows = rows + self.noise / np.sqrt(rows.shape[1]) * rng.normal(size=rows.shape).astype(np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    def records(self, n_spots: int) -> Iterator[Any]:
        """Slides, one at a time."""
        template = self.sim.record(0, SLIDE_SPOTS, image=False)
        for number in range(n_spots // SLIDE_SPOTS):
            yield replace(
                template,
                slide_id=f"slide{number:06d}",
                patient=f"patient{number // 3:06d}",
                cohort=f"cohort{number // 40:04d}",
                content_hash=f"{number:064d}",
                embedding=self.embeddings(SLIDE_SPOTS, number),
            )


def private_mb() -> float:
    """Return the memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def folder_bytes(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table(options: argparse.Namespace) -> dict[str, Any]:
    """Build the reference without an index; the others share its keys."""
    shutil.rmtree(options.folder / "ref", ignore_errors=True)
    atlas = Atlas(options)
    with Clock() as clock:
        store = ReferenceStore.create(
            options.folder / "ref", atlas.sim.identity(), atlas.records(options.spots), index="exact"
        )
    return {
        "seconds_with_making_the_slides": clock.seconds,
        "spots": store.n_spots,
        "table_bytes": folder_bytes(options.folder / "ref" / "spots.lance"),
        "keys_bytes": (store.keys_file.folder / "values").stat().st_size,
        "peak_mb": peak_mb(),
    }


def build(options: argparse.Namespace) -> dict[str, Any]:
    """Build one contender's index."""
    store = ReferenceStore.open(options.folder / "ref")
    if options.contender == "lancedb":
        with Clock() as clock:
            store.index_table()
        made = options.folder / "ref" / "spots.lance" / "_indices"
        return {"build_s": clock.seconds, "bytes": folder_bytes(made), "peak_mb": peak_mb(), "private_mb": private_mb()}
    pieces.PIECE_ROWS = ROWS[options.contender]
    folder = options.folder / options.contender
    shutil.rmtree(folder, ignore_errors=True)
    with Clock() as clock:
        pieces.update(folder, {}, store.keys, store.live, choice=options.kind)
    parts = [loaded.piece for loaded in pieces.load(folder, {})]
    return {
        "build_s": clock.seconds,
        "bytes": folder_bytes(folder),
        "files": len(parts),
        "nprobe": parts[0].nprobe,
        "recall_at_build": parts[0].recall,
        "peak_mb": peak_mb(),
        "private_mb": private_mb(),
    }


def opened(store: ReferenceStore, options: argparse.Namespace, name: str) -> SpotIndex:
    """Return one contender's search."""
    if name in ("lancedb", "exact"):
        return store.index("cpu", name)  # type: ignore[arg-type]
    parts = pieces.load(options.folder / name, {})
    keys, live = store.keys[: store.n_ids], store.live_mask
    return SpotIndex(
        keys, live, tie_rank=store.tie_rank, backend=FaissBackend(keys, parts, pieces.outside(parts, live))
    )


def search(options: argparse.Namespace) -> dict[str, Any]:
    """Search with one contender, in batches and one query at a time."""
    import torch  # noqa: F401  its memory is no contender's

    query = Atlas(options).embeddings(options.queries, 10**6)
    before = private_mb()
    store = ReferenceStore.open(options.folder / "ref")
    index = opened(store, options, options.contender)
    with Clock() as first:
        found = index.search(query[:1], K)
    times = []
    for _ in range(1 if options.contender == "exact" else 5):
        with Clock() as clock:
            found = index.search(query, K)
        times.append(clock.seconds)
    truth = options.folder / "truth.npy"
    if options.contender == "exact":
        np.save(truth, found.ids)
        return {"batch_s": times[0], "peak_mb": peak_mb(), "private_mb": private_mb() - before}
    with Clock() as single:
        for i in range(20):
            index.search(query[i : i + 1], K)
    allowed = np.ones(store.n_ids, dtype=bool)
    allowed[slice(*store.entries[0].rows)] = False
    with Clock() as masked:
        index.search(query, K, allowed=allowed)
    return {
        "first_query_s": first.seconds,
        "batch_s": statistics.median(times),
        "all_batch_s": times,
        "without_a_slide_s": masked.seconds,
        "one_query_ms": 50 * single.seconds,
        "recall_200": recall_at_k(found.ids, np.load(truth)),
        "note": index.note,
        "peak_mb": peak_mb(),
        "private_mb": private_mb() - before,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--kind", default="ivf-sq8")
    parser.add_argument("--keys", type=Path, help="File of a real reference's keys, to be repeated with noise.")
    parser.add_argument("--noise", type=float, default=0.3, help="Length of the noise beside keys of length 1.")
    parser.add_argument("--contenders", default="single,shards,lancedb")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/scale-search"))
    parser.add_argument("--keep", action="store_true", help="Keep the simulated reference, and use one that is there.")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    return parser.parse_args()


def stage(options: argparse.Namespace, name: str, contender: str = "") -> dict[str, Any]:
    """Run a stage in a process of its own."""
    values = {"spots": options.spots, "dim": options.dim, "queries": options.queries, "kind": options.kind}
    values |= {"noise": options.noise, "folder": options.folder.absolute(), "stage": name, "contender": contender}
    values |= {} if options.keys is None else {"keys": options.keys.absolute()}
    arguments = [f"--{key}={value}" for key, value in values.items()]
    command = [sys.executable, str(Path(__file__).absolute()), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    options = parse()
    if options.stage:
        print(json.dumps(globals()[options.stage](options)))
        return
    world = "simulated" if options.keys is None else "repeated"
    target = ROOT / "benchmarks" / "results" / f"scale-search-{world}-{options.spots}.json"
    target.parent.mkdir(exist_ok=True)
    results = json.loads(target.read_text()) if options.keep and target.exists() else {}
    results["options"] = {name: str(value) for name, value in vars(options).items()}
    if not (options.keep and (options.folder / "truth.npy").exists()):
        options.folder.mkdir(parents=True, exist_ok=True)
        results["table"] = stage(options, "table")
        results["exact"] = stage(options, "search", "exact")
    print(json.dumps({name: results.get(name) for name in ("table", "exact")}, indent=1))
    print(f"{'':9} {'build s':>8} {'MB':>7} {'files':>5} {'1000 q s':>8} {'masked s':>8} {'one ms':>7} {'recall':>7}"
          f" {'private MB, built and searched':>31}")  # fmt: skip
    for name in options.contenders.split(","):
        made, found = stage(options, "build", name), stage(options, "search", name)
        results[name] = {"build": made, "search": found, "load_average": os.getloadavg()[0]}
        target.write_text(json.dumps(results, indent=1) + "\n")
        memory = f"{made['private_mb']:15.0f} {found['private_mb']:15.0f}"
        print(f"{name:9} {made['build_s']:8.1f} {made['bytes'] / 1e6:7.0f} {made.get('files', 1):5}"
              f" {found['batch_s']:8.2f} {found['without_a_slide_s']:8.2f} {found['one_query_ms']:7.1f}"
              f" {found['recall_200']:7.4f} {memory}", flush=True)  # fmt: skip
    if not options.keep:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
