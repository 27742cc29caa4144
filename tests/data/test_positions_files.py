"""Coordinate files: what column names tell is taken, the rest is asked for."""

import gzip

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mclstexp.data.positions.files import parse_coords
from mclstexp.data.positions.query import CoordsColumns, read_coords
from mclstexp.errors import InputError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def space_ranger(header=True, n=6):
    place = [(i, i // 3, i % 3) for i in range(n)]
    lines = [
        f"B{i}-1,{int(i > 0)},{row},{2 * col + row},{100.5 + 87 * row},{200 + 100 * col + 50 * row}"
        for i, row, col in place
    ]
    names = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n" if header else ""
    return names + "\n".join(lines) + "\n"


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("name", ["tissue_positions.csv", "tissue_positions_list.csv", "GSM1_positions.csv.gz"])
def test_space_ranger_positions_with_or_without_header(tmp_path, header, name):
    path = tmp_path / name
    text = space_ranger(header).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found = parse_coords(path)
    spots = found.spots()
    assert spots.spot_ids.tolist() == [f"B{i}-1" for i in range(1, 6)]  # the first is off the tissue, and only it
    assert spots.xy_px[0].tolist() == [300.0, 100.5]  # (x, y) = (column, row)
    assert spots.array_row.tolist() == [0, 0, 1, 1, 1]
    assert spots.array_col.tolist() == [2, 4, 1, 3, 5]
    assert found.notes == ("1 of 6 spots are off the tissue and were dropped.",)
    assert found.pitch_um == 100


def test_first_spot_without_header_is_kept_when_on_tissue(tmp_path):
    path = write(tmp_path / "p.csv", "AAA-1,1,0,0,10.5,-20\nBBB-1,1,0,2,10,30\nCCC-1,1,1,1,97,5\n")
    spots = read_coords(path)
    assert spots.spot_ids.tolist() == ["AAA-1", "BBB-1", "CCC-1"]
    assert spots.xy_px[0].tolist() == [-20, 10.5]


def test_parquet_positions(tmp_path):
    frame = pd.DataFrame(
        {
            "barcode": ["s_016um_00001_00002-1", "s_016um_00001_00003-1"],
            "in_tissue": [1, 1],
            "array_row": [1, 1],
            "array_col": [2, 3],
            "pxl_row_in_fullres": [50.0, 50.0],
            "pxl_col_in_fullres": [10.0, 68.0],
        }
    )
    frame.to_parquet(tmp_path / "tissue_positions.parquet")
    found = parse_coords(tmp_path / "tissue_positions.parquet")
    assert found.ids[0] == "s_016um_00001_00002-1"
    assert found.pitch_um == 16
    assert found.xy.tolist() == [[10, 50], [68, 50]]


LAYOUTS = {
    "selection": ("x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n"
                  "9\t10\t9.1\t9.9\t2900.5\t3000\t1\n8\t9\t8.1\t9\t2600\t2700\t0\n",
                  ["9x10"], [[2900.5, 3000]], [10], [9], 200.0),
    "istar": ("id,x,y\na,10,20\nb,30,40\n", ["a", "b"], [[10, 20], [30, 40]], None, None, None),
    "istar_bom_semicolon": ("\ufeffid;x;y\na;10;20\nb;30;40\n", ["a", "b"], [[10, 20], [30, 40]], None, None, None),
    "loki": (",pixel_x,pixel_y\na,10,20\nb,30,40\n", ["a", "b"], [[10, 20], [30, 40]], None, None, None),
    "deepspot": ("barcode,x_array,y_array,x_pixel,y_pixel\na,1,2,100,200\nb,1,3,100,300\n",
                 ["a", "b"], [[200, 100], [300, 100]], [1, 1], [2, 3], None),
    "qupath_px": ("Object ID,Centroid X px,Centroid Y px\na,10,20\nb,30,40\n",
                  ["a", "b"], [[10, 20], [30, 40]], None, None, None),
    "r_without_index_name": ("x,y\n7,10,20\n8,30,40\n", ["7", "8"], [[10, 20], [30, 40]], None, None, None),
    "spaces": ("id, x, y\na, 10, 20\nb,30,40\n", ["a", "b"], [[10, 20], [30, 40]], None, None, None),
    "unnamed_rows": ("x,y\n10,20\n30,40\n", ["1", "2"], [[10, 20], [30, 40]], None, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_told_by_their_columns(tmp_path, name):
    text, ids, xy, row, col, pitch = LAYOUTS[name]
    found = parse_coords(write(tmp_path / "c.csv", text))
    spots = found.spots()
    assert spots.spot_ids.tolist() == ids
    assert spots.xy_px.tolist() == xy
    assert found.pitch_um == pitch
    if row is not None:
        assert (spots.array_row.tolist(), spots.array_col.tolist()) == (row, col)


def test_micrometres_become_pixels(tmp_path):
    path = write(tmp_path / "q.tsv", "Object ID\tCentroid X µm\tCentroid Y µm\na\t10\t20\nb\t30\t40\n")
    assert read_coords(path, mpp=0.5).xy_px.tolist() == [[20, 40], [60, 80]]
    with pytest.raises(InputError, match="--mpp"):
        read_coords(path)
    latin = tmp_path / "latin.tsv"
    latin.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))
    assert read_coords(latin, mpp=1.0).xy_px.tolist() == [[10, 20], [30, 40]]


def test_options_settle_what_names_do_not(tmp_path):
    path = write(tmp_path / "c.csv", "tile,across,down\nt1,100,200\nt2,300,400\n")
    with pytest.raises(InputError, match=r"--x-column .* --y-column"):
        read_coords(path)
    columns = CoordsColumns(x="across", y="down", id="tile", origin="topleft", tile_px=50)
    spots = read_coords(path, columns=columns)
    assert spots.xy_px.tolist() == [[125, 225], [325, 425]]
    assert spots.spot_ids.tolist() == ["t1", "t2"]
    with pytest.raises(InputError, match="no column 'nowhere'"):
        read_coords(path, columns=CoordsColumns(x="nowhere", y="down"))
    um = CoordsColumns(x="across", y="down", units="um")
    assert read_coords(path, columns=um, mpp=2.0).xy_px.tolist() == [[50, 100], [150, 200]]


def test_tile_corners_have_to_be_declared(tmp_path):
    path = write(tmp_path / "c.csv", "id,xcoord,ycoord\na,0,0\nb,256,0\n")
    with pytest.raises(InputError, match=r"--origin topleft --tile-px N, or --origin center"):
        read_coords(path)
    assert read_coords(path, columns=CoordsColumns(origin="center")).xy_px.tolist() == [[0, 0], [256, 0]]
    corner = CoordsColumns(origin="topleft", tile_px=256)
    assert read_coords(path, columns=corner).xy_px.tolist() == [[128, 128], [384, 128]]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"x": "a"}, "--y-column"),
        ({"origin": "topleft"}, "--tile-px"),
        ({"origin": "corner"}, "center or topleft"),
        ({"units": "mm"}, "px or um"),
        ({"pitch_um": 0}, "--pitch-um"),
    ],
)
def test_options_that_make_no_sense(kwargs, match):
    with pytest.raises(InputError, match=match):
        CoordsColumns(**kwargs)


