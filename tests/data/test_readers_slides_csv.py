"""slides.csv: everything named, and each way in which it can be wrong."""

import numpy as np
import pytest
from layouts import COUNTS, make_slides_csv, save_bins, save_h5ad

from mclstexp.data.readers import read_slides
from mclstexp.errors import InputError


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
    "bad bins": (
        "slide,counts,bin_um\na,c,5\n",
        "slides.csv: slide a: --bin-um is 5; Visium HD has",
    ),
    "half bins": ("slide,counts,bin_um\na,c,2.5\n", "slide a: bin_um is 2.5; a whole number is needed"),
    "bins of no HD": ("slide,counts,bin_um\na,b/counts.h5ad,8\n", "b/counts.h5ad is no Visium HD folder"),
    "bad pool": ("slide,counts,pool_um\na,b/counts.h5ad,-50\n", "pool_um '-50', not a positive number"),
    "small pool": ("slide,counts,pool_um\na,b/counts.h5ad,2\n", "--pool-um is 2; a side of 5 to 1000 um"),
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


def test_bins_and_pools_are_chosen_by_row(tmp_path):
    save_bins(tmp_path / "HD", 8)
    save_bins(tmp_path / "HD", 16, counts=COUNTS + 1)
    save_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "slides.csv").write_text(
        "slide,counts,mpp,bin_um,pool_um\nbins,HD,,8,\nplain,HD,,,\npooled,a.h5ad,0.5,,60\n", encoding="utf-8"
    )
    slides = {slide.slide_id: slide for slide in read_slides(tmp_path)}
    assert [slides[name].pitch_um for name in ("bins", "plain", "pooled")] == [8, 16, 60]
    assert slides["pooled"].spots.counts.sum() == COUNTS.sum()
    assert len(slides["pooled"]) < len(COUNTS)  # spots are 30 um apart, squares 60
    assert not {"bin_um", "pool_um"} & set(slides["bins"].extra)
    slides = {slide.slide_id: slide for slide in read_slides(tmp_path, bin_um=16, pool_um=90, only=["bins", "pooled"])}
    assert [slides[name].pitch_um for name in ("bins", "pooled")] == [90, 90]  # options go before columns
