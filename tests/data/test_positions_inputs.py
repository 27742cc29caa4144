"""What a user may name to be queried: images, coordinates after them, folders, lists."""

from pathlib import Path

import pytest

from mclstexp.data.positions.inputs import find_inputs
from mclstexp.errors import InputError


def found(*words):
    inputs = find_inputs([Path(word) for word in words])
    pairs = [(one.image.name, None if one.coords is None else one.coords.name) for one in inputs.slides]
    return pairs, inputs.several


@pytest.fixture
def folder(tmp_path):
    for name in ("b.tif", "a.svs", "a.csv", "c.jpg", "c.tsv.gz", "c.tissue.png", ".hidden.tif", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_table_after_an_image_holds_its_coordinates():
    assert found("slide.tif", "coords.csv") == ([("slide.tif", "coords.csv")], False)
    assert found("slide.tif") == ([("slide.tif", None)], False)
    assert found("slide.tif", "tissue_positions_list") == ([("slide.tif", "tissue_positions_list")], False)
    pairs = [("a.svs", None), ("b.tif", "b.csv"), ("c.ndpi", None)]
    assert found("a.svs", "b.tif", "b.csv", "c.ndpi") == (pairs, True)


def test_a_folder_stands_for_its_images_each_with_the_table_of_its_name(folder):
    pairs = [("a.svs", "a.csv"), ("b.tif", None), ("c.jpg", "c.tsv.gz")]
    assert found(folder) == (pairs, True)
    (folder / "slides.csv").write_text("image,coords\nb.tif,a.csv\n")
    assert found(folder) == ([("b.tif", "a.csv")], True)


def test_a_list_says_all_of_its_slides(folder):
    (folder / "my.csv").write_text(
        "Slide,image,coords,mpp,patient,regions\nS1,a.svs,a.csv,0.5,P1,\n,b.tif,,,,r.geojson\n", encoding="utf-8-sig"
    )
    one, two = find_inputs([folder / "my.csv"]).slides
    assert (one.name, one.image, one.mpp, one.patient) == ("S1", folder / "a.svs", 0.5, "P1")
    assert (one.coords, one.regions) == (folder / "a.csv", None)
    assert (two.name, two.coords, two.mpp, two.patient) == ("b", None, None, "")
    assert two.regions == folder / "r.geojson"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id,x,y\na,1,2\n", "has no column 'image'.*mst query slide.tif coords.csv"),
        ("image\n", "names no slides"),
        ("image,mpp\na.svs,half\n", "row 1 has mpp 'half'"),
        ("image,mpp\na.svs,-1\n", "row 1 has mpp '-1'"),
        ("image,mpp\na.svs,nan\n", "row 1 has mpp 'nan'"),
        ("image,patient\n,P1\n", "row 1 has no image"),
        ("image,patinet\na.svs,P1\n", "columns patinet mean nothing here"),
        ("image\na.svs\na.tif\n", "2 slides would be called 'a'"),
        ("", "is empty"),
    ],
)
def test_a_list_that_is_none(tmp_path, text, match):
    (tmp_path / "my.csv").write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        find_inputs([tmp_path / "my.csv"])
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_and_names_that_repeat(tmp_path, folder):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"holds no slide image .* it is empty"):
        find_inputs([tmp_path / "none"])
    with pytest.raises(InputError, match=r"2 slides would be called 'a' \(x/a.svs, y/a.tif\).*column slide"):
        find_inputs([Path("x/a.svs"), Path("y/a.tif")])


def test_folders_that_are_one_slide(tmp_path):
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "level-0.dcm").touch()
    assert found(tmp_path / "s.zarr", tmp_path / "dicom") == ([("s.zarr", None), ("dicom", None)], True)
    assert found(tmp_path) == ([("dicom", None), ("s.zarr", None)], True)
