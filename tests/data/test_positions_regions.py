"""Regions from GeoJSON: QuPath's, and what is none."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mclstexp.data.positions.regions import read_regions
from mclstexp.errors import InputError


def square(x, y, side, *, turned=False):
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return ring[::-1] if turned else ring


def written(tmp_path, document):
    path = tmp_path / "regions.geojson"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


POLYGON = {"type": "Polygon", "coordinates": [square(0, 0, 100), square(20, 20, 30, turned=True)]}
MULTI = {"type": "MultiPolygon", "coordinates": [POLYGON["coordinates"], [square(200, 0, 50)]]}
FEATURE = {"type": "Feature", "id": "a", "geometry": MULTI, "properties": {"objectType": "annotation"}}
POINT = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}


@pytest.mark.parametrize(
    "document",
    [MULTI, FEATURE, [FEATURE], {"type": "FeatureCollection", "features": [FEATURE]},
     {"type": "GeometryCollection", "geometries": [POLYGON, {"type": "Polygon", "coordinates": [square(200, 0, 50)]}]}],
)  # fmt: skip
def test_every_way_to_write_areas_is_read(tmp_path, document):
    regions = read_regions(written(tmp_path, document))
    at = np.array([[10.0, 10.0], [30.0, 30.0], [220.0, 20.0], [150.0, 20.0]])
    assert regions.holds(at).tolist() == [True, False, True, False]
    assert regions.box.tolist() == [0, 0, 250, 100]
    assert sorted(len(ring) for ring in regions.rings) == [5, 5, 5]
    assert regions.notes == ()


def test_what_is_no_area_is_left_out_and_what_crosses_itself_is_mended(tmp_path):
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]]}
    regions = read_regions(written(tmp_path, [POINT, {"type": "Feature", "geometry": None}, bow]))
    assert regions.holds(np.array([[90.0, 50.0], [50.0, 90.0]])).tolist() == [True, False]
    assert [note.split(" of ")[0] for note in regions.notes] == ["1 objects", "1 outlines"]


def test_what_lies_beyond_the_image_is_cut_and_said(tmp_path):
    regions = read_regions(written(tmp_path, {"type": "Polygon", "coordinates": [square(50, 0, 100)]}))
    inside = regions.on((100, 100))
    assert inside.box.tolist() == [50, 0, 100, 100]
    assert inside.notes == ("50% of the regions' area lies outside the image.",)
    with pytest.raises(InputError, match=r"outside the image \(x 50 to 150, y 0 to 100; image 40 x 40 px\)"):
        regions.on((40, 40))


RUBBISH = [
    ("", "is no GeoJSON"),
    ("no json", "is no GeoJSON"),
    ("[" * 100_000, "is no GeoJSON"),
    ("null", "is no GeoJSON: it holds 'None'"),
    ('"Polygon"', "is no GeoJSON"),
    ("{}", "is no GeoJSON"),
    ('{"type": "FeatureCollection"}', "FeatureCollection holds no list"),
    ('{"type": "FeatureCollection", "features": [3]}', "is no GeoJSON: it holds '3'"),
    ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
    (POINT, "holds no polygon"),
    ({"type": "Polygon", "coordinates": []}, "holds no polygon"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]}, "object 1 is no Polygon"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [5, 0], [10, 0], [0, 0]]]}, "holds no polygon"),
    ({"type": "Polygon", "coordinates": [[[0], [1], [2], [0]]]}, "object 1 is no Polygon"),
    ({"type": "Polygon", "coordinates": [[0, 1, 2, 3]]}, "object 1 is no Polygon"),
    ({"type": "Polygon", "coordinates": "here"}, "no finite numbers"),
    ({"type": "Polygon"}, "no finite numbers"),
    ('{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 0], [1, 1], [0, 0]]]}', "no finite numbers"),
    ('{"type": "Polygon", "coordinates": [[[0, 0], [1e999, 0], [1, 1], [0, 0]]]}', "no finite numbers"),
    ({"type": "FeatureCollection", "features": [FEATURE], "crs": {"type": "name", "properties": {"name": "EPSG:4326"}}},
     "reference system 'EPSG:4326'"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "match"), RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_is_one_line(tmp_path, document, match):
    with pytest.raises(InputError, match=match) as caught:
        read_regions(written(tmp_path, document))
    assert "regions.geojson" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_folders_and_nothing_are_one_line(tmp_path):
    (tmp_path / "b.geojson").write_bytes(b"\xff\xfe\x00\x01" * 20)
    for path, match in (
        (tmp_path / "b.geojson", "no GeoJSON"),
        (tmp_path, "a folder"),
        (tmp_path / "no", "do not exist"),
    ):
        with pytest.raises(InputError, match=match):
            read_regions(path)


MEMBERS = ["type", "coordinates", "geometry", "features", "geometries", "crs"]
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-9, 9) | st.sampled_from(["Polygon", "Feature", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(document=values)
def test_any_json_is_areas_or_one_line(document, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.geojson"
    path.write_text(json.dumps(document))
    try:
        area = read_regions(path).shape.area
    except InputError:
        return
    assert area > 0
