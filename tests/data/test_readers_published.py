"""Cohorts as their authors published them: HEST-1k, cSCC, Wu et al. 2021, HER2+ files without their folders."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from layouts import (
    COUNTS,
    GENES,
    XY,
    fails,
    legacy_ids,
    save_10x,
    save_counts_tsv,
    save_cscc,
    save_hest,
    save_image,
    save_positions,
    save_wu,
    selection,
)

from mclstexp.data.readers import inspect_slides, read_slides


def test_hest_says_whose_slide_it_is_and_its_pixel_size(tmp_path):
    save_hest(tmp_path)
    (tmp_path / "HEST_v1_0_0.csv").write_text("id,patient\nTENX1,old\n")
    for path in (tmp_path, tmp_path / "st", tmp_path / "st" / "TENX1.h5ad"):
        (slide,) = read_slides(path)
        assert (slide.slide_id, slide.layout, slide.patient) == ("TENX1", "hest", "Patient 3")
        assert slide.cohort == "Atlas, of breast"
        assert (slide.mpp, slide.mpp_source, slide.pitch_um) == (pytest.approx(100 / 60), "file", 100)
        assert slide.image.path.name == "TENX1.tif"
        assert (slide.extra["organ"], slide.extra["oncotree_code"]) == ("Breast", "IDC")
        np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "TENX1.json").write_text(json.dumps({"patient": None, "organ": "Bowel", "tissue": "NaN"}))
    (slide,) = read_slides(tmp_path)
    assert (slide.patient, slide.extra["organ"], "tissue" in slide.extra) == ("", "Bowel", False)


def test_hest_samples_that_were_pooled_have_not_the_spacing_of_their_technology(tmp_path):
    save_hest(tmp_path, technology="Visium HD", spacing="2")
    (slide,) = read_slides(tmp_path)
    assert (slide.pitch_um, slide.mpp) == (None, pytest.approx(100 / 60))
    (tmp_path / "wsis" / "TENX1.tif").unlink()
    (report,) = inspect_slides(tmp_path)
    assert "no image in wsis/: counts only." in report.warnings


def test_hest_that_is_wrong_is_one_line(tmp_path):
    save_hest(tmp_path)
    table = tmp_path / "HEST_v1_1_0.csv"
    whole = (tmp_path / "st" / "TENX1.h5ad").read_bytes()
    (tmp_path / "st" / "TENX1.h5ad").write_bytes(whole[:500])
    fails(tmp_path, "TENX1.h5ad is damaged")
    (tmp_path / "st" / "TENX1.h5ad").write_bytes(whole)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "TENX1.json").write_text("{")
    fails(tmp_path, "TENX1.json: no valid JSON")
    table.write_text("name,organ\nTENX1,Breast\n")
    with pytest.raises(Exception, match="has no column 'id': it is no table of HEST-1k"):
        read_slides(tmp_path)


@pytest.mark.parametrize("geo", ["GSM4284316_", ""])
@pytest.mark.parametrize("packed", [True, False])
def test_cscc_as_geo_has_it(tmp_path, geo, packed):
    save_cscc(tmp_path / "data", geo=geo, packed=packed)
    (slide,) = read_slides(tmp_path)
    assert (slide.slide_id, slide.layout, slide.patient, slide.cohort) == ("P2_ST_rep1", "cscc", "P2", "cSCC")
    assert (slide.mpp, slide.mpp_source) == (pytest.approx(150 / 60), "pitch")
    assert slide.image.path.name == f"{geo}P2_ST_rep1.jpg"
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS)
    np.testing.assert_array_equal(slide.spots.xy_px, XY)


def test_cscc_tells_packed_images_and_what_is_missing(tmp_path):
    save_cscc(tmp_path)
    save_cscc(tmp_path, "P10_ST_rep3")
    image = tmp_path / "GSM1_P2_ST_rep1.jpg"
    (tmp_path / f"{image.name}.gz").write_bytes(gzip.compress(image.read_bytes()))
    image.unlink()
    slides = {slide.slide_id: slide for slide in read_slides(tmp_path)}
    assert {name: slide.patient for name, slide in slides.items()} == {"P2_ST_rep1": "P2", "P10_ST_rep3": "P10"}
    assert "the image is packed: unpack it with gunzip; counts only." in slides["P2_ST_rep1"].notes
    for path in tmp_path.glob("*P10*"):
        path.unlink()
    spots = tmp_path / "GSM1_spot_data-selection-P2_ST_rep1.tsv.gz"
    spots.write_bytes(gzip.compress(selection().replace("pixel_x", "px").encode()))
    fails(tmp_path, "is no selection file: the columns x, y, pixel_x and pixel_y are needed")
    spots.write_bytes(spots.read_bytes()[:60])
    fails(tmp_path, "selection-P2_ST_rep1.tsv.gz cannot be read")
    spots.unlink()
    fails(tmp_path, "P2_ST_rep1 has no coordinates: .* holds no spot_data-selection-P2_ST_rep1.tsv")
    save_cscc(tmp_path, geo="GSM2_")
    fails(tmp_path, "has several of P2_ST_rep1_stdata.tsv")


def test_wu_has_symbols_alone_and_a_pathologists_labels(tmp_path):
    save_wu(tmp_path)
    save_image(tmp_path / "images" / "1142243F.tif")
    (slide,) = read_slides(tmp_path)
    assert (slide.slide_id, slide.layout, slide.patient, slide.cohort) == ("1142243F", "wu2021", "1142243F", "Wu2021")
    assert slide.spots.genes.symbols == tuple(GENES)
    assert set(slide.spots.genes.ensembl) == {""}
    assert set(slide.spots.labels.tolist()) == {"Stroma"}
    assert (slide.mpp, slide.image.path.name) == (pytest.approx(100 / 60), "1142243F.tif")
    assert slide.extra["spot_diameter_fullres"] == "33.0"
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS)


def test_wu_that_is_wrong_is_one_line(tmp_path):
    save_wu(tmp_path)
    assert any("Zenodo has none" in note for note in read_slides(tmp_path)[0].notes)
    metadata = tmp_path / "metadata" / "1142243F_metadata.csv"
    metadata.write_text(metadata.read_text().replace("Classification", "Class"))
    fails(tmp_path, "1142243F_metadata.csv has no column 'Classification'")
    metadata.unlink()
    assert read_slides(tmp_path)[0].spots.labels is None
    positions = tmp_path / "spatial" / "1142243F_spatial" / "tissue_positions_list.csv"
    text = positions.read_text()
    positions.write_text(text.replace("AA-1", "TT-1"))
    fails(tmp_path, "share no spot")
    positions.unlink()
    fails(tmp_path, "1142243F has no coordinates: .*tissue_positions_list.csv does not exist")
    positions.write_text(text)
    matrix = tmp_path / "filtered_count_matrices" / "1142243F_filtered_count_matrix" / "matrix.mtx"
    matrix.write_text(matrix.read_text()[:90])
    fails(tmp_path, "matrix.mtx is damaged")


def test_visium_sections_of_the_paper_a_folder_each(tmp_path):
    for more, name in enumerate(("1142243F", "block1")):
        save_10x(tmp_path / name, mex=True, counts=COUNTS + more)
        (tmp_path / name / "filtered_feature_bc_matrix").rename(tmp_path / name / "filtered_count_matrix")
        save_positions(tmp_path / name, name="tissue_positions_list.csv", header=False)
        save_image(tmp_path / name / "image.tif")
    slides = read_slides(tmp_path)
    assert [(s.slide_id, s.layout, s.image.path.name) for s in slides] == [
        ("1142243F", "space_ranger", "image.tif"), ("block1", "space_ranger", "image.tif"),
    ]  # fmt: skip
    np.testing.assert_array_equal(slides[1].spots.counts.toarray(), COUNTS + 1)


def _loose(root, name="A1", image="HE_A1.jpg", spots="", counts=""):
    save_counts_tsv(root / counts / f"{name}.tsv.gz", legacy_ids())
    (root / spots).mkdir(parents=True, exist_ok=True)
    (root / spots / f"{name}_selection.tsv").write_text(selection())
    save_image(root / image)
    return root


def test_her2st_files_in_one_folder(tmp_path):
    _loose(tmp_path)
    _loose(tmp_path, "B2", "x_B2_HE.png")
    _loose(tmp_path, "mine", "other.png")
    slides = {slide.slide_id: slide for slide in read_slides(tmp_path)}
    assert {name: slide.patient for name, slide in slides.items()} == {"A1": "A", "B2": "B", "mine": ""}
    assert [slide.image and slide.image.path.name for slide in slides.values()] == ["HE_A1.jpg", "x_B2_HE.png", None]
    assert slides["A1"].layout == "her2st_loose"
    np.testing.assert_array_equal(slides["A1"].spots.counts.toarray(), COUNTS)
    assert slides["A1"].mpp == pytest.approx(200 / 60)


def test_her2st_as_zenodo_has_it_with_labels(tmp_path):
    _loose(tmp_path, image="images/HE/A1.jpg", spots="spot-selections", counts="count-matrices")
    (tmp_path / "meta").mkdir()
    table = pd.DataFrame({"x": [0, 1], "y": [0, 0], "label": ["invasive cancer", "undetermined"]})
    table.to_csv(tmp_path / "meta" / "A1_labeled_coordinates.tsv", sep="\t", index=False)
    (slide,) = read_slides(tmp_path)
    assert slide.image.path.name == "A1.jpg"
    assert slide.spots.labels.tolist()[:3] == ["invasive cancer", "", ""]


def test_her2st_files_alone_take_the_one_image_and_tell(tmp_path):
    _loose(tmp_path, "C6", "5714_HE_BT_E2.jpg")
    (slide,) = read_slides(tmp_path)
    assert slide.image.path.name == "5714_HE_BT_E2.jpg"
    assert any("the one image there" in note for note in slide.notes)
    save_image(tmp_path / "C6_a.jpg")
    save_image(tmp_path / "C6_b.jpg")
    fails(tmp_path, r"several images of C6 \(C6_a.jpg, C6_b.jpg\)")
    for image in tmp_path.glob("*.jpg"):
        image.unlink()
    assert "no image whose name has that of the section: counts only." in read_slides(tmp_path)[0].notes
    _loose(tmp_path, "D1")
    (tmp_path / "D1.tsv.gz").unlink()
    fails(tmp_path, r"Slide D1 has no counts: .*D1.tsv\(.gz\) does not exist")


@pytest.mark.shared
def test_real_her2st_files_in_one_folder(shared, tmp_path):
    source = shared / "her2st"
    for path in (
        source / "ST-cnts" / "C6.tsv.gz",
        source / "ST-spotfiles" / "C6_selection.tsv",
        *(source / "ST-imgs" / "C" / "C6").glob("*.jpg"),
    ):
        (tmp_path / path.name).symlink_to(path)
    (slide,) = read_slides(tmp_path)
    assert (slide.slide_id, slide.patient, len(slide), slide.image is not None) == ("C6", "C", 178, True)
    assert slide.mpp == pytest.approx(0.688, abs=0.003)
