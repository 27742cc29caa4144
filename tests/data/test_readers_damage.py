"""What is wrong with a slide is one line that names it, in reading and in checking."""

import shutil

import h5py
import numpy as np
import pytest
from layouts import (
    COL,
    COUNTS,
    ROW,
    XY,
    barcodes,
    fails,
    legacy_ids,
    make_her2st,
    make_slides_csv,
    save_10x,
    save_counts_tsv,
    save_h5ad,
    save_image,
    save_positions,
    selection,
)

from mclstexp.data.readers import inspect_slides, read_slides
from mclstexp.errors import InputError


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
    fails(tmp_path, r"the file says 0\.5 um, the distance between spots says 1\.667 um.*another resolution.*--mpp")
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


@pytest.mark.parametrize(
    ("obs", "xy", "match"),
    [
        ({"array_row": [np.nan, *ROW[1:]]}, XY, r"array coordinates \(array_row, array_col\).*first 's0' in row 1"),
        ({"array_col": [*COL[:-1], 1e300]}, XY, "beyond 1e[+]07, first 's11' in row 12"),
        ({}, np.where(XY[5] == XY, np.inf, XY), "NaN or infinite coordinates.*first 's1'"),
        ({}, XY * 0 + 50, "12 spots lie at one point, such as x 50, y 50"),
        ({}, XY[:, :1], r"obsm\['spatial'\] has shape \(12, 1\)"),
    ],
)
def test_hostile_coordinates_of_an_h5ad(tmp_path, obs, xy, match):
    adata = save_h5ad(tmp_path / "S1.h5ad")
    for name, values in obs.items():
        adata.obs[name] = values
    adata.obsm["spatial"] = xy
    adata.write_h5ad(tmp_path / "S1.h5ad")
    fails(tmp_path, match)


def test_empty_spot_ids(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    save_counts_tsv(tmp_path / "ST-cnts" / "A1.tsv.gz", ["0x0", "", *legacy_ids()[2:]])
    fails(tmp_path, r"A1\.tsv\.gz: 1 of 12 spots have an empty id, the first in row 2")


def test_a_name_that_is_no_files_is_a_problem(tmp_path):
    make_slides_csv(tmp_path)
    (tmp_path / "slides.csv").write_text("slide,counts\n../../x,b/counts.h5ad\n")
    fails(tmp_path, r"Slide '\.\./\.\./x': a file's name is needed, in UTF-8")


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), 1e9])
def test_absurd_pixel_sizes(tmp_path, mpp):
    make_her2st(tmp_path, names=("A1",))
    with pytest.raises(InputError, match=r"Slide A1: pixel size .* is outside 0\.1 to 10"):
        read_slides(tmp_path, mpp=mpp)
