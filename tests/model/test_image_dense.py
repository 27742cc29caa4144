"""Tissue encoded tile by tile: cells pool as maps do, windows as patches do, and a spot depends on its place alone."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mclstexp.config import EncoderSpec, PatchSpec
from mclstexp.data.images import open_image
from mclstexp.errors import InputError
from mclstexp.model.image.backbone import Backbone
from mclstexp.model.image.cells import Cells, Pool, Windows, reduce_map
from mclstexp.model.image.dense import CORE, _between, check_dense, passes
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.features import FeatureCache, missing, slide_features
from mclstexp.model.image.pooling import covariance, mean_std
from mclstexp.slide import Slide, SpotTable


class Pixelwise(nn.Module):
    """A backbone whose maps at a place depend on that place alone: patches and tiles cannot differ."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        torch.manual_seed(0)
        self.stem, self.body = nn.Conv2d(3, 6, 4, stride=4), nn.Conv2d(6, 5, 8, stride=8)

    def forward_intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.stem(x).relu()
        last = self.body(first)
        return last, [first, last]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.mean(dim=(2, 3))


def encoder(**changes: Any) -> ImageEncoder:
    spec = EncoderSpec("pixelwise", pooling="covariance", last_layer=True, **changes)
    return ImageEncoder(spec, [Backbone(spec, Pixelwise())])


def slide_with(folder: Path, xy: np.ndarray, side: int = 1500) -> Slide:
    path = folder / "slide.png"
    if not path.exists():
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    ids, numbers = [f"s{i}" for i in range(len(xy))], np.arange(len(xy))
    return Slide("s", "", "", SpotTable(ids, xy, numbers, numbers), image=open_image(path))


@pytest.mark.parametrize(("kind", "whole"), [("covariance", covariance), ("deviation", mean_std)])
@pytest.mark.parametrize("channels", [3, 70])
def test_cells_pool_as_the_map_does(kind: str, whole: Any, channels: int) -> None:
    values = torch.randn(1, channels, 40, 40, generator=torch.Generator().manual_seed(0)) + 5
    pool = Pool(kind, channels)
    cells = reduce_map(values, pool, 1, 8)  # four values along a cell, one cell left out around
    window = Windows.of(np.array([[3.0, 4.0]]), 4.0, (0, 0), (8, 8))
    part = values[:, :, (1 + 2) * 4 : (1 + 6) * 4, (1 + 1) * 4 : (1 + 5) * 4]
    got, expected = window.pool(cells, pool), whole(part).numpy()
    assert got.shape == (1, pool.width)
    tolerance = 2e-3 if kind == "covariance" else 1e-5  # a root of what float32 leaves of 25 + 1 - 25
    np.testing.assert_allclose(got, expected, atol=tolerance)


def test_a_window_between_cells_weighs_them_by_area() -> None:
    mean = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    pool, cells = Pool("mean", 1), Cells(mean, mean[..., :0])
    got = Windows.of(np.array([[1.25, 2.0]]), 1.0, (0, 0), (4, 4)).pool(cells, pool)
    columns, rows = np.array([0.25, 0.75]), np.array([0.5, 0.5])  # 0.75..1.75 covers a quarter of cell 0
    assert got[0, 0] == pytest.approx(float(rows @ mean[1:3, 0:2, 0] @ columns))
    blank = Cells(np.full((4, 4, 3), 7.7, np.float32), np.zeros((4, 4, 6), np.float32))
    assert (
        np.abs(Windows.of(np.array([[1.3, 1.9]]), 1.5, (0, 0), (4, 4)).pool(blank, Pool("covariance", 3))).max() < 1e-3
    )


