"""AnnData files, alone and as HEST-1k lays them out."""

import json

import numpy as np
import pytest
from layouts import COL, COUNTS, GENES, ROW, XY, N, save_h5ad, save_image

from mclstexp.data.readers import read_slides
from mclstexp.errors import InputError


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
