"""Space Ranger output of every version."""

import json

import numpy as np
import pandas as pd
import pytest
from layouts import (
    COL,
    COUNTS,
    GENES,
    XY,
    N,
    barcodes,
    save_10x,
    save_image,
    save_positions,
)

from mclstexp.data.readers import read_slides

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
