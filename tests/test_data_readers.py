"""Readers: each layout as it is met, and each way it can be wrong."""

import gzip
import json
import os
import shutil
from pathlib import Path

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

SHARED = Path(os.environ.get("MST_SHARED", Path(__file__).parents[2] / "shared"))
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


# --- HER2+ -----------------------------------------------------------------------------------------------------------


def test_her2st_layout(tmp_path):
    a1, a2, b1 = read_slides(make_her2st(tmp_path))
    assert [(s.slide_id, s.patient, s.cohort, s.layout) for s in (a1, a2, b1)] == [
        ("A1", "A", "her2st", "her2st"), ("A2", "A", "her2st", "her2st"), ("B1", "B", "her2st", "her2st"),
    ]  # fmt: skip
    assert a1.image is not None
    assert a1.image.size_px == (400, 300)
    assert a2.image is None
    assert any("no image" in note for note in a2.notes)
    assert (a1.mpp, a1.mpp_source) == (pytest.approx(200 / 60), "pitch")  # the 98 dpi of the JPEG are no pixel size
    assert a1.spots.spot_ids.tolist() == legacy_ids()
    np.testing.assert_array_equal(a1.spots.counts.toarray(), COUNTS)
    assert a1.spots.genes.symbols == tuple(GENES)
    np.testing.assert_array_equal(a1.spots.xy_px, XY)
    assert (a1.spots.array_col.tolist(), a1.spots.array_row.tolist()) == (COL.tolist(), ROW.tolist())


def test_her2st_joins_inner_and_says_what_it_dropped(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    save_counts_tsv(tmp_path / "ST-cnts" / "A1.tsv.gz", ["99x99", *legacy_ids()[1:]])
    (tmp_path / "ST-spotfiles" / "A1_selection.tsv").write_text(selection(skip=[5, 6]))
    (slide,) = read_slides(tmp_path)
    kept = [i for i in range(1, N) if i not in (5, 6)]
    assert slide.spots.spot_ids.tolist() == [legacy_ids()[i] for i in kept]
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS[kept])
    np.testing.assert_array_equal(slide.spots.xy_px, XY[kept])
    assert "3 of 12 spots have counts but no coordinates and were dropped." in slide.notes
    assert "1 of 10 spots have coordinates but no counts and were dropped." in slide.notes


