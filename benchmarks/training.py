"""Time and memory of training the default recipe on the five sections, image features included.

    python benchmarks/training.py

Each stage runs in a process of its own: `whole` with an empty cache, `cached` again with its features, `fit` without
calibration. Features take whole - cached, calibration cached - fit. Goal: 3 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _her2st as her2st
import numpy as np
from _her2st import B, C
from _measure import Clock, peak_mb

STAGES = ("whole", "cached", "fit")
GOAL_S = 180


def stage(options: argparse.Namespace) -> dict[str, float]:
    """Train once, and measure."""
    slides = her2st.read(options, her2st.split_list(options.slides))
    if options.spots:
        slides = [slide.take(np.arange(min(options.spots, len(slide)))) for slide in slides]
    config = her2st.model_config(options, *(["calibrate=false"] if options.stage == "fit" else []))
    import torch

    with Clock() as clock:
        her2st.trained(options, slides, config)
    return {
        "seconds": clock.seconds,
        "peak_mb": peak_mb(),
        "spots": sum(map(len, slides)),
        "threads": torch.get_num_threads(),
    }


def shares(stages: dict[str, dict[str, float]]) -> dict[str, float]:
    """Divide the whole time into features, calibration and the rest."""
    whole, cached, fit = (stages[name]["seconds"] for name in STAGES)
    return {"features_s": whole - cached, "calibration_s": cached - fit, "fit_s": fit, "whole_s": whole}


def main() -> None:
    parser = her2st.parser(__doc__, "training")
    parser.add_argument("--slides", default=",".join((*C, *B)))
    parser.add_argument("--spots", type=int, help="At most so many spots a slide, for trial runs.")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = her2st.parse(parser)
    if options.stage:
        print(json.dumps(stage(options)))
        return
    facts = her2st.facts(options)
    facts["trial"] = facts["trial"] or options.spots is not None
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mst-training-") as folder:
        for name in STAGES:
            command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--cache", folder, "--stage", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[name] = json.loads(done.stdout.splitlines()[-1])
    total = shares(results)
    results |= {"shares": total, "goal_s": GOAL_S, "facts": facts}
    her2st.save(options, results)
    print(f"encoder: {options.encoder}; {results['whole']['spots']} spots of {options.slides}", end="; ")
    print(f"{facts['cores']} cores, {results['whole']['threads']} threads, load {facts['load_average']:.1f}")
    rows = [[name.removesuffix("_s"), value, value / total["whole_s"]] for name, value in total.items()]
    her2st.show("training", ["stage", "seconds", "share"], rows)
    print(f"peak memory {results['whole']['peak_mb']:.0f} MB; goal {GOAL_S} s on two cores")
    if options.spots:
        print("TRIAL RUN: not every spot was used")


if __name__ == "__main__":
    main()
