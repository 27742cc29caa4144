"""Memory of a query's reading on a slide of 100,000 x 100,000 px.

    python benchmarks/large_slide.py --side 100000

Writes a tiled TIFF with and without a pyramid, in which all tiles but those of a band of tissue are left out (as
scanners leave out glass), then in a process of its own each: opens it, finds the tissue, and cuts the patches of 2,000
spots at three fields of view.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _measure import Clock, peak_mb
from numpy.typing import NDArray

TILE = 512
LEVELS = 5
SPOTS = 2000
MPP = 0.25


def tiles(side: int, tissue: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8] | None]:
    """Yield the tiles of a level, row by row; None where there is nothing but glass."""
    across = -(-side // TILE)
    for row in range(across):
        for col in range(across):
            inside = 0.3 < row / across < 0.5 and 0.2 < col / across < 0.8
            yield tissue if inside or row == col == 0 else None  # tifffile takes the type of the first


def write(path: Path, side: int, levels: int) -> None:
    """Write the slide, level by level."""
    import tifffile

    rng = np.random.default_rng(0)
    tissue = np.clip(rng.normal((190, 110, 170), 25, (TILE, TILE, 3)), 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level in range(levels):
            size = side // 2**level
            um = 1e4 / (MPP * 2**level)
            tif.write(
                tiles(size, tissue), shape=(size, size, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
                compression="jpeg", resolution=(um, um), resolutionunit="CENTIMETER", metadata=None,
            )  # fmt: skip


def read(path: Path) -> dict[str, float]:
    """Open, find the tissue, cut patches; return seconds and the peak of memory."""
    from mclstexp.config import PatchSpec
    from mclstexp.data.images import open_image
    from mclstexp.data.patches import read_patch
    from mclstexp.data.positions.tissue import tissue_mask

    with open_image(path) as image:
        before = peak_mb()
        with Clock() as finding:
            mask = tissue_mask(image)
        rows, cols = np.nonzero(mask)
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), SPOTS))
        xy = np.stack([cols[chosen], rows[chosen]], axis=1) * image.size_px[0] / mask.shape[1]
        with Clock() as cutting:
            for scale in (0.5, 1.0, 2.0):
                for place in xy:
                    read_patch(image, place, PatchSpec(224, 0.7, scale), image.mpp)
    return {
        "tissue": round(float(mask.mean()), 3), "tissue_s": round(finding.seconds, 1),
        "patches_s": round(cutting.seconds, 1), "start_mb": round(before), "peak_mb": round(peak_mb()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read)))
        return
    print(f"{'slide':12} {'tissue':>7} {'find s':>7} {'6,000 patches s':>16} {'peak MB':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name, levels in (("pyramid", LEVELS), ("no pyramid", 1)):
            path = Path(folder) / f"{name.replace(' ', '-')}.tif"
            write(path, options.side, levels)
            run = [sys.executable, __file__, "--read", str(path)]
            row = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
            print(
                f"{name:12} {row['tissue']:7.3f} {row['tissue_s']:7.1f} {row['patches_s']:16.1f} {row['peak_mb']:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
