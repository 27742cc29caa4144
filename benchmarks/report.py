"""Size and time of `mst report` and `mst serve`: ``python benchmarks/report.py -o report.json``.

A page of 3,000 spots by 1,000 genes with 400 neighbours each, opened and used in headless Chromium, and a slide of
40,000 px served tile by tile. ``--spots``, ``--genes`` and ``--side`` change the sizes; all data are simulated.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pages import Page, chromium, plain_prediction

from mclstexp.data.images import open_image
from mclstexp.errors import MclstexpWarning
from mclstexp.outputs.report import report
from mclstexp.outputs.serve.tiles import TILE_PX, TilePyramid
from mclstexp.predict.prediction import Prediction

TIMED = """return (async () => {
  const start = performance.now();
  await %s(arguments[0]);
  return performance.now() - start;
})()"""
DRAWN = """const start = performance.now();
for (let i = 0; i < 20; i++) app.panels[0].viewer.draw();
return (performance.now() - start) / 20"""


def main() -> None:
    options = arguments()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        results["tiles"] = measure_tiles(work, options.side)
        results["page"] = measure_page(work, options.spots, options.genes)
    text = json.dumps(results, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spots", type=int, default=3000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=40_000)
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def prediction_of(n_spots: int, n_genes: int) -> Prediction:
    """Return a prediction whose picture is noise, so that its JPEG is no smaller than tissue's."""
    import dataclasses

    prediction = plain_prediction(n=n_spots, genes=tuple(f"GENE{i}" for i in range(n_genes)), k=400)
    rng = np.random.default_rng(0)
    side = int(prediction.xy_px.max() + 200)
    small = rng.integers(120, 255, (1024, 1024, 3), dtype=np.uint8)
    pixels = np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)
    return dataclasses.replace(prediction, thumbnail=pixels, thumbnail_scale=4096 / side)


def measure_page(work: Path, n_spots: int, n_genes: int) -> dict[str, Any]:
    """Write a page, open it, choose genes and spots."""
    prediction = prediction_of(n_spots, n_genes)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        path = report(prediction, work / "page.html")
    written = time.perf_counter() - start
    with chromium() as browser:
        start = time.perf_counter()
        page = Page(browser, path.as_uri())
        opened = time.perf_counter() - start
        genes = [browser.execute_script(TIMED % "app.setGene", f"GENE{i}") for i in range(5, min(n_genes, 45))]
        numbers = range(0, n_spots, max(1, n_spots // 20))
        spots = [browser.execute_script(TIMED % "app.panels[0].choose", number) for number in numbers]
        frames = browser.execute_script(DRAWN)
        heap = browser.execute_script("return performance.memory ? performance.memory.usedJSHeapSize / 1e6 : null")
        problems = page.problems()
    return {
        "spots": n_spots, "genes": n_genes,
        "size_mb": round(path.stat().st_size / 1e6, 2), "write_s": round(written, 2),
        "open_s": round(opened, 2), "gene_ms": round(statistics.median(genes), 1), "first_spot_ms": round(spots[0], 1),
        "spot_ms": round(statistics.median(spots), 1), "frame_ms": round(frames, 2), "heap_mb": heap and round(heap),
        "peak_mb": peak_mb(), "problems": problems,
    }  # fmt: skip


def peak_mb() -> int:
    """Return the most memory that this process has held, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def write_slide(path: Path, side: int) -> None:
    """Write a pyramidal TIFF level by level, from sixteen tiles that are encoded once."""
    import imagecodecs
    import tifffile

    rng = np.random.default_rng(0)
    pixels = np.repeat(np.repeat(rng.integers(120, 250, (16, 128, 128, 3), dtype=np.uint8), 4, axis=1), 4, axis=2)
    encoded = [imagecodecs.jpeg8_encode(tile, 85, colorspace="RGB", outcolorspace="RGB") for tile in pixels]

    def tiles(size: int) -> Any:
        across = -(-size // 512)
        for i in range(across * across):
            yield encoded[i % 16]

    sizes = [side]
    while sizes[-1] > 1024:
        sizes.append(sizes[-1] // 2)
    common = {"tile": (512, 512), "photometric": "rgb", "compression": "jpeg", "dtype": np.uint8}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, size in enumerate(sizes):
            extra = {"subifds": len(sizes) - 1} if level == 0 else {"subfiletype": 1}
            resolution = {"resolution": (20_000 / 2**level,) * 2, "resolutionunit": "CENTIMETER"}
            writer.write(tiles(size), shape=(size, size, 3), metadata=None, **common, **extra, **resolution)


def measure_tiles(work: Path, side: int) -> dict[str, Any]:
    """Cut tiles of every level from a large slide, first and again."""
    path = work / "slide.tif"
    start = time.perf_counter()
    write_slide(path, side)
    written = time.perf_counter() - start
    before = peak_mb()
    start = time.perf_counter()
    image = open_image(path)
    pyramid = TilePyramid(image)
    opened = time.perf_counter() - start
    rng = np.random.default_rng(0)
    levels = {}
    for level in range(pyramid.last_level, max(0, pyramid.last_level - 8), -1):
        width, height = pyramid.level_size(level)
        seconds = []
        for _ in range(12):
            col, row = int(rng.integers(-(-width // TILE_PX))), int(rng.integers(-(-height // TILE_PX)))
            start = time.perf_counter()
            pyramid.tile(level, col, row)
            seconds.append(time.perf_counter() - start)
        levels[f"{width} px"] = {
            "median_ms": round(1000 * statistics.median(seconds), 1),
            "worst_ms": round(1000 * max(seconds), 1),
        }
    return {
        "side_px": side, "file_mb": round(path.stat().st_size / 1e6), "written_s": round(written, 1),
        "open_ms": round(1000 * opened, 1), "levels": levels, "peak_mb": peak_mb(), "peak_before_mb": before,
    }  # fmt: skip


if __name__ == "__main__":
    main()
