"""A grid over the tissue: every point on it and in the regions, evenly apart, the same each time."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from mclstexp.data.images import open_image
from mclstexp.data.positions.grid import Grid, lay_grid
from mclstexp.data.positions.lattice import derive_array, fit_grid, is_staggered
from mclstexp.data.positions.outline import find_outline
from mclstexp.data.positions.query import read_query
from mclstexp.data.positions.regions import read_regions
from mclstexp.errors import InputError

TISSUE, GLASS = (190, 90, 160), (240, 240, 242)


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory):
    """Two pieces of tissue, a lumen in the larger one, a speck of dirt; 5 um a pixel."""
    picture = Image.new("RGB", (1000, 700), GLASS)
    pen = ImageDraw.Draw(picture)
    pen.ellipse([100, 80, 600, 500], fill=TISSUE)
    pen.ellipse([300, 250, 420, 350], fill=GLASS)
    pen.rectangle([700, 300, 900, 600], fill=TISSUE)
    pen.rectangle([940, 20, 950, 30], fill=(20, 60, 60))
    path = tmp_path_factory.mktemp("g") / "S1.png"
    picture.save(path)
    return path


def everywhere(xy):
    return np.ones(len(xy), dtype=bool)


boxes = st.tuples(st.floats(0, 500), st.floats(0, 500), st.floats(200, 1500), st.floats(200, 1500))


@settings(max_examples=30, deadline=None)
@given(box=boxes, pitch=st.floats(40, 180), shape=st.sampled_from(["square", "hex"]), mpp=st.floats(0.2, 3))
def test_points_are_a_pitch_apart_and_inside_the_box(box, pitch, shape, mpp):
    left, top, width, height = box
    corners = np.array([left, top, left + width, top + height])

    def inside(xy):
        return ((xy >= corners[:2]) & (xy <= corners[2:])).all(axis=1)

    coords = lay_grid(Grid(pitch * mpp, shape=shape), mpp, corners, inside)
    again = lay_grid(Grid(pitch * mpp, shape=shape), mpp, corners, inside)
    np.testing.assert_array_equal(coords.xy, again.xy)
    assert inside(coords.xy).all()
    assert len(set(coords.ids)) == len(coords.ids)
    distance = cKDTree(coords.xy).query(coords.xy, k=2)[0][:, 1]
    np.testing.assert_allclose(distance[np.isfinite(distance)], pitch, rtol=1e-9)
    # As many as the area holds: a row or a column at the edges apart.
    cell = pitch**2 * (np.sqrt(3) / 2 if shape == "hex" else 1)
    edge = (width + height) / pitch + 4
    assert abs(len(coords.ids) - width * height / cell) <= 1.3 * edge


@pytest.mark.parametrize(("shape", "n_near"), [("hex", 6), ("square", 4)])
def test_inner_points_have_the_neighbours_of_their_grid(shape, n_near):
    coords = lay_grid(Grid(50, "px", shape), None, np.array([0.0, 0.0, 1000.0, 800.0]), everywhere)
    inner = ((coords.xy > 100) & (coords.xy < (900, 700))).all(axis=1)
    near = cKDTree(coords.xy).query_ball_point(coords.xy[inner], 50 * 1.01, return_length=True) - 1
    assert (near == n_near).all()
    # The array coordinates are those that the program itself would read out of the points.
    matrix = fit_grid(coords.xy, *coords.array.T)
    np.testing.assert_allclose(matrix @ coords.array[:, ::-1].T, (coords.xy - coords.xy[0]).T, atol=1e-6)
    assert is_staggered(*coords.array.T) == (shape == "hex")
    row, col = derive_array(coords.xy)
    np.testing.assert_array_equal(row - row.min(), coords.array[:, 0] - coords.array[:, 0].min())
    np.testing.assert_array_equal(col - col.min(), coords.array[:, 1] - coords.array[:, 1].min())


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("112um", Grid(112)), ("112", Grid(112)), (" 0.1 mm", Grid(100)), ("224px", Grid(224, "px")),
        ("55µm", Grid(55)), ("1e2um", Grid(100)),
    ],
)  # fmt: skip
def test_a_pitch_is_read_as_people_write_it(text, grid):
    assert Grid.parse(text) == grid


@pytest.mark.parametrize("text", ["", "um", "0um", "-5um", "112 furlongs", "nan", "inf um", "1..2um", "112um 50um"])
def test_what_is_no_pitch_is_refused(text):
    with pytest.raises(InputError, match="is no distance between points; give one such as 112um"):
        Grid.parse(text)


def test_tissue_is_found_without_its_dirt_and_its_lumen(slide_file):
    outline = find_outline(open_image(slide_file))
    at = np.array([[150.0, 300.0], [800.0, 450.0], [360.0, 300.0], [945.0, 25.0], [650.0, 100.0], [-5.0, 10.0]])
    assert outline.holds(at).tolist() == [True, True, False, False, False, False]
    expected = np.pi * 250 * 210 - np.pi * 60 * 50 + 200 * 300
    assert outline.area_px == pytest.approx(expected, rel=0.05)
    np.testing.assert_allclose(outline.box, [100, 80, 901, 601], atol=5)


@pytest.mark.parametrize("shape", ["square", "hex"])
def test_a_slide_gets_its_grid_on_tissue(slide_file, shape):
    slide = read_query(slide_file, grid="200um", grid_shape=shape, mpp=5.0)
    rgb = np.asarray(Image.open(slide_file))
    x, y = slide.spots.xy_px.astype(int).T
    assert len(slide) > 80
    on_tissue = np.abs(rgb[y, x].astype(int) - TISSUE).max(axis=1) < 40
    assert on_tissue.mean() > 0.97  # the outline is smoothed by a few pixels
    assert (slide.pitch_um, slide.mpp_source) == (200.0, "given")
    assert slide.tissue is not None
    assert any(note.startswith(f"{len(slide)} points of a {'hexagonal' if shape == 'hex' else shape} grid of 200 um on")
               for note in slide.notes)  # fmt: skip
    whole = read_query(slide_file, grid="200um", grid_shape=shape, mpp=5.0, check_tissue=False)
    assert len(whole) > 2 * len(slide)


def test_regions_limit_a_grid_and_given_spots_alike(slide_file, tmp_path):
    ring = [[120, 120], [560, 120], [560, 460], [120, 460], [120, 120]]
    hole = [[200, 200], [300, 200], [300, 300], [200, 300], [200, 200]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring, hole]}, "properties": {}}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    slide = read_query(slide_file, grid="50um", mpp=5.0, regions=path)
    areas, outline = read_regions(path), find_outline(open_image(slide_file))
    assert areas.holds(slide.spots.xy_px).all()
    assert outline.holds(slide.spots.xy_px).all()
    in_hole = ((slide.spots.xy_px > 200) & (slide.spots.xy_px < 300)).all(axis=1)
    assert not in_hole.any()
    assert len(slide.regions) == 2
    coords = tmp_path / "c.csv"
    coords.write_text("id,x,y\na,150,150\nb,250,250\nc,250,400\nd,800,450\n")
    given = read_query(slide_file, coords, mpp=5.0, regions=path)
    assert given.spots.spot_ids.tolist() == ["a", "c"]
    assert "2 of 4 spots lie in the regions of a.geojson." in given.notes
    coords.write_text("id,x,y\nd,800,450\ne,820,450\n")
    with pytest.raises(InputError, match="none of 2 spots lies in the regions"):
        read_query(slide_file, coords, mpp=5.0, regions=path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "Slide S1: a file of coordinates or a grid, .* neither is given"),
        ({"coords": "c.csv", "grid": "50um"}, "both are given"),
        ({"grid": "112um"}, "Slide S1: a grid of 112 um needs the pixel size.*--mpp.*--grid 224px"),
        ({"grid": "1um", "mpp": 5.0}, "at least 1 px is needed"),
        ({"grid": "0.4px"}, "at least 1 px"),
        ({"grid": "112um", "mpp": 50.0}, r"outside 0\.1 to 10"),
    ],
)
def test_a_grid_that_cannot_be_laid_says_why(slide_file, options, match):
    with pytest.raises(InputError, match=match) as caught:
        read_query(slide_file, **options)
    assert "\n" not in str(caught.value)


def test_no_tissue_and_a_dark_background_are_refused(tmp_path):
    Image.new("RGB", (600, 400), GLASS).save(tmp_path / "glass.png")
    Image.new("RGB", (600, 400), (0, 0, 12)).save(tmp_path / "dark.png")
    with pytest.raises(InputError, match=r"no tissue is seen on glass\.png.*--no-tissue-check"):
        read_query(tmp_path / "glass.png", grid="100px")
    with pytest.raises(InputError, match=r"background of dark\.png is dark.*H&E"):
        read_query(tmp_path / "dark.png", grid="100px")
    assert len(read_query(tmp_path / "glass.png", grid="100px", check_tissue=False)) == 6 * 4


def test_a_grid_of_millions_is_refused_before_it_is_made():
    with pytest.raises(InputError, match="more than 4,000,000"):
        lay_grid(Grid(1.0, "px"), None, np.array([0.0, 0.0, 1e5, 1e5]), everywhere)
    with pytest.raises(InputError, match="no point of a square grid of 5000 um lies on tissue"):
        lay_grid(Grid(5000.0), 0.5, np.array([0.0, 0.0, 500.0, 500.0]), lambda xy: np.zeros(len(xy), dtype=bool))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "mpp", "share"),
    [
        ("CMU-1-Small-Region.svs", None, 0.367),
        ("TCGA-CR-7395-no-mpp.svs", 1.0, 0.62),
        ("kidney-flat-no-mpp.tif", 4.0, 0.003),
    ],
)
def test_real_slides_get_a_grid(shared, name, mpp, share):
    slide = read_query(shared / "slides" / name, grid="112um", mpp=mpp)
    assert slide.tissue.mean() == pytest.approx(share, rel=0.15)
    assert len(slide) >= 4


@pytest.mark.shared
def test_a_fluorescence_slide_is_refused(shared):
    with pytest.raises(InputError, match="fluorescence"):
        read_query(shared / "slides" / "hamamatsu-fluorescence.ndpi", grid="112um", mpp=0.23)
