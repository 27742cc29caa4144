"""From which size on a network trained by contrast pays: closed form beside it on simulated cohorts, unseen patients.

    python benchmarks/contrast.py --worlds own,curved --sizes 4x8x2x1000,8x16x2x10000 --seeds 0,1

Both have the same settings and the same slides. The epochs, the gain on the training side's held-out patients, and
whether it would be kept are what `mst train` finds by itself; here it is tried at every size, and shown where not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _her2st as her2st
from _contenders import Answer, default_config, panel_of, scores
from growth import facts, size_of
from simulated.features import simulate
from simulated.nature import WORLDS, Cohort

from mclstexp.choose.contrast import LEAST_SPOTS, try_contrast
from mclstexp.choose.rehearsal import Rehearsal
from mclstexp.config import ModelConfig
from mclstexp.errors import MclstexpWarning
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict.fit import contrasted, fit_space
from mclstexp.predict.memory import MemoryReference, embed_patches
from mclstexp.predict.predictor import Predictor, Query
from mclstexp.predict.splits import excerpts, splits
from mclstexp.settings import with_settings

SIZES = ("2x4x2x1000", "4x8x2x4000", "8x16x2x10000")
FIGURES = ("pcc", "pcc_pooled", "mse")


def measured(cohort: Cohort, settings: Sequence[str]) -> dict[str, Any]:
    """Fit closed form and network to a cohort, and score both on its test slides."""
    config = dataclasses.replace(with_settings(default_config(cohort), list(settings)), choose=("contrast_epochs",))
    reduction = Reduction.fit(cohort.train, cohort.layout, seed=config.seed)
    small = [reduction(slide) for slide in cohort.train]
    _, divided = splits(excerpts(small, seed=config.seed))
    started = time.monotonic()
    trial = try_contrast(Rehearsal(divided, reduction.layout, panel_of(cohort)), config)
    tried = time.monotonic()
    closed = fit_space(small, reduction.layout, config)
    epochs = trial.record["epochs"]
    row = {"trial": trial.record, "curve": trial.curve, "closed": figures(cohort, config, reduction.lift(closed))}
    row["trial_seconds"] = tried - started
    if epochs:
        chosen, begun = dataclasses.replace(config, contrast_epochs=epochs), time.monotonic()
        refined = contrasted(closed, small, reduction.layout, chosen)
        row["fit_seconds"] = time.monotonic() - begun
        row["refined"] = figures(cohort, config, reduction.lift(refined))
    return row


def figures(cohort: Cohort, config: ModelConfig, space: SharedSpace) -> dict[str, float | None]:
    """Predict the test slides by a space, from all training spots."""
    panel = panel_of(cohort)
    source = MemoryReference.of(cohort.train, space, config.key_mix, panel, config.normalisation)
    predictor = Predictor(space, config, panel)

    def query(slide: SlideArrays) -> Query:
        patches = embed_patches(space, slide)
        return Query(patches, slide.features, panel, config.normalisation, config.retrieval)

    return scores(cohort, Answer([predictor.predict(source, query(slide)).mean for slide in cohort.test]))


def cells(row: dict[str, Any]) -> list[object]:
    """Return a row of the table."""
    trial, refined = row["trial"], row.get("refined")
    both = [row["closed"][key] for key in FIGURES]
    both += ["-" if refined is None else refined[key] for key in FIGURES]
    error = "-" if trial["noise"] is None else f"{trial['gain']:+.4f} +- {trial['noise']:.4f}"
    word = "kept" if trial["kept"] else "not kept"
    word += "" if trial["tried_on"] >= LEAST_SPOTS else " (too small to be tried)"
    return [row["world"], row["size"], row["seed"], *both, trial["epochs"], error, word, f"{row['trial_seconds']:.0f}"]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    header = ["world", "size", "seed", "PCC", "pooled", "MSE", "PCC, network", "pooled", "MSE", "epochs"]
    her2st.show("closed form and network", [*header, "inner gain", "rule", "seconds"], [cells(row) for row in rows])


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sizes", default=",".join(SIZES), help="tissues x patients x slides a patient x spots.")
    options.add_argument("--worlds", default="own,curved,linear,levels", help=f"of {', '.join(WORLDS)}.")
    options.add_argument("--seeds", default="0")
    options.add_argument("--genes", type=int, default=150)
    options.add_argument("--set", action="append", default=["shared.components=40"], metavar="KEY=VALUE")
    options.add_argument("--out", type=Path, default=her2st.RESULTS / "contrast.json", help="JSON file to write.")
    return options


def main() -> None:
    options = parser().parse_args()
    warnings.simplefilter("ignore", MclstexpWarning)
    results: dict[str, Any] = {"facts": facts(), "rows": []}
    for size in her2st.split_list(options.sizes):
        for world in her2st.split_list(options.worlds):
            for seed in map(int, her2st.split_list(options.seeds)):
                her2st.note(f"{world} {size} seed {seed}")
                tissues, patients, slides, spots = size_of(size)
                cohort = simulate(tissues, patients, slides, spots, None, options.genes, seed, world=world)
                row = {"world": world, "size": size, "seed": seed, "genes": options.genes}
                results["rows"].append(row | measured(cohort, options.set))
                her2st.save(options, results)
    show(results["rows"])


if __name__ == "__main__":
    main()
