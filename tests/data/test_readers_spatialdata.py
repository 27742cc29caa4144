"""SpatialData stores: the table, the shapes that it annotates, their way to the image, and what can be wrong."""

import shutil
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from layouts import COL, COUNTS, GENES, ROW, XY, N, fails

from mclstexp.data.readers import read_slides

sd = pytest.importorskip("spatialdata")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of spots and a store of two sizes of bins, written once."""
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, Identity, Scale

    root = tmp_path_factory.mktemp("stores")

    def table(shapes, **obs):
        frame = {"region": pd.Categorical([shapes] * N), "instance_id": np.arange(N), "array_row": ROW, **obs}
        frame["array_col"] = 2 * COL + ROW % 2
        counts = ad.AnnData(COUNTS.astype(np.float32), obs=pd.DataFrame(frame, index=[f"b{i}" for i in range(N)]))
        counts.var_names, counts.var["gene_ids"] = GENES, [f"ENSG{i:011}" for i in range(len(GENES))]
        return TableModel.parse(counts, region=shapes, region_key="region", instance_key="instance_id")

    def image(size, transformation):
        pixels = np.full((3, *size), 200, dtype=np.uint8)
        return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"global": transformation})

    def shapes(transformation):
        return ShapesModel.parse(XY, geometry=0, radius=5, transformations={"global": transformation})

    # both in um: the image's pixel is half a um, moved by 10; the shapes are given in units of 0.25 um
    moved = Affine([[0.5, 0, 10], [0, 0.5, 20], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    off = [int(i != 2) for i in range(N)]
    sd.SpatialData(
        images={"he": image((300, 400), moved), "small": image((30, 40), Identity())},
        shapes={"spots": shapes(Scale([0.25, 0.25], axes=("x", "y")))},
        tables={"table": table("spots", in_tissue=off)},
    ).write(root / "S1.zarr")
    sd.SpatialData(
        shapes={f"HD_square_{size:03}um": shapes(Identity()) for size in (8, 16)},
        tables={f"square_{size:03}um": table(f"HD_square_{size:03}um") for size in (8, 16)},
    ).write(root / "HD.zarr")
    return root


def _copy(stores, name, tmp_path):
    return Path(shutil.copytree(stores / name, tmp_path / name))


def test_spots_on_the_pixels_of_the_image(stores, tmp_path):
    _copy(stores, "S1.zarr", tmp_path)
    (slide,) = read_slides(tmp_path)
    kept = [i for i in range(N) if i != 2]
    assert (slide.slide_id, slide.layout) == ("S1", "spatialdata")
    assert (slide.image.size_px, slide.image.read_region(0, 0, 2, 2).max()) == ((400, 300), 200)
    np.testing.assert_allclose(slide.spots.xy_px, (XY[kept] * 0.25 - [10, 20]) / 0.5)
    np.testing.assert_array_equal(slide.spots.counts.toarray(), COUNTS[kept])
    assert slide.spots.genes.symbols == tuple(GENES)
    assert slide.spots.genes.ensembl[1] == "ENSG00000000001"
    assert "1 of 12 spots are off the tissue or have no shape and were dropped." in slide.notes


def test_bins_of_the_size_that_was_chosen(stores):
    assert [read_slides(stores / "HD.zarr", bin_um=size)[0].pitch_um for size in (8, 16)] == [8, 16]
    (slide,) = read_slides(stores / "HD.zarr")
    assert (slide.pitch_um, slide.image, len(slide)) == (16, None, N)
    np.testing.assert_allclose(slide.spots.xy_px, XY)
    fails(stores / "HD.zarr", r"no bins of 2 um \(--bin-um\); it has 8, 16", bin_um=2)


def test_without_the_package_the_line_names_the_extra(stores, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    fails(stores / "S1.zarr", r'reading one needs pip install "mclstexp\[spatialdata\]"')


def test_stores_that_are_wrong_are_one_line(stores, tmp_path):
    store = _copy(stores, "S1.zarr", tmp_path)
    for part in sorted((store / "tables").rglob("c/0")):
        if part.is_file():
            part.write_bytes(b"rubbish")
    fails(tmp_path, "S1.zarr is damaged")
    shutil.rmtree(store / "shapes" / "spots")
    fails(tmp_path, "shapes/spots does not exist")
    shutil.rmtree(store)
    shutil.rmtree(_copy(stores, "S1.zarr", tmp_path) / "tables")
    fails(tmp_path, "tables/table does not exist")
