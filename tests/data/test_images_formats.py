"""The same slide in every format: the same pixels, levels and patches; and what no format may be made to do."""

import io
import json
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from mclstexp.config import PatchSpec
from mclstexp.data.images import ArrayImage, open_image
from mclstexp.data.images import pixels as image_module
from mclstexp.data.images.dicom import is_unconverted, to_rgb
from mclstexp.data.images.tiles import claimed_pixels
from mclstexp.data.patches import read_patch
from mclstexp.data.positions.query import read_query
from mclstexp.data.positions.tissue import tissue_mask
from mclstexp.errors import InputError

SIZE = (700, 500)
_COARSE = np.random.default_rng(4).integers(60, 250, (6, 8, 3), dtype=np.uint8)
RGB = np.asarray(Image.fromarray(_COARSE).resize(SIZE, Image.Resampling.BICUBIC))
LEVELS = [np.asarray(Image.fromarray(RGB).reduce(2**i)) for i in range(3)]
MPP = 0.25
APERIO = f"Aperio Image Library v1\r\n{SIZE[0]}x{SIZE[1]} (64x64)|AppMag = 40|MPP = {MPP}|"


def write_svs(path, **options):
    with tifffile.TiffWriter(path) as tif:
        for level in LEVELS:
            text = APERIO if level is RGB or level.shape == RGB.shape else APERIO.replace("(64x64)", "-> (64x64)")
            tif.write(level, photometric="rgb", tile=(64, 64), metadata=None, description=text, **options)


def write_ome_tiff(path):
    with tifffile.TiffWriter(path, ome=True) as tif:
        metadata = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
        tif.write(LEVELS[0], subifds=2, photometric="rgb", tile=(64, 64), metadata=metadata)
        for level in LEVELS[1:]:
            tif.write(level, subfiletype=1, photometric="rgb", tile=(64, 64))


def write_ome_zarr(path, *, axes="cyx", version="0.4", unit="micrometer", chunk=(128, 96), levels=LEVELS):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for number, level in enumerate(levels):
        values = level.transpose(["yxc".index(axis) for axis in axes if axis in "yxc"])
        values = values.reshape([1 if axis in "tz" else values.shape[[a for a in axes if a in "yxc"].index(axis)]
                                 for axis in axes])  # fmt: skip
        chunks = tuple({"y": chunk[0], "x": chunk[1]}.get(axis, 1) for axis in axes)
        array = group.create_array(str(number), shape=values.shape, chunks=chunks, dtype=values.dtype)
        array[:] = values
        scale = [MPP * 2**number if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"y": {"type": "space", "unit": unit}, "x": {"type": "space", "unit": unit}, "z": {"type": "space"}}
    named = [{"name": axis, **kinds.get(axis, {"type": "channel" if axis == "c" else "time"})} for axis in axes]
    image = {"multiscales": [{"axes": named, "datasets": datasets, "version": version}]}
    group.attrs.update(image if version == "0.4" else {"ome": image | {"version": version}})


def write(folder, name):
    path = folder / name
    if name.endswith(".svs"):
        write_svs(path)
    elif name.endswith(".ome.tif"):
        write_ome_tiff(path)
    elif name.endswith(".zarr"):
        layout = {
            "a.zarr": ("cyx", "0.4"),
            "b.zarr": ("tczyx", "0.4"),
            "c.zarr": ("cyx", "0.5"),
            "d.zarr": ("yxc", "0.5"),
        }
        write_ome_zarr(path, axes=layout[name][0], version=layout[name][1])
    elif name.endswith(".tif"):
        with tifffile.TiffWriter(path) as tif:
            for number, level in enumerate(LEVELS):
                resolution = (1e4 / MPP / 2**number,) * 2
                options = {"resolution": resolution, "resolutionunit": "CENTIMETER", "metadata": None}
                tif.write(level, photometric="rgb", tile=(64, 64), compression="zlib", **options)
    else:
        Image.fromarray(RGB).save(path, dpi=(25_400 / MPP, 25_400 / MPP))
    return open_image(path)