def test_her2st_labels_join_by_array_coordinates(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    folder = tmp_path / "ST-pat" / "lbl"
    folder.mkdir(parents=True)
    rows = "r1\t1.02\t0.98\t7\t7\tinvasive cancer\nr2\tNA\tNA\tNA\tNA\timmune\nr3\t2\t2\t8\t8\tundetermined\n"
    (folder / "A1_labeled_coordinates.tsv").write_text("Row.names\tx\ty\tpixel_x\tpixel_y\tlabel\n" + rows)
    (slide,) = read_slides(tmp_path)
    labels = dict(zip(slide.spots.spot_ids.tolist(), slide.spots.labels.tolist(), strict=True))
    assert labels["1x1"] == "invasive cancer"
    assert labels["2x2"] == ""  # undetermined is no label
    assert sum(map(bool, labels.values())) == 1
    assert slide.extra["labels"] == "the pathologist's (ST-pat)"
    assert any("the pathologist's (ST-pat)" in note for note in slide.notes)


def save_clusters(root, name, rows, *, packed=True):
    """Columns as published; the pixels are of another frame and must not matter."""
    folder = root / "ST-cluster" / "lbl"
    folder.mkdir(parents=True, exist_ok=True)
    header = "\tpatient_id\tids\tlabel\tx\ty\tpixel_x\tpixel_y\twarped_x\twarped_y"
    lines = [f"9x9\t{name[0]}\t{name}\t{label}\t{x}\t{y}\t9\t9\t9\t9" for x, y, label in rows]
    data = "\n".join([header, *lines, ""]).encode()
    path = folder / f"{name}-cluster-annotation.tsv{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_her2st_clusters_are_the_labels_where_no_pathologist_gave_any(tmp_path, packed):
    make_her2st(tmp_path, names=("A1", "A2", "B1"), with_image=())
    rows = [(x, y, (x + y) % 3) for x, y in zip(COL[1:], ROW[1:], strict=True)]
    for name in ("A1", "A2"):
        path = save_clusters(tmp_path, name, [*rows, (77, 77, 5)], packed=packed)
    folder = tmp_path / "ST-pat" / "lbl"
    folder.mkdir(parents=True)
    (folder / "A1_labeled_coordinates.tsv").write_text("x\ty\tlabel\n1\t1\timmune\n")
    a1, a2, b1 = read_slides(tmp_path)
    assert a2.spots.labels.tolist() == ["", *(str((x + y) % 3) for x, y in zip(COL[1:], ROW[1:], strict=True))]
    assert path in a2.sources
    assert any("published clusters" in note for note in a2.notes)
    assert set(a1.spots.labels.tolist()) == {"", "immune"}
    assert b1.spots.labels is None
    assert "labels" not in b1.extra


def test_her2st_cluster_file_without_its_columns_is_named(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    folder = tmp_path / "ST-cluster" / "lbl"
    folder.mkdir(parents=True)
    (folder / "A1-cluster-annotation.tsv").write_text("spot\tcluster\n1x1\t3\n")
    with pytest.raises(InputError, match=r"A1-cluster-annotation\.tsv has no column 'label'"):
        read_slides(tmp_path)


def test_given_pixel_size_wins_and_a_difference_is_said(tmp_path):
    slide = read_slides(make_her2st(tmp_path, names=("A1",)), mpp=3.0)[0]
    assert (slide.mpp, slide.mpp_source) == (3.0, "given")
    assert any("the distance between spots makes it 3.333" in note for note in slide.notes)


# --- Space Ranger ----------------------------------------------------------------------------------------------------

VARIANTS = {
    "v1": {"name": "tissue_positions_list.csv", "header": False},
    "v1_with_header": {"name": "tissue_positions_list.csv"},
    "v2": {"name": "tissue_positions.csv"},
    "prefixed": {"name": "GSM1_tissue_positions_list.csv", "header": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mex", [False, 2, 3])
def test_space_ranger_versions(tmp_path, variant, mex):
    outs = tmp_path / "V1_slide"
    save_10x(outs, mex=bool(mex), version=mex or 3, prefix="GSM1_" if variant == "prefixed" else "")
    save_positions(outs, off_tissue=[2], **VARIANTS[variant])
    save_image(outs / "image.tif")
    (slide,) = read_slides(tmp_path)
    kept = [i for i in range(N) if i != 2]
    assert (slide.slide_id, slide.patient, slide.layout) == ("V1_slide", "", "space_ranger")
    assert slide.spots.spot_ids.tolist() == [barcodes()[i] for i in kept]
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS[kept])
    assert slide.spots.genes.symbols == tuple(GENES)
    assert slide.spots.genes.ensembl[1] == "ENSG00000000001"
    assert slide.spots.xy_px[0].tolist() == [100.0, 90.25]
    assert (slide.mpp, slide.mpp_source) == (pytest.approx(100 / 60), "pitch")
    assert slide.image is not None
    assert slide.image.path.name == "image.tif"
    assert any("1 of 12 spots are off the tissue" in note for note in slide.notes)


def test_space_ranger_outs_folder_takes_its_parents_name(tmp_path):
    outs = tmp_path / "P7" / "outs"
    save_10x(outs)
    save_positions(outs)
    for refs in (tmp_path, tmp_path / "P7", outs):
        assert [slide.slide_id for slide in read_slides(refs)] == ["P7"]
    (slide,) = read_slides(outs)
    assert slide.image is None
    assert any("thumbnails do not count" in note for note in slide.notes)


def test_visium_hd_bins(tmp_path):
    outs = tmp_path / "HD" / "outs"
    folder = outs / "binned_outputs" / "square_016um"
    save_10x(folder)
    save_positions(folder)
    frame = pd.read_csv(folder / "spatial" / "tissue_positions.csv")
    frame["array_col"] = COL
    frame["pxl_col_in_fullres"], frame["pxl_row_in_fullres"] = XY[:, 0], XY[:, 1]
    frame.to_parquet(folder / "spatial" / "tissue_positions.parquet")
    (folder / "spatial" / "tissue_positions.csv").unlink()
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps({"microns_per_pixel": 0.2667}))
    (slide,) = read_slides(tmp_path)
    assert (slide.slide_id, slide.mpp, slide.mpp_source, slide.pitch_um) == ("HD", 0.2667, "file", 16.0)


def test_genes_that_share_a_symbol_are_summed(tmp_path):
    save_10x(tmp_path / "S", genes=["ERBB2", "MATR3", "ACTB", "MATR3"])
    save_positions(tmp_path / "S")
    (slide,) = read_slides(tmp_path)
    assert slide.spots.genes.symbols == ("ERBB2", "MATR3", "ACTB")
    assert slide.spots.genes.ensembl[1] == "ENSG00000000001"
    np.testing.assert_array_equal(slide.spots.counts.toarray()[:, 1], COUNTS[:, 1] + COUNTS[:, 3])
    assert any("MATR3" in note and "summed" in note for note in slide.notes)


def test_barcode_suffixes_may_differ(tmp_path):
    save_10x(tmp_path / "S")
    save_positions(tmp_path / "S")
    path = tmp_path / "S" / "spatial" / "tissue_positions.csv"
    path.write_text(path.read_text().replace("-1,", ","))
    (slide,) = read_slides(tmp_path)
    assert len(slide) == N
    assert any("without their suffix" in note for note in slide.notes)


# --- h5ad ------------------------------------------------------------------------------------------------------------


def test_h5ad_with_its_image_beside_it(tmp_path):
    save_h5ad(tmp_path / "S1.h5ad", patient="P1", cohort="mine", label=["tumour", None] * 6)
    save_image(tmp_path / "S1.ome.tif", resolution=(20_000, 20_000), resolutionunit="CENTIMETER", metadata=None)
    save_h5ad(tmp_path / "S10.h5ad", patient=["P1", "P2"] * 6)
    one, ten = read_slides(tmp_path)
    assert (one.slide_id, one.patient, one.cohort, one.layout) == ("S1", "P1", "mine", "h5ad")
    assert one.image is not None
    assert (one.mpp, one.mpp_source) == (0.5, "file")
    assert one.spots.labels.tolist() == ["tumour", ""] * 6
    np.testing.assert_array_equal(one.spots.counts.toarray(), COUNTS)
    np.testing.assert_array_equal(one.spots.xy_px, XY)
    assert (ten.image, ten.patient, ten.mpp) == (None, "", None)
    assert any("several values of patient" in note for note in ten.notes)
    assert [slide.slide_id for slide in read_slides(tmp_path / "S10.h5ad")] == ["S10"]


def test_h5ad_raw_counts_are_found_wherever_they_are(tmp_path):
    adata = save_h5ad(tmp_path / "a.h5ad")
    raw = adata.copy()
    adata.X = adata.X.copy().log1p()
    adata.layers["counts"] = raw.X
    adata.write_h5ad(tmp_path / "a.h5ad")
    other = adata[:, [0, 1]].copy()
    del other.layers["counts"]
    other.raw = raw
    other.write_h5ad(tmp_path / "b.h5ad")
    for slide in read_slides(tmp_path):
        np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS)
    del adata.layers["counts"]
    adata.write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(InputError, match=r"c\.h5ad holds no raw counts.*layers\['counts'\]"):
        read_slides(tmp_path, only=["c"])


def test_h5ad_with_ensembl_ids_as_names(tmp_path):
    adata = save_h5ad(tmp_path / "a.h5ad")
    adata.var["gene_name"] = GENES
    adata.var_names = [f"ENSG0000000000{i}.3" for i in range(len(GENES))]
    adata.write_h5ad(tmp_path / "a.h5ad")
    (slide,) = read_slides(tmp_path)
    assert slide.spots.genes.symbols == tuple(GENES)
    assert slide.spots.genes.ensembl[2] == "ENSG00000000002.3"


def test_h5ad_of_visium_gets_its_pixel_size_from_the_pitch(tmp_path):
    adata = save_h5ad(tmp_path / "a.h5ad")
    adata.obs["array_col"] = 2 * COL + ROW % 2
    adata.obsm["spatial"] = np.stack([100 + 60 * COL + 30 * (ROW % 2), 90 + 30 * np.sqrt(3) * ROW], axis=1)
    adata.obs["in_tissue"] = [0] + [1] * (N - 1)
    adata.uns["spatial"] = {"lib": {"scalefactors": {"spot_diameter_fullres": 33.0, "tissue_hires_scalef": 0.2}}}
    adata.write_h5ad(tmp_path / "a.h5ad")
    (slide,) = read_slides(tmp_path)
    assert (slide.mpp, slide.mpp_source) == (pytest.approx(100 / 60), "pitch")
    assert slide.spots.spot_ids[0] == "s1"
    assert any("taken for Visium" in note for note in slide.notes)
    adata.uns["spatial"]["lib2"] = adata.uns["spatial"]["lib"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="holds 2 slides"):
        read_slides(tmp_path)


def test_hest_folder(tmp_path):
    save_h5ad(tmp_path / "st" / "T1.h5ad")
    save_image(tmp_path / "wsis" / "T1.tif")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "T1.json").write_text(
        json.dumps({"pixel_size_um_estimated": 0.46, "patient": "Patient 3", "dataset_title": "A study"})
    )
    (slide,) = read_slides(tmp_path)
    assert (slide.slide_id, slide.patient, slide.cohort, slide.mpp) == ("T1", "Patient 3", "A study", 0.46)
    assert slide.image is not None


