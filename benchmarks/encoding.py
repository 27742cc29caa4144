"""Patches encoded a second, by how many go through the encoder at once and by what becomes of freed memory.

python benchmarks/encoding.py --encoder tf_efficientnet_lite0 --patches 64 --repeats 5

"given back" is the C library's own way, "kept" is `mclstexp.device.keep_freed_memory`; each in a process of its own,
in turn. --ways adds, at four patches and kept memory: ``bf16`` (autocast), ``compile`` (torch.compile of the backbone,
its compilation apart) and ``compile bf16``. Prints a table, writes JSON.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from mclstexp.cli._output import table
from mclstexp.config import EncoderSpec
from mclstexp.model.image import backbone
from mclstexp.model.image.encoder import ImageEncoder

BATCHES = (2, 4, 8, 16, 32)
MEMORY = ("given back", "kept")


def measured(encoder: str, n_patches: int, memory: str) -> dict[str, float]:
    """Return patches a second at each batch size."""
    own = ImageEncoder.create(EncoderSpec(encoder, pooling="stages"), "random")
    patches = np.random.default_rng(0).integers(0, 255, (n_patches, 224, 224, 3), dtype=np.uint8)
    keep = backbone.keep_freed_memory if memory == "kept" else lambda: False
    rates = {}
    with mock.patch.object(backbone, "keep_freed_memory", keep):
        own.features(patches[:32])
        for batch in BATCHES:
            backbone.BATCH["cpu"] = batch
            started = time.perf_counter()
            own.features(patches)
            rates[f"{batch} {memory}"] = n_patches / (time.perf_counter() - started)
    return rates


def measured_way(encoder: str, n_patches: int, way: str) -> dict[str, float]:
    """Return patches a second at four a pass, in another way than the program's; and seconds until the first patch."""
    own = ImageEncoder.create(EncoderSpec(encoder, pooling="stages"), "random")
    patches = np.random.default_rng(0).integers(0, 255, (n_patches, 224, 224, 3), dtype=np.uint8)
    backbone.keep_freed_memory()
    (member,) = own.members
    run = torch.compile(member) if "compile" in way else member

    def features() -> None:
        enabled = "bf16" in way
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for start in range(0, n_patches, 4):
                run(torch.from_numpy(patches[start : start + 4]))

    started = time.perf_counter()
    features()
    first, started = time.perf_counter() - started, time.perf_counter()
    features()
    return {f"4 {way}": n_patches / (time.perf_counter() - started), f"4 {way}, first pass, seconds": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--patches", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encoding.json")
    parser.add_argument("--ways", default="", help="Of plain,bf16,compile,compile bf16; in place of the batches.")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for _ in range(options.repeats):
            for way in options.ways.split(",") if options.ways else MEMORY:
                call = measured_way if options.ways else measured
                done = pool.submit(call, options.encoder, options.patches, way).result()
                for case, rate in done.items():
                    rates.setdefault(case, []).append(rate)
    medians = {case: statistics.median(values) for case, values in rates.items()}
    base = medians[f"4 {options.ways.split(',')[0] or MEMORY[0]}"]
    rows = [[*case.split(" ", 1), m, m / base] for case, m in medians.items()]
    print(table(["batch", "memory", "patches/s", "ratio to the first at 4"], rows))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {"encoder": options.encoder, "threads": torch.get_num_threads(), "patches_per_second": medians}
    options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
