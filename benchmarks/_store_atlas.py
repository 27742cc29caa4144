"""The simulated atlas of `store.py`, and how its stages are timed."""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import Clock

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from simulation import Simulation

SLIDE_SPOTS = 2500


def timed(call: Callable[[], Any], repeat: int = 3) -> tuple[float, Any]:
    """Return the fastest of some runs, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeat):
        with Clock() as clock:
            result = call()
        best = min(best, clock.seconds)
    return best, result


def records(sim: Simulation, n_slides: int, start: int = 0, templates: int = 4) -> Iterator[Any]:
    """Slides whose counts repeat after a few, and whose embeddings do not."""
    pool = [sim.record(number, SLIDE_SPOTS) for number in range(templates)]
    for number in range(start, start + n_slides):
        rng = np.random.default_rng((sim.seed, number, 7))
        latent = sim.latent(SLIDE_SPOTS, rng)
        yield replace(
            pool[number % templates],
            slide_id=f"slide{number:04d}",
            patient=f"patient{number // 3:04d}",
            cohort=f"cohort{number // 40:03d}",
            content_hash=f"{number:064d}",
            embedding=sim.embeddings(latent, rng),
            image_embedding=sim.embeddings(latent, rng),
        )


def simulation(options: argparse.Namespace) -> Simulation:
    """Return the atlas."""
    return Simulation(n_genes=options.genes, dim=options.dim, n_panel=options.genes)


def private_mb() -> float:
    """Return the memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024