BAD = {
    "empty": ("", "is empty"),
    "no rows": ("id,x,y\n", "no spots"),
    "no header": ("a,10,20\nb,30,40\n", "no header"),
    "nan": ("id,x,y\na,10,20\nb,,40\nc,NaN,1\n", "2 of 3 spots have NaN.*'b'"),
    "infinite": ("id,x,y\na,10,inf\nb,1,40\n", "1 of 2 spots have NaN or infinite"),
    "text": ("id,x,y\na,10,20\nb,here,40\n", "'here' in row 2"),
    "duplicate ids": ("id,x,y\na,10,20\na,30,40\n", "1 spot ids occur more than once, for example 'a'"),
    "row and column": ("id,row,col\na,1,2\n", "--x-column"),
    "ambiguous pixels": ("id,x_pixel,y_pixel\na,1,2\n", "--x-column"),
    "more cells everywhere": ("id,x,y\na,1,2,3,4\nb,1,2,3,4\n", "more cells than its first line"),
    "more cells later": ("id,x,y\na,1,2\nb,1,2,3,4\n", "damaged"),
    "names twice": ("id,x,y,x\na,1,2,3\n", "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_coordinates_are_one_line(tmp_path, name):
    text, match = BAD[name]
    path = write(tmp_path / "c.csv", text)
    with pytest.raises(InputError, match=match) as caught:
        read_coords(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(InputError, match="do not exist"):
        read_coords(tmp_path / "none.csv")
    for name, content in [("a.csv", b"\0\1\2\0"), ("a.csv.gz", b"\x1f\x8b\x08broken"), ("a.parquet", b"PAR1 no")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_coords(tmp_path / name)


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet='ab1,;\t\n"x y.µ-', max_size=80))
def test_rubbish_never_escapes_as_another_error(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("r") / "c.csv", text)
    message = ""
    try:
        read_coords(path)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


HOSTILE = {
    "an empty cell": ("id,x,y\na,10,20\nb,,40\nc,50,60\n", r"1 of 3 .*first 'b' in row 2 \(nan, 40\)"),
    "NA": ("id,x,y\na,10,NA\nb,30,40\n", "first 'a' in row 1"),
    "infinite": ("id,x,y\na,10,20\nb,30,-inf\n", "first 'b' in row 2"),
    "1e308": ("id,x,y\na,10,20\nb,1e308,40\n", "1 of 2 spots have coordinates beyond 1e[+]07, first 'b' in row 2"),
    "just too far": ("id,x,y\na,10,20\nb,-10000001,40\n", "beyond 1e[+]07, first 'b' in row 2"),
    "one point": (
        "id,x,y\n" + "".join(f"s{i},7,9\n" for i in range(20)),
        "20 spots lie at one point, such as x 7",
    ),
    "two points": ("id,x,y\n" + "".join(f"s{i},{i % 2},9\n" for i in range(8)), "8 spots lie at 2 points"),
    "an empty id": ("id,x,y\na,10,20\n,30,40\n", "1 of 2 spots have an empty id, the first in row 2"),
    "a blank id": ("id,x,y\n  ,10,20\nb,30,40\n", "an empty id, the first in row 1"),
    "two empty ids": ("id,x,y\n,10,20\n,30,40\n", "2 of 2 spots have an empty id, the first in row 1"),
    "uneven": ("id,x,y\na,0,0\nb,0,0.000001\nc,9000000,0\nd,9000000,0.000001\n", "no spots of one array"),
    "an array that is empty": (
        "x,y,pixel_x,pixel_y\n1,2,3,4\n,2,5,6\n",
        r"c\.csv: 1 of 2 .*array coordinates \(y, x\).*row 2",
    ),
    "an array of infinity": (
        "barcode,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\na,1,inf,3,4\nb,1,2,3,4\n",
        r"array coordinates \(array_row, array_col\).*row 1",
    ),
    "an array of 1e300": ("id,array_row,array_col,x,y\na,0,0,3,4\nb,1e300,2,30,4\n", "beyond 1e[+]07.*row 2"),
    "um that are NaN": ("id,Centroid X \u00b5m,Centroid Y \u00b5m\na,nan,2\nb,3,4\n", "first 'a' in row 1"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_coordinates_are_refused_by_name_and_row(tmp_path, name):
    text, match = HOSTILE[name]
    path = write(tmp_path / "c.csv", text)
    with pytest.raises(InputError, match=match) as caught:
        read_coords(path, mpp=0.5)
    assert str(caught.value).startswith("c.csv: ")
    assert "\n" not in str(caught.value)


def test_rows_are_those_of_the_file_also_where_spots_were_dropped(tmp_path):
    text = space_ranger().replace("B3-1,1,1", "B3-1,1,x")
    with pytest.raises(InputError, match="'x' in row 4"):
        read_coords(write(tmp_path / "a.csv", text))
    rows = space_ranger().splitlines()
    rows[5] = rows[5].rsplit(",", 1)[0] + ","
    with pytest.raises(InputError, match="first 'B4-1' in row 5"):
        read_coords(write(tmp_path / "b.csv", "\n".join(rows)))


def test_empty_cells_of_a_parquet_are_empty(tmp_path):
    frame = pd.DataFrame({"id": ["a", None, "c"], "x": [1.0, 20.0, 30.0], "y": [1.0, 2.0, 3.0]})
    frame.to_parquet(tmp_path / "c.parquet")
    with pytest.raises(InputError, match="an empty id, the first in row 2"):
        read_coords(tmp_path / "c.parquet")
    frame.assign(id=["a", "b", "c"], y=[1.0, None, 3.0]).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(InputError, match="first 'b' in row 2"):
        read_coords(tmp_path / "c.parquet")


def test_one_spot_and_a_few_at_one_place_are_spots(tmp_path):
    assert len(read_coords(write(tmp_path / "c.csv", "id,x,y\na,10,20\n"))) == 1
    some_shared = parse_coords(write(tmp_path / "c.csv", "id,x,y\na,10,20\nb,10,20\nc,90,20\nd,170,20\n"))
    assert (len(some_shared.spots()), some_shared.n_shared) == (4, 1)


def test_a_table_as_wide_as_no_coordinates_are_is_refused_at_once(tmp_path):
    wide = write(tmp_path / "counts.csv", "id,x,y," + ",".join(f"g{i}" for i in range(200_000)) + "\n")
    with pytest.raises(InputError, match=r"200,003 columns, over 100,000: is it the table of counts\?"):
        read_coords(wide)
