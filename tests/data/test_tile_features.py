"""Tile features of other tools: what TRIDENT and CLAM write is read, anything else is one line."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from mclstexp.data.tile_features import TileFeatures, read_features
from mclstexp.errors import InputError

CORNERS = np.array([[0, 0], [256, 0], [0, 256], [256, 256]])
VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)
TRIDENT = {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20}


def write(path: Path, values: Any = VALUES, corners: Any = CORNERS, about: str = "", **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        if values is not None:
            file["features"] = values
            file["features"].attrs["savetodir"] = about
        if corners is not None:
            file["coords"] = corners
            file["coords"].attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("attributes", "side"),
    [
        (TRIDENT, 512),
        ({name: value for name, value in TRIDENT.items() if name != "patch_size_level0"}, 512),
        ({"patch_size": 256, "patch_level": 0}, 256),
        ({"patch_size": 256, "patch_level": 1, "downsample": np.array([4.0, 4.0])}, 1024),
        ({"patch_size": 256, "patch_level": 0, "custom_downsample": 2}, 512),
    ],
)
def test_the_side_of_a_tile_at_full_resolution(tmp_path: Path, attributes: dict[str, Any], side: float) -> None:
    tiles = read_features(write(tmp_path / "a.h5", **attributes))
    assert tiles.tile_px == side
    slide = tiles.slide(mpp=0.5)
    np.testing.assert_array_equal(slide.spots.xy_px, CORNERS + side / 2)
    assert slide.spots.spot_ids.tolist() == ["0x0", "256x0", "0x256", "256x256"]
    assert (slide.slide_id, slide.mpp, slide.image) == ("a", 0.5, None)
    np.testing.assert_array_equal(tiles.values, VALUES)


@pytest.mark.parametrize("half", [False, True])
def test_the_encoder_is_the_one_that_trident_names_its_folder_by(tmp_path: Path, half: bool) -> None:
    about = "" if half else "/job/20x_256px/features_uni_v1"
    folder = tmp_path / "features_uni_v1" if half else tmp_path
    folder.mkdir(exist_ok=True)
    values = VALUES[None].astype(np.float16) if half else VALUES
    tiles = read_features(write(folder / "a.h5", values, about=about, **TRIDENT))
    assert tiles.encoder == "uni_v1"
    assert tiles.values.dtype == np.float32
    assert read_features(folder / "a.h5", encoder="mine").encoder == "mine"


def test_clams_features_need_the_side(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    with pytest.raises(InputError, match="does not say the size of its tiles; give their side with --tile-px"):
        read_features(path)
    assert read_features(path, tile_px=256).tile_px == 256
    with pytest.raises(InputError, match="does not say"):
        read_features(write(path, patch_size=256, patch_level=2))  # of a level whose size nobody tells


NAN = np.where(VALUES == 4, np.nan, VALUES)


@pytest.mark.parametrize(
    ("values", "corners", "says"),
    [
        (None, CORNERS, "a.h5 has no 'features'; TRIDENT and CLAM write features and coords"),
        (VALUES, None, "a.h5 has no 'coords'"),
        (VALUES[0], CORNERS, "holds one vector of 3 numbers for a slide"),
        (VALUES[:, :0], CORNERS, "features of shape 4 x 0"),
        (VALUES[:0], CORNERS[:0], "features of shape 0 x 3"),
        (VALUES, CORNERS[:2], "4 tiles but coordinates of shape (2, 2)"),
        (VALUES, np.zeros((4, 3)), "4 tiles but coordinates of shape (4, 3)"),
        (NAN, CORNERS, "1 of 4 tiles with NaN or infinite features"),
        (np.array([[b"x"]] * 4), CORNERS, "holds |S1 and int64 as features and coords; numbers are needed"),
    ],
)
def test_rubbish(tmp_path: Path, values: Any, corners: Any, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        read_features(write(tmp_path / "a.h5", values, corners, **TRIDENT))


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + b"\0" * 400])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(InputError, match=r"not a readable \.h5"):
        read_features(tmp_path / "a.h5")
    with pytest.raises(InputError, match="do not exist"):
        read_features(tmp_path / "b.h5")


@pytest.mark.parametrize("keep", [0.2, 0.7, 0.95])
def test_a_truncated_file(tmp_path: Path, keep: float) -> None:
    path = write(tmp_path / "a.h5", np.ones((400, 64), np.float32), np.zeros((400, 2)), **TRIDENT)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(InputError, match=r"not a readable \.h5"):
        read_features(path)


def test_tiles_that_lie_nowhere(tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), (200, 100, 150)).save(tmp_path / "s.png")
    with pytest.raises(InputError, match="outside"):
        TileFeatures(VALUES, CORNERS + 1000, 256).slide(tmp_path / "s.png", mpp=0.5)
    with pytest.raises(InputError, match="4 spots lie at 2 points"):
        TileFeatures(VALUES, CORNERS * [0, 1], 256, name="t").slide(mpp=0.5)
    with pytest.raises(InputError, match="NaN or infinite"):
        TileFeatures(VALUES, np.where(CORNERS == 0, np.nan, CORNERS), 256).slide(mpp=0.5)
    with pytest.raises(InputError, match="tiles of 0 px"):
        TileFeatures(VALUES, CORNERS, 0)
