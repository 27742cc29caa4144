"""A prediction in other libraries' forms: opened by the libraries themselves."""

import csv
import io
import json
import re
import uuid
import warnings
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
import squidpy
from hypothesis import given, settings
from hypothesis import strategies as st
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import get_transformation
from worlds import PREDICTED_SPOTS, tiny_prediction

from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.panel import GenePanel
from mclstexp.predict.formats import choose
from mclstexp.predict.formats.geojson import features, write_geojson
from mclstexp.predict.formats.tables import write_csv
from mclstexp.predict.prediction import Prediction

PATCH = {"size_px": 224, "mpp": 0.7, "scale": 1.0}


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    plain = tiny_prediction()
    return tiny_prediction(settings={**plain.settings, "patch": PATCH})


def test_a_table_has_a_row_a_spot_and_a_column_a_gene(prediction: Prediction) -> None:
    frame = prediction.to_dataframe(["CD3E", "ENSG00000141736"], layers=["mean", "sd"])
    assert list(frame.columns) == [
        *("slide", "x_px", "y_px", "x_um", "y_um", "array_row", "array_col", "similarity", "note"),
        *("CD3E", "ERBB2", "CD3E sd", "ERBB2 sd"),
    ]
    assert frame.index.tolist() == prediction.spot_ids.tolist()
    np.testing.assert_array_equal(frame["ERBB2"], prediction.mean[:, 0])
    np.testing.assert_array_equal(frame["CD3E sd"], prediction.sd[:, 1])
    np.testing.assert_allclose(frame["x_um"], prediction.xy_px[:, 0] * 0.5)
    assert len(prediction.to_dataframe().columns) == 9 + 4


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: p.to_dataframe(["erbb2"]), "Gene 'erbb2' is not in the prediction; near: ERBB2"),
        (lambda p: p.to_dataframe([]), "No gene is named"),
        (lambda p: p.to_dataframe(layers=["median"]), "no layer 'median'; layers are mean, sd"),
        (lambda p: p.to_dataframe(layers=["lower"]), "has no layer 'lower'; it has mean, sd"),
        (lambda p: p.to_geojson(object_type="cell"), "no object type 'cell'"),
        (lambda p: tiny_prediction(genes=GenePanel(("a", "b", "slide", "d"))).to_dataframe(), "Columns slide would be"),
        (lambda p: tiny_prediction().to_wsidata(), "does not say the size of its patches"),
    ],
)
def test_what_there_is_not_is_refused(prediction: Prediction, call: Any, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        call(prediction)


def read_csv(frame: pd.DataFrame) -> list[list[str]]:
    text = io.StringIO()
    write_csv(frame, text)
    return list(csv.reader(io.StringIO(text.getvalue())))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12), min_size=1, max_size=5)
)
def test_no_cell_of_text_is_a_formula(names: list[str]) -> None:
    """Whatever names are, the table comes back with one header, and nothing in it is computed by a spreadsheet."""
    frame = pd.DataFrame({"slide": names, "=evil": np.arange(len(names)) - 2.5})
    header, *rows = read_csv(frame)
    assert header == ["index", "slide", "'=evil"]
    assert [float(row[2]) for row in rows] == frame["=evil"].tolist()
    for name, row in zip(names, rows, strict=True):
        assert row[1] in (name, f"'{name}")
        assert not row[1].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_geojson_is_what_qupath_reads(prediction: Prediction) -> None:
    """The keys and types that QuPath's ``QuPathTypeAdapters`` looks for, and geometries that are valid polygons."""
    collection = json.loads(json.dumps(prediction.to_geojson(["ERBB2", "XIST"]), allow_nan=False))
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == PREDICTED_SPOTS
    for i, feature in enumerate(collection["features"]):
        assert set(feature) == {"type", "id", "geometry", "properties"}
        assert feature["type"] == "Feature"
        uuid.UUID(feature["id"])
        circle = shapely.geometry.shape(feature["geometry"])
        assert circle.is_valid
        assert circle.exterior.is_ccw
        assert feature["geometry"]["coordinates"][0][0] == feature["geometry"]["coordinates"][0][-1]
        np.testing.assert_allclose(circle.centroid.coords[0], prediction.xy_px[i], atol=0.01)
        np.testing.assert_allclose(circle.bounds[2] - circle.bounds[0], prediction.spot_diameter_px, atol=0.02)
        properties = feature["properties"]
        assert (properties["objectType"], properties["name"]) == ("detection", prediction.spot_ids[i])
        measured = properties["measurements"]
        assert all(isinstance(value, int | float) for value in measured.values())
        assert set(measured) == {"similarity"} | ({"ERBB2"} if i != 2 else set())  # unknown is left out, not zero
        if i != 2:
            assert measured["ERBB2"] == pytest.approx(prediction.mean[i, 0], rel=1e-6)


def test_geojson_keeps_ids_and_is_opened_by_gdal(prediction: Prediction, tmp_path: Any) -> None:
    listed = list(features(prediction, ["CD3E"], object_type="annotation"))
    assert [f["id"] for f in listed] == [f["id"] for f in features(prediction, ["ERBB2"], layers=["sd"])]
    assert len({f["id"] for f in listed}) == PREDICTED_SPOTS
    with (tmp_path / "a.geojson").open("w") as file:
        write_geojson(iter(listed), file)
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == listed
    frame = geopandas.read_file(tmp_path / "a.geojson")
    assert frame["name"].tolist() == prediction.spot_ids.tolist()
    assert set(frame["objectType"]) == {"annotation"}


