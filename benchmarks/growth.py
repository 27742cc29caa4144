"""How the default recipe does as data grows: simulated cohorts of 500 spots of one tissue to 100,000 of sixteen.

    python benchmarks/growth.py --sizes 8x16x2x9600 --worlds linear,curved
    python benchmarks/growth.py --sizes 8x16x2x9600 --sweep shared.components=6,20,40
    python benchmarks/growth.py --pictures 6x18x1x1800 --sizes= --weights tf_efficientnet_lite0.safetensors

Cohorts of `--sizes` are features, those of `--pictures` are drawn and encoded (one view, one field of view).
A size is tissues x patients x slides a patient x spots in all. Test slides are of patients that training never saw.
Every method runs in a process of its own, which simulates the cohort anew, so that its peak memory is its own (the
cohort included); its seconds are those of training and prediction without the simulation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _her2st as her2st
from _contenders import METHODS, default_config, scores
from _measure import Clock, peak_mb
from simulated.features import simulate
from simulated.nature import WORLDS, Cohort

from mclstexp.config import changed, recipe
from mclstexp.errors import MclstexpWarning

SIZES = ("1x2x1x500", "2x4x1x1000", "4x8x2x3000", "8x16x2x9600", "12x32x2x30000", "16x64x2x100000")
COLUMNS = {
    "PCC": "pcc",
    "pooled": "pcc_pooled",
    "MSE": "mse",
    "neighbours": "n_effective",
    "seconds": "seconds",
    "MB": "peak_mb",
}


@dataclass(frozen=True)
class Job:
    """One method on one cohort; ``encoder`` is the name and the weights of one that encodes pictures, "" for none."""

    world: str
    size: str
    seed: int
    genes: int
    programmes: int | None
    method: str
    settings: tuple[str, ...] = ()
    encoder: tuple[str, str] = ("", "")
    cache: str | None = None

    @property
    def label(self) -> str:
        """Name of the row."""
        return " ".join((self.method, *self.settings))

    def cohort(self) -> Cohort:
        """Simulate the cohort."""
        tissues, patients, slides, spots = size_of(self.size)
        return simulate(tissues, patients, slides, spots, self.programmes, self.genes, self.seed, world=self.world)


def size_of(text: str) -> tuple[int, int, int, int]:
    """Read tissues x patients x slides a patient x spots."""
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
        raise SystemExit(f"--sizes {text}: tissues x patients x slides a patient x spots is needed, such as {SIZES[0]}")
    tissues, patients, slides, spots = map(int, parts)
    return tissues, patients, slides, spots


def measured(job: Job) -> dict[str, Any]:
    """Run one job in this process."""
    warnings.simplefilter("ignore", MclstexpWarning)
    cohort = job.cohort()
    base = default_config(cohort) if job.method != "paper" else recipe("paper")
    with Clock() as clock:
        answer = METHODS[job.method](cohort, changed(base, list(job.settings)))
    row: dict[str, Any] = asdict(job) | scores(cohort, answer)
    row |= {"seconds": clock.seconds, "peak_mb": peak_mb(), "chosen": answer.chosen}
    return row | {"test_slides": len(cohort.test), "train_slides": len(cohort.train)}


def apart(job: Job) -> dict[str, Any]:
    """Run one job in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (job,))


def jobs(options: argparse.Namespace) -> Iterator[list[Job]]:
    """Yield the jobs of each cohort."""
    names = her2st.split_list(options.methods)
    unknown = sorted({*names} - {*METHODS}) or sorted({*her2st.split_list(options.worlds)} - {*WORLDS})
    if unknown:
        raise SystemExit(f"unknown: {unknown[0]}; methods are {', '.join(METHODS)}; worlds are {', '.join(WORLDS)}")
    kinds = [(size, ("", "")) for size in her2st.split_list(options.sizes)]
    kinds += [(size, (options.encoder, options.weights)) for size in her2st.split_list(options.pictures)]
    for size, encoder in kinds:
        spots = size_of(size)[3]
        for world in her2st.split_list(options.worlds):
            for seed in her2st.split_list(options.seeds):
                common = (world, size, int(seed), options.genes, options.programmes)
                yield [
                    Job(*common, name, settings, encoder, options.cache)
                    for name in names
                    if name != "paper" or spots <= options.paper_spots
                    for settings in variants(options, name)
                ]


def variants(options: argparse.Namespace, name: str) -> list[tuple[str, ...]]:
    """Return the settings of every run of a method."""
    if name == "paper":
        return [tuple(options.paper_set)]
    if name != "default" or not options.sweep:
        return [tuple(options.set) if name == "default" else ()]
    key, _, values = options.sweep.partition("=")
    return [(*options.set, f"{key}={value}") for value in her2st.split_list(values)]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print one cohort's table."""
    first = rows[0]
    kind = "pictures" if first["encoder"][0] else "features"
    title = f"{kind}, {first['world']}, {first['size']} (tissues x patients x slides x spots), seed {first['seed']}"
    table = [[" ".join((row["method"], *row["settings"])), *(row[key] for key in COLUMNS.values())] for row in rows]
    her2st.show(title, ["method", *COLUMNS], [[*line[:4], *map(_short, line[4:])] for line in table])


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sizes", default=",".join(SIZES), help="tissues x patients x slides a patient x spots.")
    options.add_argument("--pictures", default="", metavar="SIZES", help="Cohorts that are drawn and encoded.")
    options.add_argument("--encoder", default=her2st.ENCODER, help="What encodes the pictures.")
    options.add_argument("--weights", default="random", help="Its .safetensors file, or 'random'.")
    options.add_argument("--cache", help="Folder that keeps the features of pictures after the run.")
    options.add_argument("--worlds", default=",".join(WORLDS))
    options.add_argument("--seeds", default="0")
    options.add_argument("--genes", type=int, default=300)
    options.add_argument("--programmes", type=int, help="Number of programmes in place of the world's own.")
    options.add_argument("--methods", default=",".join(METHODS))
    options.add_argument("--paper-spots", type=int, default=2000, help="Cohorts of more spots go without `paper`.")
    options.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="Of the default; may be repeated."
    )
    options.add_argument("--paper-set", action="append", default=[], metavar="KEY=VALUE", help="Of `paper`.")
    options.add_argument("--sweep", metavar="KEY=A,B,C", help="Run the default with each value in turn.")
    options.add_argument("--out", type=Path, default=her2st.RESULTS / "growth.json", help="JSON file to write.")
    return options


def main() -> None:
    options = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="mst-growth-") as folder:
        options.cache = options.cache or folder
        run(options)


def run(options: argparse.Namespace) -> None:
    """Run every job, and save and print what is known after each."""
    results: dict[str, Any] = {"facts": facts(), "rows": []}
    for cohort in jobs(options):
        rows = []
        for job in cohort:
            her2st.note(f"{job.world} {job.size} seed {job.seed}: {job.label}")
            rows.append(apart(job))
            results["rows"].append(rows[-1])
            her2st.save(options, results)
        show(rows)


def facts() -> dict[str, Any]:
    """Return what decides figures and times."""
    from mclstexp.evaluate.result import versions

    return {"versions": versions(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}


if __name__ == "__main__":
    main()