# --- slides.csv, and mixtures ----------------------------------------------------------------------------------------


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


def test_slides_csv_names_everything(tmp_path):
    slides = {slide.slide_id: slide for slide in read_slides(make_slides_csv(tmp_path))}
    assert list(slides) == sorted(slides) == ["s_h5", "s_h5ad", "s_mex", "s_outs", "s_tsv"]
    assert {slide.layout for slide in slides.values()} == {"slides_csv"}
    assert [slides[name].patient for name in slides] == ["P5", "inside", "P4", "P3", "P1"]
    for slide in slides.values():
        np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS)
    assert slides["s_tsv"].image.path.name == "he.png"
    assert slides["s_tsv"].extra["batch"] == "run7"
    assert (slides["s_h5ad"].mpp, slides["s_h5ad"].mpp_source) == (0.8, "given")
    assert slides["s_mex"].mpp == slides["s_h5"].mpp == pytest.approx(100 / 60)
    assert [slide.slide_id for slide in read_slides(tmp_path / "slides.csv", only=["s_h5"])] == ["s_h5"]


SLIDES_CSV = {
    "no counts column": ("slide,patient\na,b\n", "no column 'counts'"),
    "no rows": ("slide,counts\n", "names no slides"),
    "twice": ("slide,counts\na,a/counts.tsv\na,a/counts.tsv\n", "names slide 'a' more than once"),
    "unnamed": ("slide,counts\n,a/counts.tsv\n", "have no slide"),
    "missing file": ("slide,counts\na,nowhere.h5ad\n", "slide a: counts 'nowhere.h5ad' does not exist"),
    "missing image": ("slide,counts,image\na,b/counts.h5ad,he.tif\n", "image 'he.tif' does not exist"),
    "empty counts": ("slide,counts,coords\na,,a/spots.tsv\n", "slide a has no counts"),
    "no coords": ("slide,counts\na,a/counts.tsv\n", "slide a has no coordinates"),
    "bad mpp": ("slide,counts,mpp\na,b/counts.h5ad,half\n", "mpp 'half', not a positive number"),
    "absurd mpp": ("slide,counts,mpp\na,b/counts.h5ad,352.8\n", "352.8 um is outside"),
    "not counts": ("slide,counts,coords\na,a/he.png,a/spots.tsv\n", "expected .h5ad, 10x .h5"),
}


