"""Leica's and Ventana's TIFFs, made here as OpenSlide's documentation has them: no scanner's file was at hand."""

import numpy as np
import pytest
import tifffile

from mclstexp.data.images import open_image
from mclstexp.data.positions.query import read_query
from mclstexp.errors import InputError

TILE = 128
MPP = 0.5
XML_PACKET = 700


def picture(width=512, height=384):
    """Tissue with a ramp in it, so that a place tells its colour."""
    y, x = np.mgrid[:height, :width]
    return np.stack([100 + 100 * x // width, 60 + 60 * y // height, np.full((height, width), 160)], -1).astype(np.uint8)


LEVELS = [picture()[::step, ::step] for step in (1, 2, 4)]
JOINTS = 'FlagJoined="1" Confidence="98" OverlapX="0" OverlapY="0"'


def leica_xml():
    """One macro picture of all the glass, and a scan of its middle; sizes are in nanometres."""
    width, height = (int(1000 * MPP * side) for side in (512, 384))

    def image(pixels, view, objective, first):
        sizes = "".join(
            f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{number}" ifd="{first + number}"/>'
            for number, level in enumerate(pixels)
        )
        return (
            f'<image name="i" uuid="u"><device model="Leica SCN400"/><pixels>{sizes}</pixels><view {view}/>'
            f"<scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>"
            "<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
            "</scanSettings><creationDate>2020-01-01T00:00:00Z</creationDate></image>"
        )

    whole = f'sizeX="{2 * width}" sizeY="{2 * height}" offsetX="0" offsetY="0"'
    middle = f'sizeX="{width}" sizeY="{height}" offsetX="{width // 2}" offsetY="{height // 2}"'
    return (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">'
        f'<collection name="c" uuid="u" sizeX="{2 * width}" sizeY="{2 * height}"><barcode/>'
        f"{image(LEVELS, middle, 20, 0)}{image([picture(64, 48)], whole, 1, len(LEVELS))}</collection></scn>"
    )


def write_scn(path):
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for number, level in enumerate([*LEVELS, picture(64, 48)]):
            tif.write(
                level,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="zlib",
                resolution=(1e4 / MPP / 2**number, 1e4 / MPP / 2**number),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
                description=leica_xml() if number == 0 else None,
            )


def joints(columns, rows):
    """Tiles are numbered from below, from left to right and back."""

    def number(column, row):
        return row * columns + (columns - 1 - column if row % 2 else column) + 1

    right = [(number(c, r), number(c + 1, r), "RIGHT") for r in range(rows) for c in range(columns - 1)]
    up = [(number(c, r), number(c, r + 1), "UP") for r in range(rows - 1) for c in range(columns)]
    return "".join(f'<TileJointInfo Direction="{d}" Tile1="{a}" Tile2="{b}" {JOINTS}/>' for a, b, d in right + up)


def write_bif(path, tile=TILE):
    height, width = LEVELS[0].shape[:2]
    scan = f'<iScan Magnification="20" ScanRes="{MPP}" Z-layers="1" UnitNumber="1"/>'
    columns, rows = width // TILE, height // TILE
    stitched = (
        f'<EncodeInfo><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" Width="{tile}" Height="{tile}" '
        f'NumRows="{rows}" NumCols="{columns}" Pos-X="0" Pos-Y="0">{joints(columns, rows)}</ImageInfo>'
        "</SlideStitchInfo>"
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    pages = [(picture(64, 64), "Label Image", scan)]
    pages += [
        (level, f"level={n} mag={20 / 2**n:g} quality=90", "" if n else stitched) for n, level in enumerate(LEVELS)
    ]
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for pixels, description, xml in pages:
            tif.write(
                pixels,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="zlib",
                metadata=None,
                software=False,
                description=description,
                extratags=[(XML_PACKET, 1, len(xml), xml.encode(), True)] if xml else [],
            )


def test_a_leica_scan_lies_in_the_middle_of_its_glass(tmp_path):
    write_scn(tmp_path / "a.scn")
    with open_image(tmp_path / "a.scn") as image:
        assert (type(image).__name__, image.size_px) == ("OpenSlideImage", (1024, 768))
        assert image.mpp == pytest.approx(MPP)
        np.testing.assert_array_equal(image.read_region(256, 192, 512, 384), LEVELS[0])
        assert (image.read_region(0, 0, 200, 100) == 255).all()  # glass that was not scanned
        assert len(image.levels) == len(LEVELS)


def test_a_ventana_scan_is_put_together_from_its_tiles(tmp_path):
    write_bif(tmp_path / "a.bif")
    with open_image(tmp_path / "a.bif") as image:
        assert (type(image).__name__, image.size_px, image.mpp) == ("OpenSlideImage", (512, 384), MPP)
        np.testing.assert_array_equal(image.read_region(0, 0, 512, 384), LEVELS[0])
        assert len(image.levels) == len(LEVELS)


@pytest.mark.parametrize(("name", "write"), [("a.scn", write_scn), ("a.bif", write_bif)])
def test_a_grid_is_laid_over_them(tmp_path, name, write):
    write(tmp_path / name)
    slide = read_query(tmp_path / name, grid="50um")
    assert (slide.mpp_source, slide.slide_id) == ("file", "a")
    assert len(slide) == pytest.approx(512 * 384 / 100**2, abs=8)
    corner = (256, 192) if name.endswith("scn") else (0, 0)
    assert (slide.spots.xy_px >= corner).all()


def test_tiles_of_another_size_than_the_scan_says_are_refused_in_a_line(tmp_path):
    write_bif(tmp_path / "a.bif", tile=TILE // 2)
    with pytest.raises(InputError, match=r"a\.bif cannot be read by OpenSlide: Tile size mismatch") as caught:
        open_image(tmp_path / "a.bif")
    assert "\n" not in str(caught.value)
