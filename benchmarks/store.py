"""Measure a reference of any size: build, open, add, search, filter, aggregate, disk and memory.

    python benchmarks/store.py --spots 1000000 --genes 1000 --folder /somewhere/with/space

Every stage runs in a process of its own, so that its peak memory is its own. The simulated atlas has clustered
embeddings (`tests/simulation.py`); the counts are those of a few template slides, over and over, since only their
density matters here. A table is printed, and everything is written to benchmarks/results/store-SPOTS.json. With
``--old FOLDER``, the checkout of an earlier commit, its own benchmark runs each stage right after this one's, and the
two are printed side by side.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _measure import Clock, peak_mb
from _store_atlas import SLIDE_SPOTS, Simulation, private_mb, records, simulation, timed
from _store_averages import aggregate

from mclstexp.config import RetrievalConfig
from mclstexp.index.store.store import ReferenceStore

SMALL = 10_000


class Generated:
    """An iterator that knows how long its items took, so that they are not counted as building."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[Any]:
        while True:
            with Clock() as clock:
                item = next(self.items, None)
            self.seconds += clock.seconds
            if item is None:
                return
            yield item


def build(options: argparse.Namespace) -> dict[str, Any]:
    """Build the reference."""
    from mclstexp.index.store.summary import disk_use

    shutil.rmtree(options.folder / "big", ignore_errors=True)
    sim = simulation(options)
    source = Generated(records(sim, options.spots // SLIDE_SPOTS))
    with Clock() as clock:
        store = ReferenceStore.create(options.folder / "big", sim.identity(), source, index=options.index)
    bytes_ = disk_use(store.place, store.reference_id)
    parts = [loaded.piece for loaded in store.pieces()]
    return {
        "spots": store.n_spots,
        "build_s": clock.seconds - source.seconds,
        "index": parts[0].kind if parts else "exact",
        "nprobe": parts[0].nprobe if parts else None,
        "recall_at_build": parts[0].recall if parts else None,
        "disk_bytes_per_spot": {name: round(size / store.n_spots, 1) for name, size in bytes_.items()},
        "peak_mb": peak_mb(),
    }


def open_(options: argparse.Namespace) -> dict[str, Any]:
    """Open it, and ask one question."""
    import lance  # noqa: F401

    from mclstexp.index.search.ivf import load_faiss

    load_faiss()
    before = private_mb()
    with Clock() as clock:
        store = ReferenceStore.open(options.folder / "big")
        index = store.index("cpu")
    opened = private_mb() - before
    query = simulation(options).queries(1)
    with Clock() as first:
        index.search(query, 200)
    return {"open_s": clock.seconds, "open_private_mb": opened, "first_query_s": first.seconds}


def search(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the index with exact search."""
    from mclstexp.index.search.vectors import recall_at_k

    index = ReferenceStore.open(options.folder / "big").index("cpu")
    query = simulation(options).queries(options.queries)
    index.search(query, 200)
    quick, found = timed(lambda: index.search(query, 200))
    slow, truth = timed(lambda: index.search(query, 200, exact=True), repeat=2)
    single, _ = timed(lambda: [index.search(query[i : i + 1], 200) for i in range(20)])
    return {
        "search_s": quick,
        "exact_s": slow,
        "speedup": slow / quick,
        "recall_200": recall_at_k(found.ids, truth.ids),
        "one_query_ms": single / 20 * 1000,
        "peak_mb": peak_mb(),
    }


def filter_(options: argparse.Namespace) -> dict[str, Any]:
    """Search with most, a part, and little of the reference allowed."""
    from mclstexp.index.filter import Filter, allowed_rows
    from mclstexp.index.search.vectors import recall_at_k

    store = ReferenceStore.open(options.folder / "big")
    index = store.index("cpu")
    query = simulation(options).queries(options.queries)
    half = (store.n_spots // SLIDE_SPOTS + 1) // 2
    cases = {
        "without_a_patient": Filter(exclude_patients=("patient0001",)),
        "half": Filter(where=f"slide_id < 'slide{half:04d}'"),
        "one_cohort": Filter(only_cohorts=("cohort000",)),
        "two_slides": Filter(where="slide_id IN ('slide0002', 'slide0003')"),
    }
    result = {}
    for name, condition in cases.items():
        with Clock() as clock:
            allowed = allowed_rows(store, condition)
        if allowed is None:
            raise SystemExit("the filter allows everything")
        seconds, found = timed(lambda mask=allowed: index.search(query, 200, allowed=mask), repeat=2)  # type: ignore[misc]
        part = slice(0, 200)
        truth = index.search(query[part], 200, allowed=allowed, exact=True)
        result[name] = {
            "share": float(allowed.mean()),
            "filter_s": clock.seconds,
            "search_s": seconds,
            "recall_200": recall_at_k(found.ids[part], truth.ids),
            "short": int((found.ids < 0).sum()),
            "wrongly_found": int((~allowed[found.ids]).sum()),
        }
    return result


def add(options: argparse.Namespace) -> dict[str, Any]:
    """Add 5,000 spots to the big reference and to one of 10,000, by turns; the big one is restored afterwards."""
    sim = simulation(options)
    shutil.rmtree(options.folder / "small", ignore_errors=True)
    small = ReferenceStore.create(options.folder / "small", sim.identity(), records(sim, SMALL // SLIDE_SPOTS))
    big = ReferenceStore.open(options.folder / "big")
    before = big.version
    times: dict[str, list[float]] = {"big": [], "small": []}
    for turn in range(5):
        new = list(records(sim, 2, start=5000 + 2 * turn, templates=2))
        for name, store in (("big", big), ("small", small)):
            with Clock() as clock:
                store.add(new)
            times[name].append(clock.seconds)
    with Clock() as removing:
        big.remove(slides=["slide5000"])
    big.restore(before)
    shutil.rmtree(options.folder / "small")
    medians = {name: float(np.median(values[1:])) for name, values in times.items()}
    return {
        "add_5000_to_big_s": medians["big"],
        "add_5000_to_10000_s": medians["small"],
        "ratio": medians["big"] / medians["small"],
        "all_big_s": times["big"],
        "all_small_s": times["small"],
        "remove_slide_s": removing.seconds,
        "peak_mb": peak_mb(),
    }


def backends(options: argparse.Namespace) -> dict[str, Any]:
    """Give the table an index of its own, and search it beside FAISS; the reference is restored afterwards."""
    from mclstexp.index.search.faiss_gpu import count_gpus
    from mclstexp.index.search.vectors import recall_at_k

    store = ReferenceStore.open(options.folder / "big")
    before = store.version
    query = simulation(options).queries(options.queries)
    truth = store.index("cpu", "exact").search(query, 200)
    with Clock() as clock:
        store.index_table()
    searches = {"faiss": store.index("cpu"), "lancedb": store.index("cpu", "lancedb")}
    if count_gpus():
        searches["faiss_gpu"] = store.index("cuda")
    result: dict[str, Any] = {"lancedb_index_s": clock.seconds}
    for name, index in searches.items():
        seconds, found = timed(lambda index=index: index.search(query, 200), repeat=2)  # type: ignore[misc]
        result[name] = {"search_s": seconds, "recall_200": recall_at_k(found.ids, truth.ids)}
    store.restore(before)
    return result


def verify(options: argparse.Namespace) -> dict[str, Any]:
    """Verify the whole reference."""
    from mclstexp.index.verify.run import verify as verify_reference

    with Clock() as clock:
        report = verify_reference(options.folder / "big")
    return {"verify_s": clock.seconds, "ok": report.ok, "files": report.n_files, "peak_mb": peak_mb()}


def threshold(options: argparse.Namespace) -> dict[str, Any]:
    """Search ever larger references exactly, to see up to where that is fast enough."""
    from mclstexp.index.search.spot_index import SpotIndex

    sim = simulation(options)
    query = sim.queries(options.queries)
    result = {}
    for n in (10_000, 50_000, 100_000, 200_000, 400_000):
        if n > options.spots:
            break
        index = SpotIndex(sim.queries(n, seed=n), np.ones(n, dtype=bool), tie_rank=lambda ids: ids)
        result[str(n)], _ = timed(lambda index=index: index.search(query, 200), repeat=2)  # type: ignore[misc]
    return {"exact_s_by_rows": result}


def transcriptome(options: argparse.Namespace) -> dict[str, Any]:
    """Predict every one of 20,000 genes, which no copy holds."""
    from retrieval import retrieve

    sim = Simulation(n_genes=20_000, dim=options.dim, n_panel=1000, depth=0.12)
    shutil.rmtree(options.folder / "wide", ignore_errors=True)
    store = ReferenceStore.create(options.folder / "wide", sim.identity(), records(sim, 8, templates=2))
    built, before = peak_mb(), private_mb()
    query = sim.queries(options.queries)
    density = sum(entry.total_counts > 0 for entry in store.entries) and float(
        next(store.counts(np.arange(200))).counts.nnz / 200 / 20_000
    )
    with Clock() as clock:
        found = retrieve(store, query, RetrievalConfig(k=200), genes="all", device="cpu")
    shutil.rmtree(options.folder / "wide")
    return {
        "genes": len(found.genes),
        "spots": store.n_spots,
        "density": density,
        "seconds": clock.seconds,
        "result_mb": 2 * found.mean.nbytes / 2**20,
        "private_before_mb": before,
        "peak_mb": peak_mb(),
        "peak_after_build_mb": built,
    }


STAGES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "build": build,
    "open": open_,
    "search": search,
    "filter": filter_,
    "aggregate": aggregate,
    "add": add,
    "verify": verify,
    "backends": backends,
    "threshold": threshold,
    "transcriptome": transcriptome,
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--index", default="auto")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/store"))
    parser.add_argument("--stages", default=",".join(STAGES), help="Which to run; the others' results are kept.")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--old", type=Path, help="Checkout of an earlier commit to measure side by side.")
    parser.add_argument("--keep", action="store_true", help="Keep the simulated reference.")
    return parser.parse_args()


OLD_VERIFY = """
import json, sys, time
from pathlib import Path
from mclstexp.index.verify import verify
start = time.perf_counter()
report = verify(Path(sys.argv[1]))
print(json.dumps({"verify_s": time.perf_counter() - start, "ok": report.ok, "files": report.n_files}))
"""
"""The benchmark of commit e7c6e53 has no such stage."""


def run(script: Path, options: argparse.Namespace, stage: str, folder: Path) -> dict[str, Any]:
    """Run a stage in a process of its own, with the packages beside the script."""
    values = {"spots": options.spots, "genes": options.genes, "dim": options.dim, "queries": options.queries}
    arguments = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    arguments += ["--index", options.index, "--folder", str(folder.absolute()), "--stage", stage]
    root = script.absolute().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(script.absolute()), *arguments]
    if stage == "verify" and "def verify(" not in script.read_text():
        command = [sys.executable, "-c", OLD_VERIFY, str(folder.absolute() / "big")]
    elif f'"{stage}"' not in script.read_text():
        return {}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment, check=False)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def shown(value: Any) -> str:
    """Return a value as the table shows it."""
    return format(value, ".4g") if isinstance(value, float) else str(value)


def main() -> None:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    target = Path(__file__).parent / "results" / f"store-{options.spots}.json"
    target.parent.mkdir(exist_ok=True)
    results = json.loads(target.read_text()) if target.exists() else {}
    results["options"] = {name: str(value) for name, value in vars(options).items() if name != "stage"}
    for stage in options.stages.split(","):
        with Clock() as clock:
            results[stage] = run(Path(__file__), options, stage, options.folder)
            old = {}
            if options.old is not None:
                old = run(options.old / "benchmarks" / "store.py", options, stage, options.folder / "old")
                results.setdefault("old", {})[stage] = old
        target.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{stage} ({clock.seconds:.0f} s){', new and old' if old else ''}")
        for name, value in results[stage].items():
            print(f"  {name:36} {shown(value)}" + (f"    {shown(old.get(name, '-'))}" if old else ""))
    if not options.keep:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
