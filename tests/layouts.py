"""Slides on disk in every layout, a dozen spots each, as readers meet them."""

import gzip
import json

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import io as scipy_io
from scipy import sparse

from mclstexp.data.readers import inspect_slides, read_slides
from mclstexp.errors import InputError

GENES = ["ERBB2", "CD3E", "ACTB", "FO538757.1"]
N = 12
COUNTS = np.random.default_rng(0).poisson(2.0, (N, len(GENES))).astype(np.int64)
ROW, COL = np.arange(N) // 4, np.arange(N) % 4
XY = np.stack([100 + 60 * COL, 90 + 60 * ROW], axis=1).astype(float)


def save_image(path, size=(400, 300), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 240, dtype=np.uint8)
    pixels[60:260, 70:330] = (190, 90, 160)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), **kwargs)
    else:
        Image.fromarray(pixels).save(path, **kwargs)
    return path


def save_counts_tsv(path, ids, counts=COUNTS, genes=GENES):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = pd.DataFrame(counts, index=ids, columns=genes).to_csv(sep="\t").encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def legacy_ids():
    return [f"{c}x{r}" for c, r in zip(COL, ROW, strict=True)]


def selection(xy=XY, skip=()):
    frame = pd.DataFrame({"x": COL, "y": ROW, "new_x": COL + 0.1, "new_y": ROW - 0.1,
                          "pixel_x": xy[:, 0], "pixel_y": xy[:, 1], "selected": 1})  # fmt: skip
    return frame.drop(index=list(skip)).to_csv(sep="\t", index=False)


def make_her2st(root, names=("A1", "A2", "B1"), with_image=("A1",)):
    for name in names:
        save_counts_tsv(root / "ST-cnts" / f"{name}.tsv.gz", legacy_ids())
        spots = root / "ST-spotfiles" / f"{name}_selection.tsv"
        spots.parent.mkdir(parents=True, exist_ok=True)
        spots.write_text(selection())
        if name in with_image:
            save_image(root / "ST-imgs" / name[0] / name / "whatever.jpg", dpi=(98, 98))
    return root


def barcodes(n=N):
    return [f"{'ACGT'[i % 4]}{'ACGT'[i // 4]}AA-1" for i in range(n)]


def save_10x(outs, *, mex=False, genes=GENES, version=3, prefix="", counts=COUNTS):
    outs.mkdir(parents=True, exist_ok=True)
    matrix = sparse.csc_matrix(counts.T)
    ids = [f"ENSG{i:011d}" for i in range(len(genes))]
    if mex:
        folder = outs / f"{prefix}filtered_feature_bc_matrix"
        folder.mkdir()
        packed = version == 3
        name = "features.tsv" if packed else "genes.tsv"
        columns = [f"{i}\t{g}" + ("\tGene Expression" if packed else "") for i, g in zip(ids, genes, strict=True)]
        parts = {name: "\n".join(columns) + "\n", "barcodes.tsv": "\n".join(barcodes(counts.shape[0])) + "\n"}
        scipy_io.mmwrite(folder / "matrix.mtx", matrix)
        parts["matrix.mtx"] = (folder / "matrix.mtx").read_text()
        (folder / "matrix.mtx").unlink()
        for part, text in parts.items():
            (folder / (part + ".gz" * packed)).write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        return
    with h5py.File(outs / f"{prefix}filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"] = matrix.shape
        group["barcodes"] = np.array(barcodes(counts.shape[0]), dtype="S")
        features = group.create_group("features")
        features["id"], features["name"] = np.array(ids, dtype="S"), np.array(genes, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * len(genes), dtype="S")


def save_positions(outs, *, name="tissue_positions.csv", header=True, off_tissue=(), shift=0.0, scale=1.0):
    (outs / "spatial").mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(
        {
            "barcode": barcodes(),
            "in_tissue": [int(i not in off_tissue) for i in range(N)],
            "array_row": ROW,
            "array_col": 2 * COL + ROW % 2,
            "pxl_row_in_fullres": (90.25 + 60 * ROW * np.sqrt(3) / 2) * scale,
            "pxl_col_in_fullres": (100 + 60 * COL + 30 * (ROW % 2) + shift) * scale,
        }
    )
    frame.to_csv(outs / "spatial" / name, index=False, header=header)
    factors = {"tissue_hires_scalef": 0.2, "spot_diameter_fullres": 33.0}
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    save_image(outs / "spatial" / "tissue_hires_image.png", (80, 60))


def save_h5ad(path, *, counts=COUNTS, **obs):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({"array_row": ROW, "array_col": COL, **obs}, index=[f"s{i}" for i in range(N)])
    adata = anndata.AnnData(
        sparse.csr_matrix(counts, dtype=np.float32), obs=frame, var=pd.DataFrame(index=GENES), obsm={"spatial": XY}
    )
    adata.write_h5ad(path)
    return adata


def make_slides_csv(root):
    save_counts_tsv(root / "a" / "counts.tsv", legacy_ids())
    (root / "a" / "spots.tsv").write_text(selection())
    save_image(root / "a" / "he.png")
    save_h5ad(root / "b" / "counts.h5ad", patient="inside")
    save_10x(root / "c")
    save_positions(root / "c")
    save_10x(root / "d", mex=True)
    (root / "slides.csv").write_text(
        "slide,patient,cohort,counts,image,coords,mpp,technology,batch\n"
        "s_tsv,P1,X,a/counts.tsv,a/he.png,a/spots.tsv,,,run7\n"
        "s_h5ad,,X,b/counts.h5ad,,,0.8,,\n"
        "s_outs,P3,X,c,,,,,\n"
        "s_mex,P4,X,d/filtered_feature_bc_matrix,,c/spatial/tissue_positions.csv,,visium,\n"
        "s_h5,P5,X,c/filtered_feature_bc_matrix.h5,,c/spatial/tissue_positions.csv,,,\n"
    )
    return root


def fails(refs, match):
    """Reading refuses with one line; inspecting reports the same and does not raise."""
    with pytest.raises(InputError, match=match) as caught:
        read_slides(refs)
    assert "\n" not in str(caught.value)
    (report,) = [report for report in inspect_slides(refs) if report.problems]
    assert report.problems == (str(caught.value),)
    assert report.slide is None
