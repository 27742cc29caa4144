"""slides.csv: everything named, and each way in which it can be wrong."""

import numpy as np
import pytest
from layouts import COUNTS, make_slides_csv

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