ZARR = {"a.zarr": ("cyx", "0.4"), "b.zarr": ("tczyx", "0.4"), "c.zarr": ("cyx", "0.5"), "d.zarr": ("yxc", "0.5")}
NAMES = ["a.png", "a.tif", "a.ome.tif", "a.svs", "a.zarr", "b.zarr", "c.zarr", "d.zarr"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    return {name: write(folder, name) for name in NAMES} | {"array": ArrayImage(RGB, mpp=MPP, name="array")}


@pytest.mark.parametrize("name", [*NAMES, "array"])
def test_the_same_slide_in_every_format(images, name):
    image = images[name]
    assert image.size_px == SIZE
    assert image.mpp == pytest.approx(MPP, rel=1e-4)
    for box in [(0, 0, *SIZE), (100, 90, 200, 150), (-20, -30, 60, 60), (690, 480, 40, 40), (2000, 0, 5, 5)]:
        np.testing.assert_array_equal(image.read_region(*box), images["a.png"].read_region(*box))
    # Of a flat file and of a pyramid, a patch at the level's own size and one between levels look alike.
    for mpp in (0.25, 0.4, 0.5, 1.0):
        spec = PatchSpec(size_px=64, mpp=mpp)
        patch = read_patch(image, np.array([333.3, 251.7]), spec, MPP).astype(int)
        flat = read_patch(images["a.png"], np.array([333.3, 251.7]), spec, MPP)
        assert np.abs(patch - flat).mean() < 1.5, mpp
    small = np.asarray(Image.fromarray(RGB).resize((70, 50), Image.Resampling.BOX), dtype=int)
    assert np.abs(image.thumbnail(70) - small).mean() < 2
    image.close()
    np.testing.assert_array_equal(image.read_region(5, 6, 7, 8), RGB[6:14, 5:12])


def test_what_is_read_of_a_pyramid_is_what_the_patch_needs(images, monkeypatch):
    """A patch twice as coarse reads a quarter of the pixels; level 0 is read only where nothing else serves."""
    for name in ("a.tif", "a.ome.tif", "a.svs", "a.zarr"):
        image, reads = images[name], []
        whole = type(image).read_level

        def counted(self, level, x, y, width, height, whole=whole, reads=reads):
            reads.append((level, width * height))
            return whole(self, level, x, y, width, height)

        monkeypatch.setattr(type(image), "read_level", counted)
        for mpp, expected in ((0.25, 0), (0.4, 0), (0.5, 1), (0.8, 1), (1.0, 2), (4.0, 2)):
            reads.clear()
            span = 64 * mpp / MPP
            read_patch(image, np.array([350.2, 250.1]), PatchSpec(size_px=64, mpp=mpp), MPP)
            ((level, n_px),) = reads
            assert level == expected, (name, mpp)
            assert n_px <= (span / 2**expected + 2) ** 2
        monkeypatch.undo()


def test_levels_that_are_no_power_of_two_and_a_little_too_coarse(tmp_path):
    sizes = [(1201, 800), (600, 400), (300, 200)]  # 1201 / 600 is 2.0017
    levels = [
        np.full((height, width, 3), 90 + 40 * number, dtype=np.uint8) for number, (width, height) in enumerate(sizes)
    ]
    write_ome_zarr(tmp_path / "a.zarr", levels=levels)
    image = open_image(tmp_path / "a.zarr")
    assert image.levels == tuple(sizes)
    assert [image.best_level(step) for step in (0.5, 1.0, 1.9, 2.0, 3.9, 4.0, 50.0)] == [0, 0, 0, 1, 1, 2, 2]


def test_ome_zarr_as_others_write_it(tmp_path):
    writer = pytest.importorskip("ome_zarr.writer")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space", "unit": "micrometer"}]  # fmt: skip
    scales = [[{"type": "scale", "scale": [1, MPP * 2**i, MPP * 2**i]}] for i in range(2)]
    pyramid = [level.transpose(2, 0, 1) for level in LEVELS[:2]]
    writer.write_multiscale(pyramid, group, axes=axes, coordinate_transformations=scales)
    image = open_image(tmp_path / "a.zarr")
    assert (image.mpp, image.levels) == (MPP, ((700, 500), (350, 250)))
    np.testing.assert_array_equal(image.read_region(10, 20, 100, 90), RGB[20:110, 10:110])
    (tmp_path / "raw.zarr").mkdir()
    outer = zarr.open_group(tmp_path / "raw.zarr", mode="w", zarr_format=2)
    outer.attrs["bioformats2raw.layout"] = 3
    write_ome_zarr(tmp_path / "raw.zarr" / "0")
    np.testing.assert_array_equal(open_image(tmp_path / "raw.zarr").read_region(1, 2, 30, 40), RGB[2:42, 1:31])


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / ".zattrs").write_text("{}"), "without an OME image"),
        (lambda folder: (folder / ".zattrs").write_text("{"), "damaged"),
        (lambda folder: (folder / ".zattrs").write_text(json.dumps({"multiscales": [{"datasets": []}]})), "damaged"),
        (lambda folder: (folder / "0" / ".zarray").unlink(), "damaged"),
        (lambda folder: (folder / "0" / "0.0.0").write_bytes(b"x"), "damaged"),
    ],
)
def test_a_damaged_ome_zarr_gives_one_line(tmp_path, damage, match):
    write_ome_zarr(tmp_path / "a.zarr")
    damage(tmp_path / "a.zarr")
    with pytest.raises(InputError, match=match) as caught:
        open_image(tmp_path / "a.zarr").read_region(0, 0, 200, 200)
    assert "\n" not in str(caught.value)
    assert "a.zarr" in str(caught.value)