def test_a_backbone_without_borders_gives_the_same_either_way(tmp_path: Path) -> None:
    """Fields of view whose edges are cells' edges, over several tiles, at the image's corner and beyond its border."""
    cells = np.array([[1, 1], [2, 3], [20, 20], [19, 21], [21, 40], [40, 20], [44, 44], [46, 46]])
    slide, patch = slide_with(tmp_path, cells * 32.0), PatchSpec(size_px=128, mpp=None)
    alone, dense = (slide_features(slide, encoder(scales=(1.0, 2.0), dense=on), patch) for on in (False, True))
    n = dense.shape[1] // 2
    np.testing.assert_allclose(dense[:, :n], alone[:, :n], atol=2e-3)
    even = (cells % 2 == 0).all(axis=1)  # there the edges of the wider fields of view are cells' edges, too
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(dense[even, n:], alone[even, n:], strict=True)]
    assert min(correlation) > 0.998, "they differ by the resampling of a tile and of a patch"


def test_a_spot_depends_on_its_place_alone(tmp_path: Path) -> None:
    xy = np.random.default_rng(1).uniform(40, 1460, (60, 2))
    slide, patch, cache = slide_with(tmp_path, xy), PatchSpec(size_px=96, mpp=None), FeatureCache(tmp_path / "cache")
    dense = encoder(scales=(0.5, 1.0), dense=True)
    steps: list[tuple[int, int]] = []
    whole = slide_features(slide, dense, patch, on_progress=lambda _, done, total: steps.append((done, total)))
    assert steps[-1] == (9, 9), "1,500 px are three tiles of 640 across"
    rows = np.array([5, 3, 50])
    np.testing.assert_array_equal(slide_features(slide.take(rows), dense, patch, cache=cache), whole[rows])
    assert missing(slide, dense, patch, cache)[0][1] > 0
    np.testing.assert_array_equal(slide_features(slide, dense, patch, cache=cache), whole)
    assert missing(slide, dense, patch, cache)[0][1] == 0
    other = slide_features(slide, encoder(scales=(0.5, 1.0)), patch, cache=cache)
    assert not np.array_equal(other, whole), "the cache tells the two ways apart"


@pytest.mark.parametrize(("name", "why"), [("test_vit", "attention"), ("test_efficientnet", "squeezeexcite")])
def test_an_encoder_that_sees_all_at_once_is_refused(name: str, why: str) -> None:
    spec = EncoderSpec(name, pooling="covariance", dense=True)
    with pytest.raises(InputError, match=f"tile by tile: it has [a-z0-9]*{why}"):
        check_dense(ImageEncoder.create(spec, "random").members[0])
    with pytest.raises(InputError, match=r"encoder\.views is 2; 1 \(where encoder\.dense"):
        dataclasses.replace(spec, views=2)


def test_convolutional_encoders_qualify() -> None:
    for name in ("test_resnet", "tf_efficientnet_lite0"):
        check_dense(ImageEncoder.create(EncoderSpec(name, pooling="covariance", last_layer=True), "random").members[0])


def test_narrow_fields_of_view_come_from_the_pass_of_the_patch() -> None:
    assert passes((0.25, 0.5, 1.0, 1.5, 4.0)) == {1.0: [0.25, 0.5, 1.0], 1.5: [1.5], 4.0: [4.0]}
    assert passes((0.5,)) == {1.0: [0.5]}
    assert passes((2.0, 0.5)) == {2.0: [2.0, 0.5]}


@pytest.mark.parametrize("side", [3.5, 7.0, 14.0])
def test_tiles_are_those_that_windows_have_a_part_of(side: float) -> None:
    rng = np.random.default_rng(0)
    centres = np.concatenate([rng.uniform(10, 90, (40, 2)), rng.integers(10, 90, (40, 2)) + 0.5 * (side % 2)])
    low = np.floor(centres - side / 2).astype(np.int64) // CORE
    high = (np.ceil(centres + side / 2).astype(np.int64) - 1) // CORE
    tiles = np.arange(6)
    expected = {
        (int(row), int(column))
        for x, y in centres
        for row in tiles[(y + side / 2 > tiles * CORE) & (y - side / 2 < (tiles + 1) * CORE)]
        for column in tiles[(x + side / 2 > tiles * CORE) & (x - side / 2 < (tiles + 1) * CORE)]
    }
    assert _between(low, high) == sorted(expected)