def test_too_many_measurements_are_refused_unless_genes_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mclstexp.predict.formats.geojson.MOST_MEASUREMENTS", 90)
    with pytest.raises(InputError, match=r"24 spots with 4 genes are 96 measurements, more than the 90 .* --genes"):
        features(tiny_prediction())
    assert len(list(features(tiny_prediction(), tiny_prediction().genes.symbols))) == PREDICTED_SPOTS


def test_spatialdata_is_named_and_placed_as_spatialdata_io_does(prediction: Prediction) -> None:
    sdata = prediction.to_spatialdata(["ERBB2", "CD3E"])
    assert set(sdata.coordinate_systems) == {"S1", "S1_downscaled_hires", "S1_downscaled_lowres"}
    assert set(sdata.images) == {"S1_hires_image", "S1_lowres_image"}
    Image2DModel().validate(sdata.images["S1_hires_image"])
    ShapesModel().validate(sdata.shapes["S1"])
    TableModel().validate(sdata.tables["table"])
    circles, table = sdata.shapes["S1"], sdata.tables["table"]
    np.testing.assert_array_equal(np.stack([circles.geometry.x, circles.geometry.y], axis=1), prediction.xy_px)
    assert (circles["radius"] == prediction.spot_diameter_px / 2).all()
    assert table.uns["spatialdata_attrs"] == {"region": "S1", "region_key": "region", "instance_key": "spot_id"}
    assert "spatial" not in table.uns
    np.testing.assert_array_equal(table.X, prediction.mean[:, :2])
    np.testing.assert_array_equal(table.layers["sd"], prediction.sd[:, :2])
    np.testing.assert_array_equal(np.moveaxis(np.asarray(sdata.images["S1_hires_image"]), 0, 2), prediction.thumbnail)
    to_full = get_transformation(sdata.images["S1_hires_image"], "S1").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(to_full @ [560, 490, 1], [800, 700, 1])  # a thumbnail of 0.7 px a px
    to_small = get_transformation(circles, "S1_downscaled_hires").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(to_small @ [800, 700, 1], [560, 490, 1])
    element, matched = spatialdata.join_spatialelement_table(
        sdata=sdata, spatial_element_names="S1", table_name="table", how="inner"
    )
    assert len(element["S1"]) == matched.n_obs == PREDICTED_SPOTS


def test_spatialdata_without_a_picture_and_under_a_strange_name() -> None:
    strange = tiny_prediction(slide_id="__my slide (2)", thumbnail=None, thumbnail_scale=None)
    with pytest.warns(MclstexpWarning, match=r"slide '__my slide \(2\)' is called 'slide__my_slide__2_' there"):
        sdata = strange.to_spatialdata()
    assert list(sdata.shapes) == ["slide__my_slide__2_"]
    assert list(sdata.images) == []


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=20))
def test_every_name_becomes_one_that_spatialdata_takes(name: str) -> None:
    from spatialdata._core.validation import check_valid_name

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        check_valid_name(choose.element_name(name))


def test_lazyslides_store(prediction: Prediction) -> None:
    sdata = prediction.to_wsidata(["ERBB2"])
    tiles, table, spec = sdata.shapes["tiles"], sdata.tables["mclstexp_tiles"], sdata.attrs["tile_spec"]["tiles"]
    side = int(spec["width"] * spec["base_downsample"])
    assert (spec["width"], spec["mpp"], side) == (224, pytest.approx(0.7), 313)  # 224 px of 0.7 um on 0.5 um pixels
    assert tiles["tile_id"].tolist() == table.obs["tile_id"].tolist() == list(range(PREDICTED_SPOTS))
    centres = np.stack([tiles.geometry.centroid.x, tiles.geometry.centroid.y], axis=1)
    np.testing.assert_allclose(centres, prediction.xy_px, atol=1)
    np.testing.assert_allclose(tiles.geometry.area, side**2)
    assert tiles["spot"].tolist() == prediction.spot_ids.tolist()
    assert table.var_names.tolist() == ["ERBB2"]
    assert set(table.obs["library_id"]) == {"tiles"}


def test_lazyslide_itself_opens_its_store(prediction: Prediction) -> None:
    tile_spec = pytest.importorskip("wsidata", reason="wsidata is not installed").TileSpec
    spec = tile_spec(**prediction.to_wsidata().attrs["tile_spec"]["tiles"])
    assert (spec.base_width, spec.base_height) == (313, 313)


def test_an_absent_library_is_one_line() -> None:
    with pytest.raises(InputError, match=r'SpatialData needs nolib .* pip install "mclstexp\[spatialdata\]"'):
        choose.require("nolib.models", "spatialdata", "SpatialData")


def test_squidpy_draws_and_finds_neighbours(prediction: Prediction) -> None:
    import matplotlib.pyplot as plt

    adata = prediction.to_anndata()
    squidpy.gr.spatial_neighbors(adata, coord_type="generic", n_neighs=4)
    assert adata.obsp["spatial_connectivities"].shape == (PREDICTED_SPOTS, PREDICTED_SPOTS)
    squidpy.pl.spatial_scatter(adata, color="CD3E", library_id="S1")
    assert len(plt.gcf().axes[0].images) == 1
    plt.close("all")
