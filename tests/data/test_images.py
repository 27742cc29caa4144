"""Images: every way a TIFF can be stored gives the same pixels, and damage gives one line."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mclstexp.data.images import FORMATS, IMAGE_SUFFIXES, open_image
from mclstexp.data.images import pixels as image_module
from mclstexp.data.images.pixels import crop_padded
from mclstexp.data.synthetic.cohort import write_pyramid
from mclstexp.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (310, 421, 3), dtype=np.uint8)


def padded(x, y, w, h, source=RGB):
    out = np.full((h, w, 3), 255, dtype=np.uint8)
    for row in range(max(y, 0), min(y + h, source.shape[0])):
        for col in range(max(x, 0), min(x + w, source.shape[1])):
            out[row - y, col - x] = source[row, col]
    return out


STORAGE = {
    "tiles": {"tile": (64, 64)},
    "tiles_zlib": {"tile": (128, 64), "compression": "zlib", "predictor": True},
    "bigtiff": {"tile": (64, 64), "bigtiff": True},
    "strips": {"rowsperstrip": 7, "compression": "lzw"},
    "one_strip": {},
    "planes": {"tile": (64, 64), "planarconfig": "separate"},
    "big_endian": {"tile": (64, 64), "byteorder": ">"},
}


@pytest.mark.parametrize("name", STORAGE)
def test_every_tiff_storage_gives_the_same_pixels(tmp_path, name):
    path = tmp_path / "a.tif"
    data = np.moveaxis(RGB, 2, 0) if name == "planes" else RGB
    tifffile.imwrite(path, data, photometric="rgb", **STORAGE[name])
    handle = open_image(path)
    assert handle.size_px == (421, 310)
    assert handle.mpp is None
    for region in [(0, 0, 421, 310), (60, 50, 100, 90), (-10, -20, 50, 60), (400, 300, 50, 50), (900, 900, 5, 6)]:
        np.testing.assert_array_equal(handle.read_region(*region), padded(*region))
    handle.close()
    np.testing.assert_array_equal(handle.read_region(3, 4, 5, 6), padded(3, 4, 5, 6))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(x=st.integers(-80, 460), y=st.integers(-80, 350), w=st.integers(1, 60), h=st.integers(1, 60))
def test_region_is_the_padded_slice(tmp_path, x, y, w, h):
    path = tmp_path / "a.tif"
    if not path.exists():
        tifffile.imwrite(path, RGB, photometric="rgb", tile=(64, 64), compression="zlib")
    np.testing.assert_array_equal(open_image(path).read_region(x, y, w, h), padded(x, y, w, h))
    np.testing.assert_array_equal(crop_padded(RGB, x, y, w, h), padded(x, y, w, h))


SMOOTH = np.asarray(Image.fromarray(RGB[:8, :10]).resize((1600, 1200), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("kind", ["pyramid", "flat", "png"])
@pytest.mark.parametrize(
    "box", [(0, 0, 1600, 1200), (400, 300, 512, 512), (1200, 900, 800, 600), (-300, -200, 600, 600)]
)
def test_a_reduced_region_is_the_region_reduced(tmp_path, kind, box):
    path = tmp_path / ("a.png" if kind == "png" else "a.tif")
    if kind == "pyramid":
        write_pyramid(SMOOTH, path, mpp=0.5, tile_px=128)
    elif kind == "flat":
        tifffile.imwrite(path, SMOOTH, photometric="rgb", tile=(128, 128))
    else:
        Image.fromarray(SMOOTH).save(path)
    size = (box[2] // 8, box[3] // 8)
    with open_image(path) as image:
        reduced = image.read_reduced(*box, size)
        whole = image.read_region(*box)
    truth = np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BOX), dtype=float)
    assert reduced.shape == truth.shape
    assert np.abs(reduced - truth).mean() < 6


def test_jpeg_tiles_decode_like_tifffile(tmp_path):
    path = tmp_path / "a.svs"
    smooth = np.asarray(Image.fromarray(RGB[:64, :64]).resize((421, 310), Image.Resampling.BICUBIC))
    tifffile.imwrite(path, smooth, photometric="rgb", tile=(64, 64), compression="jpeg")
    np.testing.assert_array_equal(open_image(path).read_region(0, 0, 421, 310), tifffile.imread(path))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_raster_equals_pillow(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RGB).save(path)
    expected = np.asarray(Image.open(path))
    handle = open_image(path)
    assert handle.size_px == (421, 310)
    np.testing.assert_array_equal(handle.read_region(-3, 5, 50, 40), padded(-3, 5, 50, 40, expected))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_modes_become_rgb(tmp_path, suffix):
    grey = RGB[..., 0]
    alpha = np.where(np.arange(421) < 200, 255, 0).astype(np.uint8) * np.ones((310, 1), dtype=np.uint8)
    rgba = np.dstack([RGB, alpha])
    path = tmp_path / f"a{suffix}"
    for values, expected in [
        (grey, np.dstack([grey] * 3)),
        (rgba, np.where(alpha[..., None] == 255, RGB, 255)),
        (grey.astype(np.uint16) * 256 + 17, np.dstack([grey] * 3)),
    ]:
        Image.fromarray(values).save(path)
        np.testing.assert_array_equal(open_image(path).read_region(0, 0, 421, 310), expected)


def test_ome_planes_stored_as_pages_are_one_rgb_image(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.moveaxis(RGB, 2, 0), photometric="minisblack", tile=(64, 64), metadata={"axes": "CYX"})
    np.testing.assert_array_equal(open_image(path).read_region(0, 0, 421, 310), RGB)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_orientation_is_not_applied_and_that_is_said(tmp_path, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, RGB, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(RGB).save(path, exif=exif)
    image = open_image(path)
    assert image.size_px == (421, 310)
    assert [note[:35] for note in image.notes] == ["the image's orientation tag (6) is "] * (orientation == 6)


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"rubbish"]
)
def test_damaged_exif_is_no_reason_to_refuse_an_image(tmp_path, exif):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif)
    image = open_image(tmp_path / "a.jpg")
    assert (image.size_px, image.notes) == ((421, 310), ())


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_a_handle_closes_itself_opens_again_and_says_what_it_is(tmp_path, name):
    path = tmp_path / name
    if name == "a.tif":
        tifffile.imwrite(path, RGB, photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    else:
        Image.fromarray(RGB).save(path, dpi=(50_800, 50_800))
    with open_image(str(path)) as image:
        before = image.read_region(0, 0, 5, 5)
    np.testing.assert_array_equal(image.read_region(0, 0, 5, 5), before)
    assert image.path == path
    assert repr(image) == f"{type(image).__name__}({str(path)!r}, 421x310 px at 0.5 um)"
    Image.fromarray(RGB).save(tmp_path / "b.png")
    assert repr(open_image(tmp_path / "b.png")).endswith("b.png', 421x310 px of unknown pixel size)")


def test_every_format_is_asked_in_order_and_the_last_takes_what_is_left(tmp_path):
    tiff = b"II*\0"
    kinds = [
        next(kind.__name__ for kind in FORMATS if kind.opens(Path(name), magic))
        for name, magic in [("a.tif", tiff), ("a", tiff), ("a.jpg", b"\xff\xd8"), ("a.mrxs", b""), ("a.bmp", b"BM")]
    ]
    assert kinds == ["TiffImage", "TiffImage", "RasterImage", "OpenSlideImage", "RasterImage"]
    assert FORMATS[-1].opens(Path("whatever"), b"")
    assert {".tif", ".svs", ".jpg", ".png"} <= set(IMAGE_SUFFIXES)


RESOLUTIONS = [
    ({"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, 0.5),
    ({"resolution": (101_600, 101_600), "resolutionunit": "INCH"}, 0.25),
    ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
    ({"resolution": (20_000, 20_000), "resolutionunit": "NONE"}, None),
    ({"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}, None),
    ({"description": "Aperio Image Library v1\n|AppMag = 40|MPP = 0.2520|", "metadata": None}, 0.252),
    ({"description": "Aperio |MPP = 0.0000|", "metadata": None}, None),
    ({"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 0.325, "PhysicalSizeY": 0.325}}, 0.325),
    ({"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 325.0, "PhysicalSizeXUnit": "nm",
                                "PhysicalSizeY": 325.0, "PhysicalSizeYUnit": "nm"}}, 0.325),
]  # fmt: skip


@pytest.mark.parametrize(("kwargs", "mpp"), RESOLUTIONS)
def test_pixel_size_is_read_when_plausible(tmp_path, kwargs, mpp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", **kwargs)
    found = open_image(path).mpp
    assert found == (None if mpp is None else pytest.approx(mpp, rel=1e-6))


@pytest.mark.parametrize(("dpi", "mpp"), [(98, None), (50_800, 0.5)])
def test_jpeg_dpi(tmp_path, dpi, mpp):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, dpi=(dpi, dpi))
    assert open_image(path).mpp == mpp


@pytest.mark.parametrize("name", ["a.jpg", "plain.tif", "subifds.tif", "pages.tif"])
def test_thumbnail_looks_like_the_image(tmp_path, name):
    base = np.asarray(Image.fromarray(RGB[:8, :10]).resize((1000, 800), Image.Resampling.BICUBIC))
    path = tmp_path / name
    if name == "a.jpg":
        Image.fromarray(base).save(path, quality=95)
    else:
        levels = [np.asarray(Image.fromarray(base).reduce(2**i)) for i in range(4)]
        with tifffile.TiffWriter(path) as tif:
            options = {"photometric": "rgb", "tile": (64, 64)}
            if name == "subifds.tif":
                tif.write(levels[0], subifds=3, **options)
                for level in levels[1:]:
                    tif.write(level, subfiletype=1, **options)
            else:
                for level in levels if name == "pages.tif" else levels[:1]:
                    tif.write(level, metadata=None, **options)
    handle = open_image(path)
    assert handle.size_px == (1000, 800)
    thumbnail = handle.thumbnail(100)
    assert thumbnail.shape == (80, 100, 3)
    expected = np.asarray(Image.fromarray(base).resize((100, 80), Image.Resampling.BOX)).astype(int)
    assert np.abs(thumbnail - expected).mean() < 4
    handle.read_region(0, 0, 10, 10)
    np.testing.assert_array_equal(handle.thumbnail(100), thumbnail)  # whatever was decoded before
    assert handle.thumbnail(5000).shape == (800, 1000, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_truncated_image_is_refused_by_name(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, RGB, photometric="rgb", tile=(64, 64), compression="zlib")
    else:
        Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"cut\.") as caught:
        open_image(path).read_region(0, 0, 421, 310)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_tiff_gives_pixels_or_an_input_error(tmp_path, data):
    path = tmp_path / "a.tif"
    if not (tmp_path / "good").exists():
        tifffile.imwrite(tmp_path / "good", RGB[:100, :100], photometric="rgb", tile=(32, 32), compression="zlib")
    raw = bytearray((tmp_path / "good").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(4, min(len(raw), 600) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    message = ""
    try:
        shape = open_image(path).read_region(0, 0, 20, 20).shape
    except InputError as error:
        shape, message = (20, 20, 3), str(error)
    assert shape == (20, 20, 3)
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"hello", b"II*\0", b"II*\0\x08\0\0\0", b"\x89PNG\r\n", b"\xff\xd8\xff\xd9"])
@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_rubbish_is_no_image(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\."):
        open_image(path)


def test_what_cannot_be_read_says_so(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="does not exist"):
        open_image(tmp_path / "none.tif")
    tifffile.imwrite(tmp_path / "five.tif", np.zeros((64, 64, 5), dtype=np.uint8), planarconfig="contig")
    with pytest.raises(InputError, match="5 channels"):
        open_image(tmp_path / "five.tif")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((64, 64, 3), dtype=np.float32), photometric="rgb")
    with pytest.raises(InputError, match="float32"):
        open_image(tmp_path / "float.tif").read_region(0, 0, 2, 2)
    Path(tmp_path / "a.mrxs").write_bytes(b"whatever it is")
    with pytest.raises(InputError, match=r"OpenSlide|openslide"):
        open_image(tmp_path / "a.mrxs")
    Image.fromarray(RGB).save(tmp_path / "large.jpg")
    monkeypatch.setattr(image_module, "MAX_DECODED_BYTES", 1000)
    with pytest.raises(InputError, match="vips tiffsave"):
        open_image(tmp_path / "large.jpg").read_region(0, 0, 2, 2)


def test_opening_decodes_nothing(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF  # the pixels are damaged, the header is not
    path.write_bytes(raw)
    handle = open_image(path)
    assert handle.size_px == (421, 310)
    with pytest.raises(InputError, match="damaged"):
        handle.read_region(0, 0, 4, 4)
