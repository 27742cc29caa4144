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


def save_bins(outs, size=16, *, off_tissue=(), mpp=0.5, **counts):
    """A size of Visium HD's bins, as Space Ranger 3 and 4 write them."""
    folder = outs / "binned_outputs" / f"square_{size:03}um"
    save_10x(folder, **counts)
    names = [f"s_{size:03}um_{row:05}_{col:05}-1" for row, col in zip(ROW, COL, strict=True)]
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array(names, dtype="S")
    frame = pd.DataFrame({"barcode": names, "in_tissue": [int(i not in off_tissue) for i in range(N)]})
    frame["array_row"], frame["array_col"] = ROW, COL
    frame["pxl_row_in_fullres"], frame["pxl_col_in_fullres"] = 90 + size / mpp * ROW, 100 + size / mpp * COL
    (folder / "spatial").mkdir()
    frame.to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
    save_scale_factors(folder, bin_size_um=float(size), spot_diameter_fullres=size / mpp, microns_per_pixel=mpp)
    return folder


def save_scale_factors(outs, **values):
    (outs / "spatial").mkdir(parents=True, exist_ok=True)
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps({"tissue_hires_scalef": 0.2, **values}))


def save_cells(outs, *, mpp=0.5):
    """Segmented cells of Space Ranger 4: an outline each, 12 px wide, and a matrix of cells."""
    folder = outs / "segmented_outputs"
    save_10x(folder)
    (folder / "filtered_feature_bc_matrix.h5").rename(folder / "filtered_feature_cell_matrix.h5")
    with h5py.File(folder / "filtered_feature_cell_matrix.h5", "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array([f"cellid_{i + 1:09}-1" for i in range(N)], dtype="S")
    features = []
    for i, (x, y) in enumerate(XY):
        ring = [[x + dx, y + dy] for dx, dy in ((-6, -6), (6, -6), (6, 6), (-6, 6), (-6, -6))]
        outline = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"cell_id": i + 1}, "geometry": outline})
    whole = {"type": "FeatureCollection", "features": features}
    (folder / "cell_segmentations.geojson").write_text(json.dumps(whole))
    save_scale_factors(folder, microns_per_pixel=mpp)
    return folder


def save_hest(root, name="TENX1", *, technology="Visium", spacing="100", **obs):
    """HEST-1k's folders and table with one sample."""
    save_h5ad(root / "st" / f"{name}.h5ad", **obs)
    save_image(root / "wsis" / f"{name}.tif")
    row = {
        "dataset_title": "Atlas, of breast", "id": name, "organ": "Breast", "oncotree_code": "IDC",
        "patient": "Patient 3", "species": "Homo sapiens", "st_technology": technology, "inter_spot_dist": spacing,
        "pixel_size_um_estimated": 100 / 60,
    }  # fmt: skip
    pd.DataFrame([row, {"id": "OTHER"}]).to_csv(root / "HEST_v1_1_0.csv", index=False)
    return root


def save_cscc(root, name="P2_ST_rep1", geo="GSM1_", packed=True):
    """A section of GSE144240, as GEO names its files."""
    end = ".gz" if packed else ""
    save_counts_tsv(root / f"{geo}{name}_stdata.tsv{end}", legacy_ids())
    text = selection().encode()
    (root / f"{geo}spot_data-selection-{name}.tsv{end}").write_bytes(gzip.compress(text) if packed else text)
    save_image(root / f"{geo}{name}.jpg")
    return root


def save_wu(root, name="1142243F"):
    """A section of Wu et al. 2021: archives unpacked side by side, symbols in one column."""
    matrices = root / "filtered_count_matrices"
    save_10x(matrices, mex=True, version=2)
    folder = (matrices / "filtered_feature_bc_matrix").rename(matrices / f"{name}_filtered_count_matrix")
    (folder / "genes.tsv").unlink()
    (folder / "features.tsv").write_text("\n".join(GENES) + "\n")
    save_positions(root / "x", name="tissue_positions_list.csv", header=False)
    (root / "spatial").mkdir()
    (root / "x" / "spatial").rename(root / "spatial" / f"{name}_spatial")
    (root / "metadata").mkdir()
    labels = {"nCount_RNA": 9, "subtype": "TNBC", "patientid": name, "Classification": "Stroma"}
    pd.DataFrame(labels, index=barcodes()).to_csv(root / "metadata" / f"{name}_metadata.csv")
    return root


MOLECULES = pd.DataFrame(
    {
        "x_location": [10.0, 12.0, 99.9, 110.0, 350.0, 20.0, 30.0],
        "y_location": [10.0, 90.0, 99.9, 10.0, 450.0, 20.0, 30.0],
        "feature_name": ["ERBB2", "CD3E", "ERBB2", "ERBB2", "ACTB", "NegControlProbe_001", "CD3E"],
        "qv": [40.0, 20.0, 33.0, 25.0, 40.0, 40.0, 19.9],
    }
)
"""Places in um: squares of 100 um (0, 0) with two ERBB2 and a CD3E, (1, 0) with an ERBB2, (3, 4) with an ACTB."""

ALIGNMENT = np.array([[0.0, -2.0, 2400.0], [2.0, 0.0, -100.0], [0.0, 0.0, 1.0]])
"""Takes pixels of the H&E to those of the morphology image: turned by a quarter, half as fine."""


def save_xenium(outs, *, molecules="parquet", cells=True, aligned=True):
    """A Xenium output of seven molecules and twelve cells."""
    outs.mkdir(parents=True, exist_ok=True)
    (outs / "experiment.xenium").write_text(json.dumps({"major_version": 4, "pixel_size": 0.25}))
    table = MOLECULES.assign(transcript_id=range(len(MOLECULES)), cell_id="UNASSIGNED")
    if molecules == "parquet":
        table.to_parquet(outs / "transcripts.parquet", index=False)
    elif molecules == "csv":
        table.to_csv(outs / "transcripts.csv.gz", index=False)
    if cells:
        save_10x(outs)
        (outs / "filtered_feature_bc_matrix.h5").rename(outs / "cell_feature_matrix.h5")
        where = pd.DataFrame({"cell_id": barcodes(), "x_centroid": XY[:, 0], "y_centroid": XY[:, 1]})
        where.to_parquet(outs / "cells.parquet", index=False)
    if aligned:
        save_image(outs / "S_he_image.ome.tif", (1300, 1300))
        np.savetxt(outs / "S_he_imagealignment.csv", ALIGNMENT, delimiter=",")
    return outs


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


def fails(refs, match, **choices):
    """Reading refuses with one line; inspecting reports the same and does not raise."""
    with pytest.raises(InputError, match=match) as caught:
        read_slides(refs, **choices)
    assert "\n" not in str(caught.value)
    (report,) = [report for report in inspect_slides(refs, **choices) if report.problems]
    assert report.problems == (str(caught.value),)
    assert report.slide is None
