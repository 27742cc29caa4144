"""Misplaced spots are told by the tissue's outline; spots that do not repeat it are left alone."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from mclstexp.data.images import ArrayImage
from mclstexp.data.positions.files import parse_coords
from mclstexp.data.positions.lattice import pitch_px
from mclstexp.data.positions.placement import UNKNOWN, empty_places, judge
from mclstexp.data.positions.query import read_query
from mclstexp.data.positions.tissue import looks_misplaced, tissue_mask
from mclstexp.errors import InputError

SIDE, PITCH = 400, 10.0


def tissue(seed=0):
    """A lopsided piece of tissue, off centre."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    ragged = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE)), 12)
    return np.hypot((x - 0.4) / 0.25, (y - 0.45) / 0.35) + 0.3 * (x - 0.4) / (y + 0.3) + 2.5 * ragged < 0.9


def array(start=(40.0, 30.0), n=(24, 32)):
    return np.stack(np.meshgrid(*(PITCH * np.arange(count) for count in n)), axis=-1).reshape(-1, 2) + start


def on(mask, xy):
    inside = ((xy >= 0) & (xy < SIDE)).all(axis=1)
    columns, rows = xy.clip(0, SIDE - 1).astype(int).T
    return inside & mask[rows, columns]


MASK = tissue()
SPOTS = array()[on(MASK, array())]
CENTRE = np.array([SIDE / 2, SIDE / 2])

WRONG = {
    "mirrored left to right": SPOTS * (-1, 1) + (SIDE, 0),
    "mirrored top to bottom": SPOTS * (1, -1) + (0, SIDE),
    "x and y exchanged": SPOTS[:, ::-1],
    "moved by": SPOTS + np.array([5 * PITCH, 0]),
    "times as far": SPOTS * 0.8,
}


@pytest.mark.parametrize("words", WRONG)
def test_misplaced_spots_are_told_and_how(words):
    placement = judge(MASK, (SIDE, SIDE), WRONG[words])
    assert placement.verdict == "wrong"
    assert placement.contrast < placement.best
    assert words in placement.change
    assert f"{placement.best_share:.0%} of the spots' area" in str(placement)
    assert f"in place of {placement.share:.0%}" in str(placement)


def turned(xy, degrees):
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (xy - CENTRE) @ matrix.T + CENTRE


@pytest.mark.parametrize("centre", [CENTRE, np.argwhere(MASK)[:, ::-1].mean(axis=0)], ids=["image", "tissue"])
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_scale_about_any_place_is_refused_though_all_spots_lie_on_tissue(factor, centre):
    placement = judge(MASK, (SIDE, SIDE), (SPOTS - centre) * factor + centre)
    assert placement.verdict == "wrong"
    assert float(placement.change.split()[0]) == pytest.approx(1 / factor, rel=0.04)
    # What is said has to point the right way, though fewer of the spots would lie on tissue.
    assert placement.best_share - placement.best < placement.share - placement.contrast or factor > 1
    assert "of the empty places' would then be tissue, in place of" in str(placement)


@pytest.mark.parametrize("degrees", [-10, 8])
def test_a_turn_of_a_few_degrees_is_told_and_undone(degrees):
    placement = judge(MASK, (SIDE, SIDE), turned(SPOTS, degrees))
    assert placement.verdict in ("doubtful", "wrong")
    assert placement.change.startswith("turned by")
    assert float(placement.change.split()[2]) == pytest.approx(-degrees, abs=3)


@pytest.mark.parametrize("factor", [0.8, 1.15])
def test_the_scale_that_mends_it_is_named(factor):
    change = judge(MASK, (SIDE, SIDE), SPOTS * factor).change
    assert float(change.split()[0]) == pytest.approx(1 / factor, rel=0.04)


def test_how_far_they_were_moved():
    placement = judge(MASK, (SIDE, SIDE), WRONG["moved by"])
    assert placement.change.startswith("moved by -")
    across = int(placement.change.split()[2].rstrip(","))
    assert across == pytest.approx(-50, abs=PITCH)


@pytest.mark.parametrize("seed", range(6))
def test_true_placements_are_right_moved_by_less_than_a_spot(seed):
    mask = tissue(seed)
    spots = array()[on(mask, array())]
    jitter = np.random.default_rng(seed).uniform(-0.35, 0.35, 2) * PITCH
    assert judge(mask, (SIDE, SIDE), spots + jitter).verdict == "right"
    assert judge(mask, (10 * SIDE, 10 * SIDE), 10 * (spots + jitter)).verdict == "right"


def test_spots_that_do_not_repeat_the_outline_are_left_alone():
    whole = array()
    region = whole[on(MASK, whole) & (np.hypot(*(whole - (150, 180)).T) < 60)]
    beside = array((250.0, 200.0), (12, 12))
    for spots in (whole, region, beside, array((120.0, 120.0), (8, 8)), whole[:20], whole[:1]):
        assert judge(MASK, (SIDE, SIDE), spots).verdict in ("right", "unknown")
    assert judge(np.zeros((50, 50), dtype=bool), (SIDE, SIDE), SPOTS) is UNKNOWN
    assert judge(np.ones((50, 50), dtype=bool), (SIDE, SIDE), SPOTS).verdict in ("right", "unknown")
    line = np.column_stack([PITCH * np.arange(30), np.full(30, 100.0)])
    assert judge(MASK, (SIDE, SIDE), line).verdict == "unknown"