@pytest.mark.parametrize("name", SLIDES_CSV)
def test_slides_csv_that_is_wrong(tmp_path, name):
    text, match = SLIDES_CSV[name]
    make_slides_csv(tmp_path)
    (tmp_path / "slides.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_slides(tmp_path)
    assert match in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_folders_of_any_layout(tmp_path):
    make_her2st(tmp_path / "one" / "her2", names=("A1",))
    save_10x(tmp_path / "visium" / "V1")
    save_positions(tmp_path / "visium" / "V1")
    save_h5ad(tmp_path / "rest" / "S1.h5ad")
    (tmp_path / "visium" / "metadata.csv").write_text("slide,patient,cohort,mpp\nV1,P9,kidney,1.7\n")
    slides = read_slides(tmp_path)
    assert [(slide.slide_id, slide.layout) for slide in slides] == [
        ("A1", "her2st"), ("S1", "h5ad"), ("V1", "space_ranger"),
    ]  # fmt: skip
    assert (slides[2].patient, slides[2].cohort, slides[2].mpp) == ("P9", "kidney", 1.7)
    assert [slide.slide_id for slide in read_slides(tmp_path, only=["V1", "A1"])] == ["A1", "V1"]
    with pytest.raises(InputError, match=r"no slide 'Z'; it has A1, S1, V1"):
        read_slides(tmp_path, only=["Z"])
    seen = []
    read_slides(tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    save_h5ad(tmp_path / "rest2" / "S1.h5ad")
    with pytest.raises(InputError, match="more than one slide named 'S1'"):
        read_slides(tmp_path)
    assert sum(len(report.problems) for report in inspect_slides(tmp_path)) == 2


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_slides(tmp_path / "none")
    with pytest.raises(InputError, match="holds no slides"):
        read_slides(tmp_path)
    with pytest.raises(InputError, match="holds no slides"):
        inspect_slides(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="neither a folder"):
        read_slides(tmp_path / "notes.txt")


# --- what is wrong with a slide --------------------------------------------------------------------------------------


def fails(refs, match):
    """Reading refuses with one line; inspecting reports the same and does not raise."""
    with pytest.raises(InputError, match=match) as caught:
        read_slides(refs)
    assert "\n" not in str(caught.value)
    (report,) = [report for report in inspect_slides(refs) if report.problems]
    assert report.problems == (str(caught.value),)
    assert report.slide is None


def test_slide_without_counts_or_coordinates(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    (tmp_path / "ST-cnts" / "A1.tsv.gz").unlink()
    fails(tmp_path, "Slide A1 has no counts")
    make_her2st(tmp_path, names=("A1",))
    (tmp_path / "ST-spotfiles" / "A1_selection.tsv").unlink()
    fails(tmp_path, "Slide A1 has no coordinates")
    save_10x(tmp_path / "x" / "V1")
    fails(tmp_path / "x", "Slide V1 has no coordinates")
    save_positions(tmp_path / "y" / "V1")
    fails(tmp_path / "y", "Slide V1 has no counts")


def test_counts_and_positions_share_no_spot(tmp_path):
    save_10x(tmp_path / "V1")
    save_positions(tmp_path / "V1")
    path = tmp_path / "V1" / "spatial" / "tissue_positions.csv"
    path.write_text(path.read_text().replace("AA-1", "TT-1"))
    fails(tmp_path, r"Slide V1: counts and coordinates share no spot: 12 with counts \(such as 'AAAA-1'\)")


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"shift": 200.0}, r"6 of 12 spots lie outside the image \(x 300 to 510,.*at least 1\.27 times"),
        ({"scale": 5.0}, r"5 times too large \(tissue_hires_scalef is 0\.2\): the image is a thumbnail"),
    ],
)
def test_coordinates_of_another_image(tmp_path, kwargs, match):
    save_10x(tmp_path / "V1")
    save_positions(tmp_path / "V1", **kwargs)
    save_image(tmp_path / "V1" / "image.jpg")
    fails(tmp_path, match)