def test_an_ome_zarr_that_is_no_picture(tmp_path):
    stack = [np.zeros((40, 50, 5), dtype=np.uint8)]
    write_ome_zarr(tmp_path / "five.zarr", levels=stack)
    with pytest.raises(InputError, match="5 channels"):
        open_image(tmp_path / "five.zarr")
    write_ome_zarr(tmp_path / "um.zarr", unit="pixel")
    assert open_image(tmp_path / "um.zarr").mpp is None


def test_folders_that_are_no_slide(tmp_path):
    with pytest.raises(InputError, match="this is a folder"):
        open_image(tmp_path)
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InputError, match="OpenSlide"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    ("pixels", "match"),
    [
        (np.zeros((3, 50, 60), dtype=np.uint8), "channels last"),
        (np.zeros((50, 60, 3), dtype=np.float32), "float32"),
        (np.zeros(5, dtype=np.uint8), "h x w x 3"),
        (np.zeros((0, 60, 3), dtype=np.uint8), "60 x 0 px"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_arrays_that_are_no_picture(pixels, match):
    with pytest.raises(InputError, match=match):
        ArrayImage(pixels)


def test_a_query_from_python_takes_pixels(tmp_path):
    (tmp_path / "c.csv").write_text("id,x,y\na,100,100\nb,200,100\nc,100,200\nd,200,200\n")
    slide = read_query(ArrayImage(RGB, mpp=0.5, name="mine"), tmp_path / "c.csv", check_tissue=False)
    assert (slide.slide_id, slide.mpp, slide.image.size_px) == ("mine", 0.5, SIZE)
    assert slide.image.digest() == ArrayImage(RGB.copy()).digest() != ArrayImage(RGB[:-1]).digest()


@pytest.mark.parametrize("dpi", [72, 96, 98, 300, 600])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".cm.tif"])
def test_a_screen_or_printer_resolution_is_no_pixel_size(tmp_path, dpi, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix.endswith(".tif"):
        unit = "CENTIMETER" if suffix.startswith(".cm") else "INCH"
        tifffile.imwrite(path, RGB[:40, :40], photometric="rgb", resolution=(dpi, dpi), resolutionunit=unit)
    else:
        Image.fromarray(RGB[:40, :40]).save(path, dpi=(dpi, dpi))
    assert open_image(path).mpp is None


def test_what_would_decode_to_more_than_memory_holds_is_refused_before(tmp_path, monkeypatch):
    """The size that a file claims is what counts: nothing of it is decoded."""

    monkeypatch.setattr(image_module, "MAX_DECODED_BYTES", 2**20)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="not tiled"):
        open_image(tmp_path / "a.png").thumbnail(10)
    group = zarr.open_group(tmp_path / "bomb.zarr", mode="w", zarr_format=2)
    side = 200_000
    group.create_array("0", shape=(3, side, side), chunks=(1, side, side), dtype="uint8")
    group.attrs["multiscales"] = [{"axes": list("cyx"), "datasets": [{"path": "0"}], "version": "0.4"}]
    with pytest.raises(InputError, match=r"200000 x 200000 px and not tiled"):
        open_image(tmp_path / "bomb.zarr")


def bomb(path, payload, compression):
    """Write a TIFF of one tile of 64 x 64 px and put another payload into it."""
    tifffile.imwrite(path, RGB[:64, :64], tile=(64, 64), photometric="rgb", compression=compression)
    end = path.stat().st_size
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["TileByteCounts"].overwrite([len(payload)])
        tif.pages[0].tags["TileOffsets"].overwrite([end])
    with path.open("ab") as file:
        file.write(payload)