@pytest.mark.parametrize("degrees", [0, 20, 45])
def test_empty_places_are_those_of_the_array_however_it_is_turned(degrees):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    whole = array()
    assert len(empty_places(whole @ turn.T, PITCH)) == 0
    kept = np.ones(len(whole), dtype=bool)
    kept[:96] = False  # the four first rows are the array's end, and no empty places
    kept[200:212] = False
    empty = empty_places(whole[kept] @ turn.T, PITCH)
    assert len(empty) == pytest.approx(12, abs=3)
    nearest = np.hypot(*(empty[:, None] - (whole[200:212] @ turn.T)[None]).transpose(2, 0, 1)).min(axis=1)
    assert nearest.max() < PITCH


def picture(mask):
    rgb = np.full((SIDE, SIDE, 3), 242, dtype=np.uint8)
    rgb[mask] = (190, 90, 160)
    return ArrayImage(np.asarray(Image.fromarray(rgb).resize((1200, 1200))), mpp=1.0, name="S1")


def coords(path, xy):
    path.write_text("id,x,y\n" + "\n".join(f"s{i},{x},{y}" for i, (x, y) in enumerate(3 * xy)), encoding="utf-8")
    return path


def test_a_query_is_refused_or_let_through(tmp_path):
    image = picture(MASK)
    assert len(read_query(image, coords(tmp_path / "a.csv", SPOTS))) == len(SPOTS)
    wrong = coords(tmp_path / "b.csv", WRONG["mirrored left to right"])
    with pytest.raises(InputError, match=r"Slide S1: .*mirrored left to right.*--no-tissue-check") as caught:
        read_query(image, wrong)
    assert "\n" not in str(caught.value)
    slide = read_query(image, wrong, check_tissue=False)
    assert "mirrored left to right" in looks_misplaced(slide)


def test_pixel_sizes_that_disagree_are_shown_and_the_option_settles_them(tmp_path):
    from mclstexp.data.positions.query import CoordsColumns

    path, image = coords(tmp_path / "a.csv", SPOTS), picture(MASK)  # 30 px a pitch, 1 um a pixel by the image
    fits = read_query(image, path, mpp=1.02, columns=CoordsColumns(pitch_um=30.0))
    assert (fits.mpp, fits.mpp_source, fits.notes[-1:]) == (1.02, "given", ())
    for mpp, pitch in ((0.5, None), (None, 60.0), (0.5, 30.0), (0.5, 22.0)):
        columns = CoordsColumns(pitch_um=pitch)
        with pytest.raises(
            InputError, match=r"--mpp says .*the file says 1 um, the distance between spots says"
        ) as told:
            read_query(image, path, mpp=mpp, columns=columns)
        assert "--mpp-from given, file or pitch" in str(told.value)
    # Two against one: what the user says, and the pitch.
    slide = read_query(image, path, mpp=2.0, columns=CoordsColumns(pitch_um=60.0))
    assert (slide.mpp, slide.mpp_source) == (2.0, "given")
    assert any("the file says 1 um" in note for note in slide.notes)
    for believed, expected in (("given", 0.5), ("file", 1.0), ("pitch", 2.0)):
        slide = read_query(image, path, mpp=0.5, mpp_from=believed, columns=CoordsColumns(pitch_um=60.0))
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(expected, rel=1e-3), believed)
    with pytest.raises(InputError, match="--mpp-from pitch, but that says no pixel size"):
        read_query(image, path, mpp_from="pitch")


def hexagonal(pitch, n=(24, 30)):
    rows, cols = np.mgrid[: n[0], : n[1]]
    return np.column_stack([((cols + rows % 2 / 2) * pitch).ravel(), (rows * pitch * np.sqrt(3) / 2).ravel()]) + 10.0


def test_hexagonal_spots_at_another_distance_than_visiums_are_doubted(tmp_path):
    """No outline tells here: the array is whole, and all of it on tissue."""
    image = ArrayImage(np.full((SIDE, SIDE, 3), (190, 90, 160), dtype=np.uint8), mpp=10.0, name="S1")
    for pitch, doubted in ((10.0, False), (10.3, False), (8.0, True), (12.5, True)):
        xy = hexagonal(pitch)
        path = coords(tmp_path / "a.csv", xy / 3)
        doubts = [note for note in read_query(image, path).notes if "hexagonal array" in note]
        assert len(doubts) == doubted
        assert all(f"{10 * pitch:.3g} um apart" in note and f"by {10 / pitch:.3g}" in note for note in doubts)
    square = coords(tmp_path / "b.csv", array((10.0, 10.0)) * 0.8 / 3)
    assert not any("hexagonal" in note for note in read_query(image, square).notes)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["C5", "C6"])
def test_a_real_section_mirrored_moved_and_rescaled(shared, name):
    from mclstexp.data.images import open_image

    image = open_image(next((shared / "her2st/ST-imgs/C" / name).glob("*.jpg")))
    xy = parse_coords(shared / f"her2st/ST-spotfiles/{name}_selection.tsv").xy
    mask, size = tissue_mask(image), image.size_px
    pitch = pitch_px(xy)
    assert judge(mask, size, xy).verdict == "right"
    for wrong in (xy * (-1, 1) + (size[0], 0), xy + np.array([5 * pitch, 0]), xy * 0.8):
        assert judge(mask, size, wrong).verdict == "wrong"
    centre = np.array(size) / 2
    assert judge(mask, size, (xy - centre) * 0.8 + centre).verdict in ("doubtful", "wrong")
