"""Visium HD: bins of each size, Parquet positions, segmented cells, pools of either."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import COUNTS, GENES, ROW, XY, N, fails, save_10x, save_bins, save_cells, save_image, save_positions

from mclstexp.data.readers import read_slides
from mclstexp.data.readers.cells import features
from mclstexp.errors import InputError


def test_bins_of_the_size_that_was_chosen(tmp_path):
    outs = tmp_path / "HD" / "outs"
    for size in (2, 8, 16):
        save_bins(outs, size, off_tissue=[3])
    save_image(outs / "microscope_image" / "he.tif")
    kept = [i for i in range(N) if i != 3]
    for size in (2, 8, 16):
        (slide,) = read_slides(tmp_path, bin_um=size)
        assert (slide.slide_id, slide.layout, slide.pitch_um) == ("HD", "visium_hd", size)
        assert (slide.mpp, slide.mpp_source) == (0.5, "file")
        assert slide.image.path.name == "he.tif"
        np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS[kept])
        assert slide.spots.genes.symbols == tuple(GENES)
        assert slide.spots.genes.ensembl[1] == "ENSG00000000001"
        assert slide.spots.xy_px[4].tolist() == [100 + 2 * size, 90 + 2 * size]
        assert "1 of 12 spots are off the tissue and were dropped." in slide.notes
    assert read_slides(tmp_path)[0].pitch_um == 16
    for path in (outs, outs / "binned_outputs", outs / "binned_outputs" / "square_016um"):
        assert [(slide.slide_id, slide.pitch_um) for slide in read_slides(path)] == [("HD", 16)]


def test_the_largest_bins_that_are_there_and_what_is_said(tmp_path):
    save_bins(tmp_path / "HD", 8)
    (slide,) = read_slides(tmp_path)
    assert slide.pitch_um == 8
    assert any("bins of 16 um are not there" in note for note in slide.notes)
    fails(tmp_path, r"has no bins of 2 um \(--bin-um\): .*binned_outputs has 8", bin_um=2)
    fails(tmp_path, "has no segmented_outputs", cells=True)
    with pytest.raises(InputError, match="--bin-um is 4; Visium HD has bins of 2, 8 or 16 um"):
        read_slides(tmp_path, bin_um=4)


def test_segmented_cells_at_the_middle_of_their_outlines(tmp_path):
    outs = tmp_path / "P2" / "outs"
    save_bins(outs)
    save_cells(outs)
    assert read_slides(tmp_path)[0].pitch_um == 16
    (slide,) = read_slides(tmp_path, cells=True)
    assert (slide.slide_id, slide.layout, slide.pitch_um, slide.mpp) == ("P2", "visium_hd", None, 0.5)
    np.testing.assert_allclose(slide.spots.xy_px, XY)
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS)
    assert slide.spots.spot_ids[0] == "cellid_000000001-1"
    (alone,) = read_slides(outs / "segmented_outputs")
    assert (alone.slide_id, len(alone)) == ("P2", N)


@pytest.mark.parametrize("cells", [False, True])
def test_pools_hold_every_count_once(tmp_path, cells):
    outs = tmp_path / "P2"
    save_bins(outs)
    save_cells(outs)
    (slide,) = read_slides(tmp_path, cells=cells, pool_um=40)  # 80 px: bins are 32 px apart, cells 60
    assert slide.spots.counts.sum() == COUNTS.sum()
    assert 1 < len(slide) < N
    assert slide.pitch_um == 40
    assert np.unique(slide.spots.xy_px % 80).tolist() == [40.0]
    where = 100 + 32 * np.arange(4) if not cells else XY[:4, 0]
    first = {f"{int(x // 80)}" for x in where}
    assert {name.split("x")[0] for name in slide.spots.spot_ids.tolist()} == first
    column = int(where[0] // 80), (90 // 80)
    y = 90 + 32 * ROW if not cells else XY[:, 1]
    x = np.tile(where, 3)
    inside = (x // 80 == column[0]) & (y // 80 == column[1])
    own = slide.spots.spot_ids.tolist().index(f"{column[0]}x{column[1]}")
    np.testing.assert_array_equal(slide.spots.counts.toarray()[own], COUNTS[inside].sum(axis=0))


def _positions(outs):
    return outs / "binned_outputs" / "square_016um" / "spatial" / "tissue_positions.parquet"


def _rewritten(outs, change):
    frame = pd.read_parquet(_positions(outs))
    change(frame).to_parquet(_positions(outs), index=False)


BROKEN_BINS = {
    "no column": (lambda outs: _rewritten(outs, lambda f: f.drop(columns="array_col")), "no column 'array_col'"),
    "other bins": (lambda outs: _rewritten(outs, lambda f: f.assign(barcode=f["barcode"] + "x")), "share no spot"),
    "all off": (lambda outs: _rewritten(outs, lambda f: f.assign(in_tissue=0)), "no spots under tissue: 12 rows"),
    "text": (lambda outs: _rewritten(outs, lambda f: f.assign(array_row="a")), "parquet is damaged"),
    "nan": (lambda outs: _rewritten(outs, lambda f: f.assign(pxl_row_in_fullres=np.nan)), "NaN or infinite"),
    "truncated": (lambda outs: _positions(outs).write_bytes(_positions(outs).read_bytes()[:200]), "parquet is damaged"),
    "none": (lambda outs: _positions(outs).unlink(), "Slide HD has no coordinates"),
}


@pytest.mark.parametrize("name", BROKEN_BINS)
def test_bins_that_are_wrong(tmp_path, name):
    outs = tmp_path / "HD"
    save_bins(outs)
    change, match = BROKEN_BINS[name]
    change(outs)
    fails(tmp_path, match)


def _outlines(folder):
    return folder / "cell_segmentations.geojson"


BROKEN_CELLS = {
    "no outlines": (lambda f: _outlines(f).unlink(), "holds no cell_segmentations.geojson"),
    "no matrix": (lambda f: (f / "filtered_feature_cell_matrix.h5").unlink(), "holds no filtered_feature_cell_matrix"),
    "truncated": (lambda f: _outlines(f).write_text(_outlines(f).read_text()[:700]), "geojson is damaged"),
    "no features": (lambda f: _outlines(f).write_text("{}"), "geojson is damaged .*no list of features"),
    "no cells": (lambda f: _outlines(f).write_text('{"features": []}'), "holds no cells"),
    "no id": (lambda f: _outlines(f).write_text(_outlines(f).read_text().replace("cell_id", "id")), "damaged"),
    "points": (
        lambda f: _outlines(f).write_text(_outlines(f).read_text().replace("Polygon", "Point")),
        "holds a Point",
    ),
    "bytes": (lambda f: _outlines(f).write_bytes(b"\xff\xfe" + bytes(range(256))), "damaged"),
    "scale": (
        lambda f: (f / "spatial" / "scalefactors_json.json").write_text("{"),
        "scalefactors_json.json: no valid JSON",
    ),
}


@pytest.mark.parametrize("name", BROKEN_CELLS)
def test_cells_that_are_wrong(tmp_path, name):
    change, match = BROKEN_CELLS[name]
    change(save_cells(tmp_path / "C1"))
    fails(tmp_path, match)


def test_a_choice_that_says_nothing_to_any_slide_is_refused(tmp_path):
    save_10x(tmp_path / "V1")
    save_positions(tmp_path / "V1")
    for name, value in (("bin_um", 8), ("cells", True), ("pool_um", 50)):
        option = f"--{name.replace('_', '-')}"
        with pytest.raises(InputError, match=rf"{option} is for .*visium_hd.* holds space_ranger: leave it out"):
            read_slides(tmp_path, **{name: value})
    save_bins(tmp_path / "HD", 8, counts=COUNTS + 1)
    assert [slide.pitch_um for slide in read_slides(tmp_path, bin_um=8)] == [8, 100]


def test_pools_need_a_pixel_size(tmp_path):
    folder = save_cells(tmp_path / "C1")
    (folder / "spatial" / "scalefactors_json.json").unlink()
    fails(tmp_path, r"--pool-um 50 needs the pixel size.*--mpp", pool_um=50)
    assert read_slides(tmp_path, pool_um=50, mpp=0.5)[0].pitch_um == 50
    with pytest.raises(InputError, match="--pool-um is 2; a side of 5 to 1000 um"):
        read_slides(tmp_path, pool_um=2)


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), max_size=5)
)
def test_features_are_those_that_json_reads(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("geojson") / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": values}, indent=1), encoding="utf-8")
    assert list(features(path)) == values