def encoded(name, side):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, name)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("compression", "payload", "match"),
    [
        ("jpeg", lambda: encoded("jpeg", 1500), "64 x 64 px and says to hold 2250000"),
        ("jpeg2000", lambda: encoded("jpeg2000", 700), "64 x 64 px and says to hold 490000"),
        ("zlib", lambda: zlib.compress(bytes(2**24)), "damaged or cannot be decoded"),
    ],
)
def test_a_tile_that_decodes_to_more_than_a_tile_is_refused(tmp_path, compression, payload, match):
    bomb(tmp_path / "a.tif", payload(), compression)
    image = open_image(tmp_path / "a.tif")
    tracemalloc.start()
    with pytest.raises(InputError, match=match) as told:
        image.read_region(0, 0, 64, 64)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000"])
def test_a_whole_tile_says_its_size(name):
    data = encoded(name, 200)
    assert claimed_pixels(data) == 40_000
    assert all(claimed_pixels(data[:cut]) in (0, 40_000) for cut in range(0, min(len(data), 300)))
    assert claimed_pixels(zlib.compress(data)) == 0


def test_a_dicom_that_says_rgb_of_ycbcr_frames(tmp_path):
    """What the container says and what a JFIF frame is differ: the frame is right."""
    rgb = np.dstack([RGB[:8, :8], np.full((8, 8), 255, dtype=np.uint8)])
    stored = np.dstack([np.asarray(Image.fromarray(RGB[:8, :8]).convert("YCbCr")), rgb[..., 3]])
    assert np.abs(to_rgb(stored).astype(int) - rgb).max() <= 4
    element = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x10\0\0\0"
    says = {"openslide.vendor": "dicom", "dicom.PhotometricInterpretation": "RGB"}
    for marker, expected in (
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", True),
        (b"\xff\xd8\xff\xee\0\x0eAdobe", False),
        (b"", False),
    ):
        (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + element + marker + b"\0" * 50)
        assert is_unconverted(tmp_path / "a.dcm", says) is expected
    assert not is_unconverted(tmp_path / "a.dcm", says | {"dicom.PhotometricInterpretation": "YBR_FULL_422"})
    assert not is_unconverted(tmp_path / "none", {"openslide.vendor": "aperio"})
    with pytest.raises(InputError, match="YBR_ICT"):
        is_unconverted(tmp_path / "a.dcm", says | {"dicom.PhotometricInterpretation": "YBR_ICT"})


REAL = {
    "CMU-1-Small-Region.svs": ((2220, 2967), 0.499, 1, (0.2, 0.6)),
    "TCGA-CR-7395-no-mpp.svs": ((4443, 3567), None, 2, (0.4, 0.8)),
    "hamamatsu-fluorescence.ndpi": ((3968, 4864), 0.2282, 7, (0.0, 1.0)),
    "kidney-flat-no-mpp.tif": ((1493, 901), None, 1, (0.001, 0.1)),
    "dicom": ((2220, 2967), 0.499, 12, (0.2, 0.6)),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_every_real_slide_is_opened_and_its_tissue_found(shared, name):
    size, mpp, n_levels, (low, high) = REAL[name]
    with open_image(shared / "slides" / name) as image:
        assert (image.size_px, len(image.levels)) == (size, n_levels)
        assert image.mpp == (None if mpp is None else pytest.approx(mpp, abs=1e-3))
        assert low <= tissue_mask(image).mean() <= high
        assert image.read_window(900.5, 500.5, 448, 300, (224, 150)).shape == (150, 224, 3)


@pytest.mark.shared
def test_the_dicom_is_the_slide_that_it_was_made_from(shared):
    box = (500, 500, 600, 600)
    dicom, svs = (open_image(shared / "slides" / name) for name in ("dicom", "CMU-1-Small-Region.svs"))
    ours, theirs = dicom.read_region(*box).astype(int), svs.read_region(*box).astype(int)
    assert np.abs(ours - theirs).mean() < 6  # JPEG over again
    assert np.abs(ours.mean(axis=(0, 1)) - theirs.mean(axis=(0, 1))).max() < 2
    one = open_image(shared / "slides" / "dicom" / "level-3-frames-0-1.dcm")
    assert dicom.digest() == one.digest() != svs.digest()
    assert isinstance(dicom.path, Path)
