"""Readers: mixtures of layouts, what is asked for, and the real slides."""

import numpy as np
import pytest
import zarr
from layouts import (
    N,
    legacy_ids,
    make_her2st,
    save_10x,
    save_counts_tsv,
    save_h5ad,
    save_image,
    save_positions,
    selection,
)

from mclstexp.data.readers import inspect_slides, read_slides
from mclstexp.data.readers.discover import LAYOUTS
from mclstexp.data.readers.source import find_image
from mclstexp.errors import InputError


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
    read_slides(tmp_path, on_progress=lambda *args: seen.append(args))
    assert seen == [("reading slides", 1, 3), ("reading slides", 2, 3), ("reading slides", 3, 3)]
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


def test_files_beside_their_layout_are_said_and_how_to_name_them(tmp_path):
    refs = tmp_path / "refs"
    save_counts_tsv(refs / "lying" / "A1.tsv.gz", legacy_ids())
    (refs / "lying" / "A1_coords.tsv").write_text(selection())
    save_image(refs / "lying" / "HE_A1.jpg")
    with pytest.raises(InputError) as caught:
        read_slides(refs)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("slides.csv", "ST-cnts/", "an .h5ad", "filtered_feature_bc_matrix", "3 folders down"):
        assert part in message
    assert "its files (A1.tsv.gz, A1_coords.tsv, HE_A1.jpg) look like slides" in message
    header, row = "slide,counts,coords,image", "A1,lying/A1.tsv.gz,lying/A1_coords.tsv,lying/HE_A1.jpg"
    assert header in message
    assert message.endswith(f"such as {row}.")
    (refs / "slides.csv").write_text(f"{header}\n{row}\n")  # the advice, taken
    (slide,) = read_slides(refs)
    assert (slide.slide_id, len(slide), slide.image is not None) == ("A1", N, True)


def test_files_of_no_use_are_said(tmp_path):
    with pytest.raises(InputError, match="; there is no file"):
        read_slides(tmp_path)
    for name in ("a.doc", "b.doc", "c.doc", "d.doc", "e.doc"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"its files are a\.doc, b\.doc, c\.doc, d\.doc and 1 more\."):
        read_slides(str(tmp_path))


def test_slides_csv_wins_over_the_folders_beside_it_and_over_metadata_csv(tmp_path):
    make_her2st(tmp_path, names=("A1",))
    (tmp_path / "slides.csv").write_text(
        "slide,patient,counts,coords\nmine,P1,ST-cnts/A1.tsv.gz,ST-spotfiles/A1_selection.tsv\n"
    )
    (tmp_path / "metadata.csv").write_text("slide,patient\nmine,other\n")
    (slide,) = read_slides(tmp_path)
    assert (slide.slide_id, slide.patient, slide.layout) == ("mine", "P1", "slides_csv")


def test_layouts_are_asked_in_order():
    assert [layout.NAME for layout in LAYOUTS] == [
        "slides_csv", "her2st", "wu2021", "cscc", "legacy_st", "her2st_loose", "hest", "spatialdata", "h5ad", "xenium",
        "transcripts", "visium_hd", "space_ranger",
    ]  # fmt: skip
    assert all(layout.LOOKS_FOR for layout in LAYOUTS)


@pytest.mark.shared
def test_real_slides(shared):
    a1, b4, c6 = read_slides(shared / "her2st", only=["A1", "B4", "C6"])
    assert (len(b4), len(c6), len(a1)) == (283, 178, 346)
    assert c6.mpp == pytest.approx(0.688, abs=0.003)
    assert a1.mpp == pytest.approx(0.917, abs=0.004)
    assert a1.image is None
    # sections with a pathologist's labels, and with clusters: spots labelled of all
    assert (int((a1.spots.labels != "").sum()), int((c6.spots.labels != "").sum())) == (341, 176)
    assert set(b4.spots.labels.tolist()) == {"", "0", "1", "2", "3", "4", "5"}
    assert "invasive cancer" in a1.spots.labels.tolist()
    assert ("ST-pat" in a1.extra["labels"], "ST-cluster" in c6.extra["labels"]) == (True, True)
    (v1,) = read_slides(shared / "space_ranger_v1")
    assert (len(v1), len(v1.spots.genes)) == (100, 100)
    (v3,) = read_slides(shared / "space_ranger_v3")
    assert len(v3) == 2898
    assert len(v3.spots.genes) == 19465 - 11  # eleven symbols name two genes


def test_an_image_may_be_a_folder_of_zarr_or_of_dicom(tmp_path):
    pixels = zarr.open_group(tmp_path / "S1.ome.zarr", mode="w", zarr_format=2)
    pixels.create_array("0", data=np.full((3, 300, 400), 200, dtype=np.uint8))
    axes = [{"name": "c"}, *({"name": name, "type": "space", "unit": "micrometer"} for name in "yx")]
    scale = {"type": "scale", "scale": [1, 0.5, 0.5]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    pixels.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    save_h5ad(tmp_path / "S1.h5ad")
    (slide,) = read_slides(tmp_path)
    assert (type(slide.image).__name__, slide.mpp_source) == ("ZarrImage", "file")
    (tmp_path / "S1").mkdir()
    assert find_image(tmp_path, "S1") == tmp_path / "S1.ome.zarr"  # a folder of nothing is no image
    (tmp_path / "S1" / "a.dcm").touch()
    with pytest.raises(InputError, match=r"several images \(S1, S1\.ome\.zarr\)"):
        find_image(tmp_path, "S1")
    assert find_image(tmp_path, "S2") is None
    assert find_image(tmp_path / "S1") == tmp_path / "S1"
    (tmp_path / "S2.zarr").mkdir()
    (tmp_path / "S2.zarr" / "zarr.json").write_text('{"attributes": {"spatialdata_attrs": {}}}')
    assert find_image(tmp_path, "S2") is None  # a store of other things is none either


def test_which_pixel_size_is_right_holds_for_reference_slides_as_well(tmp_path):
    refs = make_her2st(tmp_path, names=("A1",), with_image=())
    save_image(refs / "ST-imgs" / "A" / "A1" / "he.tif", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    with pytest.raises(InputError, match=r"Slide A1: pixel sizes disagree: .*--mpp-from given, file or pitch"):
        read_slides(refs)
    sizes = {believed: read_slides(refs, mpp_from=believed)[0] for believed in ("file", "pitch")}
    assert {name: (slide.mpp_source, slide.mpp) for name, slide in sizes.items()} == {
        "file": ("file", 0.5),
        "pitch": ("pitch", pytest.approx(200 / 60)),
    }
    (report,) = inspect_slides(refs, mpp=2.0, mpp_from="file")
    assert report.slide.mpp == 0.5
    with pytest.raises(InputError, match="Slide A1: --mpp-from given, but that says no pixel size"):
        read_slides(refs, mpp_from="given")
