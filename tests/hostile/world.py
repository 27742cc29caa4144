"""Whole inputs of every kind, to be spoilt."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
from commands import ENCODER, FAST, command
from layouts import (
    MOLECULES,
    make_her2st,
    make_slides_csv,
    save_10x,
    save_bins,
    save_cells,
    save_cscc,
    save_h5ad,
    save_hest,
    save_image,
    save_positions,
    save_wu,
    save_xenium,
)

from mclstexp.data.synthetic import SlideSpec, write_cohort

SPEC = SlideSpec(n_genes=40, side_px=700, pitch_um=80.0)
SPOT = "1x1"


def make_world(folder: Path) -> None:
    """Write a cohort, what the commands make of it, and a slide in every layout; some seconds."""
    cohort = write_cohort(folder / "cohort", n_patients=2, slides_per_patient=1, spec=SPEC)
    cohort.refs.rename(folder / "refs")
    cohort.query_image.rename(folder / "slide.tif")
    cohort.query_coords.rename(folder / "coords.csv")
    cohort.query_truth.rename(folder / "truth.h5ad")
    mst = command(folder / "cache")
    mst("train", folder / "refs", "-o", folder / "model", *ENCODER, *FAST, "--set", "retrieval.k=20")
    mst("build-index", folder / "refs", "--model", folder / "model", "-o", folder / "reference", "--device", "cpu")
    mst("query", folder / "slide.tif", folder / "coords.csv", "-r", folder / "reference", "-o", folder / "p.h5ad")
    make_her2st(folder / "her2st", names=("A1", "B1"))
    for name, mex in (("visium", False), ("mex", True)):
        save_10x(folder / name, mex=mex)
        save_positions(folder / name)
    save_h5ad(folder / "plain" / "S1.h5ad")
    save_image(folder / "plain" / "S1.tif")
    make_slides_csv(folder / "table")
    _published(folder)
    save_image(folder / "he.png", (700, 700))
    save_image(folder / "he.jpg", (700, 700))
    genes = (folder / "model" / "genes.tsv").read_text().split("\n")[1:9]
    symbols = [line.split("\t")[0] for line in genes]
    (folder / "genes.txt").write_text("".join(f"{symbol}\n" for symbol in symbols))
    (folder / "genes.json").write_text(json.dumps({"genes": symbols}))
    (folder / "genes.csv").write_text("gene,rank\n" + "".join(f"{symbol},{i}\n" for i, symbol in enumerate(symbols)))
    np.save(folder / "genes.npy", np.array(symbols))
    (folder / "sets.json").write_text(json.dumps({"first": symbols[:3], "rest": symbols[3:]}))
    (folder / "sets.gmt").write_text("first\t-\t" + "\t".join(symbols[:3]) + "\n")
    (folder / "folds.csv").write_text("slide,fold\nP1_A,0\nP2_A,1\n")
    ring = [[20, 20], [560, 20], [560, 560], [20, 560], [20, 20]]
    (folder / "regions.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    (folder / "queries.csv").write_text(f"image,coords,mpp\n{folder / 'slide.tif'},{folder / 'coords.csv'},0.5\n")
    with h5py.File(folder / "tiles.h5", "w") as file:
        corners = np.stack(np.meshgrid(np.arange(0, 600, 100), np.arange(0, 600, 100)), -1).reshape(-1, 2)
        file["features"] = np.ones((len(corners), 512), np.float32)
        file["coords"] = corners
        file["coords"].attrs["patch_size_level0"] = 100


def _published(folder: Path) -> None:
    """Write the layouts of publishers and instruments, and a folder of slides."""
    save_bins(folder / "hd", 8)
    save_bins(folder / "hd", 16)
    save_cells(folder / "hd")
    save_hest(folder / "hest")
    save_cscc(folder / "cscc")
    save_wu(folder / "wu")
    save_xenium(folder / "xenium")
    (folder / "molecules").mkdir()
    MOLECULES.to_csv(folder / "molecules" / "S_transcripts.csv", index=False)
    (folder / "store" / "S.zarr").mkdir(parents=True)
    attributes = {"spatialdata_attrs": {"version": "0.2"}}
    root = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    (folder / "store" / "S.zarr" / "zarr.json").write_text(json.dumps(root))
    (folder / "slides").mkdir()
    for name in ("a", "b"):
        shutil.copy(folder / "slide.tif", folder / "slides" / f"{name}.tif")
        shutil.copy(folder / "coords.csv", folder / "slides" / f"{name}.csv")


if __name__ == "__main__":
    make_world(Path(sys.argv[1]))