def test_coordinates_of_another_resolution_than_the_files_pixel_size(tmp_path):
    save_10x(tmp_path / "V1")
    save_positions(tmp_path / "V1")
    save_image(tmp_path / "V1" / "image.tif", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    fails(tmp_path, r"pixel size is 0\.5 um \(file\).*makes it 1\.667.*another resolution")
    assert read_slides(tmp_path, mpp=1.6)[0].mpp == 1.6


def test_swapped_coordinates_are_a_problem_in_check(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    (tmp_path / "ST-spotfiles" / "A1_selection.tsv").write_text(selection(XY[:, ::-1]))
    (report,) = inspect_slides(tmp_path)
    assert any("x and y look swapped" in problem for problem in report.problems)
    assert report.slide is not None


def test_nan_and_duplicates(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    bad = XY.copy()
    bad[4] = np.nan
    (tmp_path / "ST-spotfiles" / "A1_selection.tsv").write_text(selection(bad))
    fails(tmp_path, r"Slide A1: 1 of 12 spots have NaN")
    make_her2st(tmp_path, names=("A1",))
    save_counts_tsv(tmp_path / "ST-cnts" / "A1.tsv.gz", ["0x0", *legacy_ids()[:-1]])
    fails(tmp_path, r"1 spot ids occur more than once, for example '0x0'")
    save_counts_tsv(tmp_path / "ST-cnts" / "A1.tsv.gz", legacy_ids(), np.where(COUNTS > 2, np.nan, COUNTS))
    fails(tmp_path, "NaN")
    save_counts_tsv(tmp_path / "ST-cnts" / "A1.tsv.gz", legacy_ids(), COUNTS / 3)
    fails(tmp_path, "fractions")
    save_counts_tsv(tmp_path / "ST-cnts" / "A1.tsv.gz", legacy_ids(), -COUNTS)
    fails(tmp_path, "negative")


def test_truncated_image(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    (image,) = (tmp_path / "ST-imgs" / "A" / "A1").glob("*.jpg")
    image.write_bytes(image.read_bytes()[:-400])
    fails(tmp_path, "whatever.jpg is truncated")


def test_no_pixel_size_is_a_problem_where_there_is_an_image(tmp_path):
    save_h5ad(tmp_path / "S1.h5ad", patient="P", cohort="c")
    (report,) = inspect_slides(tmp_path)
    assert report.problems == ()
    save_image(tmp_path / "S1.png")
    (report,) = inspect_slides(tmp_path)
    assert any("--mpp" in problem for problem in report.problems)
    assert inspect_slides(tmp_path, mpp=0.5)[0].problems == ()


def test_unknown_patient_is_said(tmp_path):
    save_h5ad(tmp_path / "S1.h5ad")
    (report,) = inspect_slides(tmp_path)
    assert any("patient unknown" in warning and "slides.csv" in warning for warning in report.warnings)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_corrupt_files_are_named(tmp_path, share):
    save_h5ad(tmp_path / "h" / "S1.h5ad")
    save_10x(tmp_path / "v" / "V1")
    save_positions(tmp_path / "v" / "V1")
    save_10x(tmp_path / "m" / "M1", mex=True)
    save_positions(tmp_path / "m" / "M1")
    make_her2st(tmp_path / "l", names=("A1",))
    for refs, broken in [
        ("h", "S1.h5ad"), ("v", "filtered_feature_bc_matrix.h5"), ("m", "matrix.mtx.gz"), ("m", "features.tsv.gz"),
        ("l", "A1.tsv.gz"),
    ]:  # fmt: skip
        (path,) = (tmp_path / refs).rglob(broken)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        fails(tmp_path / refs, broken.split(".")[0])
        path.write_bytes(whole)
        read_slides(tmp_path / refs)


DAMAGE = {
    "no indices": lambda m: m.__delitem__("indices"),
    "indices out of range": lambda m: m["indices"].write_direct(np.full(m["indices"].shape, 999, m["indices"].dtype)),
    "indices negative": lambda m: m["indices"].write_direct(np.full(m["indices"].shape, -9, m["indices"].dtype)),
    "pointers out of order": lambda m: m["indptr"].write_direct(m["indptr"][:][::-1].copy()),
    "too little data": lambda m: (m.__delitem__("data"), m.create_dataset("data", data=np.ones(3))),
    "data of text": lambda m: (m.__delitem__("data"), m.create_dataset("data", data=np.array([b"a"] * 48))),
    "no kind": lambda m: m.attrs.update({"encoding-type": "unheard-of"}),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("kind", ["h5", "h5ad"])
def test_files_that_open_and_contradict_themselves(tmp_path, name, kind):
    if kind == "h5":
        save_10x(tmp_path / "V1")
        save_positions(tmp_path / "V1")
        path, group = tmp_path / "V1" / "filtered_feature_bc_matrix.h5", "matrix"
    else:
        save_h5ad(tmp_path / "S1.h5ad")
        path, group = tmp_path / "S1.h5ad", "X"
    with h5py.File(path, "r+") as file:
        DAMAGE[name](file[group])
    if (kind, name) == ("h5", "no kind"):
        read_slides(tmp_path)
    else:
        fails(tmp_path, path.name)


def test_matrix_and_names_of_different_size(tmp_path):
    save_10x(tmp_path / "V1")
    save_positions(tmp_path / "V1")
    with h5py.File(tmp_path / "V1" / "filtered_feature_bc_matrix.h5", "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array(barcodes()[:-1], dtype="S")
    fails(tmp_path, r"matrix of \(4, 12\), but 4 features and 11 barcodes")


def test_several_candidates_are_not_guessed_between(tmp_path):
    save_10x(tmp_path / "V1")
    save_positions(tmp_path / "V1")
    save_image(tmp_path / "V1" / "a.jpg")
    save_image(tmp_path / "V1" / "b.jpg")
    fails(tmp_path, r"several images \(a\.jpg, b\.jpg\)")
    save_image(tmp_path / "V1" / "S_image.jpg")
    assert read_slides(tmp_path)[0].image.path.name == "S_image.jpg"
    shutil.copy(
        tmp_path / "V1" / "spatial" / "tissue_positions.csv", tmp_path / "V1" / "spatial" / "b_tissue_positions.csv"
    )
    fails(tmp_path, "holds several of")


def test_reading_decodes_no_image(tmp_path, monkeypatch):
    make_her2st(tmp_path, names=("A1",))
    save_image(tmp_path / "ST-imgs" / "A" / "A1" / "whatever.jpg")

    def refuse(*args, **kwargs):
        raise AssertionError("pixels were read")

    monkeypatch.setattr("mclstexp.data.images.raster._pillow_rgb", refuse)
    assert len(read_slides(tmp_path)) == 1


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_slides():
    if not (SHARED / "her2st").is_dir():
        pytest.skip(f"real data not at {SHARED}")
    a1, b4, c6 = read_slides(SHARED / "her2st", only=["A1", "B4", "C6"])
    assert (len(b4), len(c6), len(a1)) == (283, 178, 346)
    assert c6.mpp == pytest.approx(0.688, abs=0.003)
    assert a1.mpp == pytest.approx(0.917, abs=0.004)
    assert a1.image is None
    # sections with a pathologist's labels, and with clusters: spots labelled of all
    assert (int((a1.spots.labels != "").sum()), int((c6.spots.labels != "").sum())) == (341, 176)
    assert set(b4.spots.labels.tolist()) == {"", "0", "1", "2", "3", "4", "5"}
    assert "invasive cancer" in a1.spots.labels.tolist()
    assert ("ST-pat" in a1.extra["labels"], "ST-cluster" in c6.extra["labels"]) == (True, True)
    (v1,) = read_slides(SHARED / "space_ranger_v1")
    assert (len(v1), len(v1.spots.genes)) == (100, 100)
    (v3,) = read_slides(SHARED / "space_ranger_v3")
    assert len(v3) == 2898
    assert len(v3.spots.genes) == 19465 - 11  # eleven symbols name two genes
