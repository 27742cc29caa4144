"""Patches: centred to the pixel, the same field of view whatever the slide's pixel size, white outside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mclstexp.config import PatchSpec
from mclstexp.data.images import open_image
from mclstexp.data.patches import check_inside, iter_patches, read_patch
from mclstexp.errors import InputError
from mclstexp.slide import Slide, SpotTable

RGB = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(RGB).save(path)
    return open_image(path)


def slide_of(image, xy, mpp=0.5, **kwargs):
    xy = np.asarray(xy, dtype=float)
    n = np.arange(len(xy))
    spots = SpotTable(n.astype(str), xy, n, n)
    return Slide("s", "p", "c", spots, image=image, mpp=mpp, mpp_source=mpp and "given", **kwargs)


def test_raw_patch_is_the_slice_around_the_centre(image):
    patch = read_patch(image, np.array([100.0, 80.0]), PatchSpec(size_px=32, mpp=None), None)
    np.testing.assert_array_equal(patch, RGB[64:96, 84:116])
    same_mpp = read_patch(image, np.array([100.0, 80.0]), PatchSpec(size_px=32, mpp=0.5), 0.5)
    np.testing.assert_array_equal(same_mpp, patch)
    shifted = read_patch(image, np.array([100.49, 79.5]), PatchSpec(size_px=32, mpp=None), None)
    np.testing.assert_array_equal(shifted, patch)


@pytest.mark.parametrize("factor", [2, 4])
def test_coarser_patch_averages_the_fine_pixels(factor, tmp_path):
    """A slide whose pixels are enlarged copies has the same patch as the original at its own pixel size."""
    smooth = np.asarray(Image.fromarray(RGB[::40, ::40]).resize((200, 200), Image.Resampling.BICUBIC))
    large = smooth.repeat(factor, axis=0).repeat(factor, axis=1)
    Image.fromarray(smooth).save(tmp_path / "small.png")
    Image.fromarray(large).save(tmp_path / "large.png")
    spec = PatchSpec(size_px=64, mpp=0.5)
    one = read_patch(open_image(tmp_path / "small.png"), np.array([100.0, 90.0]), spec, 0.5)
    other = read_patch(open_image(tmp_path / "large.png"), np.array([100.0, 90.0]) * factor, spec, 0.5 / factor)
    assert np.abs(one.astype(int) - other).mean() < 3


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-50, 450),
    y=st.floats(-50, 350),
    mpp=st.floats(0.1, 3),
    size=st.integers(8, 64),
)
def test_any_patch_has_its_size_and_is_white_far_outside(image, x, y, mpp, size):
    patch = read_patch(image, np.array([x, y]), PatchSpec(size_px=size, mpp=0.5), mpp)
    assert patch.shape == (size, size, 3)
    assert patch.dtype == np.uint8
    span = size * 0.5 / mpp
    if x + span / 2 < 0 or y + span / 2 < 0 or x - span / 2 > 400 or y - span / 2 > 300:
        assert (patch == 255).all()


def test_a_mark_stays_in_the_middle_at_every_scale(tmp_path):
    for mpp in (0.2, 0.37, 0.5, 0.688, 0.917):
        size = round(200 / mpp)
        pixels = np.full((size, size, 3), 255, dtype=np.uint8)
        centre, half = size // 2, max(2, round(5 / mpp))
        pixels[centre - half : centre + half, centre - half : centre + half] = 0
        Image.fromarray(pixels).save(tmp_path / "m.png")
        patch = read_patch(open_image(tmp_path / "m.png"), np.array([centre, centre]), PatchSpec(64, 0.5), mpp)
        dark = 255.0 - patch[..., 0]
        position = np.arange(64) + 0.5
        assert (dark.sum(axis=0) * position).sum() / dark.sum() == pytest.approx(32, abs=0.05)
        assert (dark.sum(axis=1) * position).sum() / dark.sum() == pytest.approx(32, abs=0.05)


def test_iter_patches_is_read_patch_in_order(image):
    xy = np.random.default_rng(2).uniform([0, 0], [400, 300], (11, 2))
    slide, spec = slide_of(image, xy, mpp=0.7), PatchSpec(24, 0.5)
    batches = list(iter_patches(slide, spec, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(batches), [read_patch(image, centre, spec, 0.7) for centre in xy])
    np.testing.assert_array_equal(
        np.concatenate(batches), np.concatenate(list(iter_patches(slide, spec, batch_size=1)))
    )


def test_iter_patches_needs_image_and_pixel_size(image):
    with pytest.raises(InputError, match="no image"):
        next(iter_patches(slide_of(None, [[5, 5]]), PatchSpec(), batch_size=2))
    with pytest.raises(InputError, match="--mpp"):
        next(iter_patches(slide_of(image, [[5, 5]], mpp=None), PatchSpec(), batch_size=2))
    raw = next(iter_patches(slide_of(image, [[5, 5]], mpp=None), PatchSpec(8, None), batch_size=2))
    assert raw.shape == (1, 8, 8, 3)


def test_outside_says_how_many_and_what_may_have_happened(image):
    check_inside(slide_of(image, [[0, 0], [400, 300]]))
    with pytest.raises(InputError, match=r"1 of 2 spots lie outside.*x 5 to 450.*image 400 x 300"):
        check_inside(slide_of(image, [[5, 5], [450, 10]]))
    with pytest.raises(InputError, match="x and y look swapped"):
        check_inside(slide_of(image, [[10, 390], [290, 5]]))
    with pytest.raises(InputError, match=r"at least 10 times as large"):
        check_inside(slide_of(image, [[4000, 100], [100, 3000]]))
    with pytest.raises(InputError, match=r"8 times too large \(tissue_hires_scalef"):
        check_inside(slide_of(image, [[3000, 100], [100, 2000]], extra={"tissue_hires_scalef": "0.125"}))
