"""Patches encoded a second, by how many go through the encoder at once. Prints a table, writes JSON.

python benchmarks/encoding.py --encoder tf_efficientnet_lite0 --patches 96 --repeats 3
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from mclstexp.cli._output import table
from mclstexp.config import EncoderSpec
from mclstexp.model.image.backbone import BATCH
from mclstexp.model.image.encoder import ImageEncoder

BATCHES = (2, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--patches", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encoding.json")
    options = parser.parse_args()
    encoder = ImageEncoder.create(EncoderSpec(options.encoder, pooling="stages"), "random")
    patches = np.random.default_rng(0).integers(0, 255, (options.patches, 224, 224, 3), dtype=np.uint8)
    encoder.features(patches[:32])
    rates: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(options.repeats):
        for batch in BATCHES:  # in turn, so that a busy machine slows them alike
            BATCH["cpu"] = batch
            started = time.perf_counter()
            encoder.features(patches)
            rates[batch].append(options.patches / (time.perf_counter() - started))
    medians = {batch: statistics.median(values) for batch, values in rates.items()}
    print(table(["batch", "patches/s", "ratio to 32"], [[b, m, m / medians[32]] for b, m in medians.items()]))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {"encoder": options.encoder, "threads": torch.get_num_threads(), "patches_per_second": medians}
    options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
