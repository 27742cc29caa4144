"""Bins of a whole Visium HD slide: time for each mm2 of tissue, and memory, as bins get more.

    python benchmarks/hd.py --encoder tf_efficientnet_lite0 --um 8 --bins 5000,50000,500000

A square of drawn tissue is covered by bins. Each number of bins is a process of its own: the tissue is encoded tile by
tile, and what a query needs of every bin is taken from it (embedding, distance from the training patches, the slide's
level). Seconds are CPU time; "patch by patch" is what the bins would take, two views a patch, from 16 of them.
Weights that the shared folder does not have are random, and the reference is simulated: neither changes the time.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _her2st as her2st
import numpy as np
from _measure import peak_mb
from query import densely, per_patch, reference_of

MPP = 0.5
TILE = 512


def tissue(folder: Path) -> np.ndarray:
    """Return a drawn tile of stained tissue, ``(512, 512, 3)`` uint8."""
    from mclstexp.data.images import open_image
    from mclstexp.data.synthetic import SlideSpec, write_cohort

    cohort = write_cohort(folder / "drawn", n_patients=1, slides_per_patient=1, spec=SlideSpec(side_px=1200))
    with open_image(cohort.query_image) as image:
        return np.asarray(image.read_region(300, 300, TILE, TILE))


def write_slide(path: Path, side_px: int, tile: np.ndarray) -> None:
    """Write a tiled JPEG TIFF of the tile over and over."""
    import tifffile

    across = math.ceil(side_px / TILE)
    tiles = (np.roll(tile, 37 * number, axis=1) for number in range(across**2))
    resolution = (1e4 / MPP, 1e4 / MPP)
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(
            tiles, shape=(across * TILE, across * TILE, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
            compression="jpeg", resolution=resolution, resolutionunit="CENTIMETER", metadata=None,
        )  # fmt: skip


def binned(path: Path, n_bins: int, um: float) -> Any:
    """Return the slide with a square of bins, some way from the image's border."""
    from mclstexp.data.images import open_image
    from mclstexp.slide import Slide, SpotTable

    side = round(n_bins**0.5)
    row, column = (axis.ravel() for axis in np.mgrid[:side, :side])
    xy = np.stack([column, row], axis=1) * um / MPP + 700.0
    spots = SpotTable([f"{r}x{c}" for r, c in zip(row, column, strict=True)], xy, row, column)
    image = open_image(path)
    return Slide("hd", "", "", spots, image=image, mpp=MPP, mpp_source="given", pitch_um=um)


def side_px(n_bins: int, um: float) -> int:
    """Side of the image that `binned` needs."""
    return round(round(n_bins**0.5) * um / MPP) + 1400


def measured(model_folder: Path, path: Path, n_bins: int, um: float) -> dict[str, float]:
    """Take what a query needs of every bin; return seconds, size and the peak of memory."""
    from mclstexp.model.linear_features import as_features
    from mclstexp.model.model import Model

    model = Model.load(model_folder, device="cpu", cache=False)
    slide = binned(path, n_bins, um)
    model.encoder.features(np.zeros((4, 224, 224, 3), np.uint8))
    start_mb, begun, wall = peak_mb(), time.process_time(), time.perf_counter()
    features = model.seen(slide)
    encoded = time.process_time()
    embedding = model.space.embed_images(features, slide)
    if model.calibration is not None:
        model.calibration.distance(features)
    n, genes = len(slide), len(model.panel)
    mean = np.zeros((1, genes), np.float32)
    model.space.level(mean, np.arange(genes), mean[0], features, own_scale=True)
    seconds, mm2 = time.process_time() - begun, n * um**2 / 1e6
    held_gb = 4 * n * as_features(features).width / 1e9
    return {
        "bins": n, "mm2": mm2, "cpu": seconds, "wall": time.perf_counter() - wall, "cpu_per_mm2": seconds / mm2,
        "embedding": begun + seconds - encoded, "start_mb": start_mb, "peak_mb": peak_mb(), "features_gb": held_gb,
        "finite": float(np.isfinite(embedding).all()),
    }  # fmt: skip


def main() -> None:
    parser = her2st.parser(__doc__, "hd")
    parser.add_argument("--bins", default="5000,50000,500000")
    parser.add_argument("--um", type=float, default=8.0)
    parser.add_argument("--run", nargs=3, help="(of the program's own) model, slide, bins")
    options = her2st.parse(parser)
    if options.run:
        model, path, n_bins = options.run
        print(json.dumps(measured(Path(model), Path(path), int(n_bins), options.um)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reference = reference_of(folder, options.encoder, options.weights, "calibrate=true", *options.set)
        alone = per_patch(reference.model)
        densely(reference.model).save(folder / "model")
        tile = tissue(folder)
        for n_bins in map(int, her2st.split_list(options.bins)):
            path = folder / f"{n_bins}.tif"
            write_slide(path, side_px(n_bins, options.um), tile)
            run = [sys.executable, __file__, "--um", str(options.um), "--run", str(folder / "model"), str(path)]
            row = json.loads(subprocess.run([*run, str(n_bins)], check=True, capture_output=True, text=True).stdout)
            row["times cheaper, two views"] = 2 * alone * row["bins"] / row["cpu"]
            rows.append(row)
            her2st.show(f"{options.encoder}, {options.um:g} um bins", list(row), [list(row.values())])
    facts = her2st.facts(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"facts": facts, "um": options.um, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
