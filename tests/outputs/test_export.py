"""Files that `export` writes: by suffix, opened by their own readers, whole or not there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import spatialdata
from PIL import Image
from worlds import PREDICTED_SPOTS, tiny_prediction

import mclstexp
from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.outputs.export import export, format_of
from mclstexp.predict.prediction import Prediction

R_READS = {"anndata", "array", "dataframe", "dict", "numeric-scalar", "string", "string-array"}
"""Encodings of dense files that anndataR and zellkonverter have known since their first releases."""


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    settings = {**tiny_prediction().settings, "patch": {"size_px": 64, "mpp": None, "scale": 1.0}}
    return tiny_prediction(settings=settings)


def encodings(path: Path) -> set[str]:
    found: set[str] = set()
    with h5py.File(path) as file:
        found.add(file.attrs["encoding-type"])
        file.visititems(lambda _, item: found.add(item.attrs["encoding-type"]))
    return found


@pytest.mark.parametrize("fancy", [False, True])
def test_an_h5ad_that_r_reads(prediction: Prediction, tmp_path: Path, fancy: bool) -> None:
    """Categories and pandas' own strings are written plainly; so is what a query saves."""
    obs: dict[str, Any] = {"cluster": pd.Categorical(["a", "b"] * 12), "text": pd.array(["x"] * 24, dtype="string")}
    path = export(tiny_prediction(obs=obs if fancy else {}), tmp_path / "p.h5ad", genes=["CD3E"])
    prediction.save(tmp_path / "q.h5ad")
    assert encodings(path) <= R_READS
    assert encodings(tmp_path / "q.h5ad") <= R_READS
    adata = scanpy.read_h5ad(path)
    np.testing.assert_array_equal(adata.X, prediction.mean[:, [1]])
    assert not fancy or adata.obs["cluster"].astype(str).tolist() == ["a", "b"] * 12


def test_tables(prediction: Prediction, tmp_path: Path) -> None:
    prediction.save(tmp_path / "p.h5ad")
    written = export(tmp_path / "p.h5ad", tmp_path / "p.csv", genes=["CD3E"], layers=["mean", "sd"])
    by_csv = pd.read_csv(written, index_col="spot")
    by_parquet = pd.read_parquet(export(prediction, tmp_path / "p.parquet")).set_index("spot")
    assert by_csv.index.tolist() == by_parquet.index.tolist() == prediction.spot_ids.tolist()
    np.testing.assert_allclose(by_csv["CD3E"], prediction.mean[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(by_parquet["CD3E"], prediction.mean[:, 1])
    assert by_parquet["XIST"].isna().all()


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_with_the_slides_own_image(prediction: Prediction, tmp_path: Path) -> None:
    """Written a block at a time, as a pyramid, and the very pixels; drawn by spatialdata-plot."""
    import matplotlib.pyplot as plt
    import spatialdata_plot  # noqa: F401

    pixels = np.random.default_rng(0).integers(0, 255, (1000, 1143, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    path = export(prediction, tmp_path / "p.zarr", image=tmp_path / "s.png")
    sdata = spatialdata.read_zarr(path)
    full = sdata.images["S1_full_image"]
    levels = [level["image"].shape for level in full.values()]
    assert levels[:2] == [(3, 1000, 1143), (3, 500, 571)]
    np.testing.assert_array_equal(np.moveaxis(np.asarray(full["scale0"]["image"]), 0, 2), pixels)
    assert sdata.tables["table"].n_obs == PREDICTED_SPOTS
    axes = plt.figure().add_subplot()
    sdata.pl.render_images("S1_lowres_image").pl.render_shapes("S1", color="CD3E").pl.show(
        coordinate_systems="S1", ax=axes
    )
    assert axes.get_xlim() == pytest.approx((0, 800 / 0.7), rel=0.01)
    plt.close("all")
    export(prediction, path, force=True, format="wsidata")
    assert set(spatialdata.read_zarr(path).shapes) == {"tiles"}


def test_another_image_is_refused(prediction: Prediction, tmp_path: Path) -> None:
    for size, says in (((400, 300), "spots lie up to"), ((1000, 1600), "the predicted slide about 1143 x 1000")):
        Image.new("RGB", size).save(tmp_path / "s.png")
        with pytest.raises(InputError, match=says):
            export(prediction, tmp_path / "p.zarr", image=tmp_path / "s.png")
    assert not (tmp_path / "p.zarr").exists()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("p.xlsx", {}, r"'p.xlsx' ends in none of .zarr, .geojson, .csv, .parquet, .h5ad"),
        ("p.csv", {"format": "geojson"}, "ends as csv, but the format is geojson"),
        ("p.csv", {"format": "excel"}, "no format 'excel'; one of spatialdata"),
        ("p.h5ad", {"layers": ["sd"]}, "--layers is of use for csv, parquet, geojson only, not for h5ad"),
        ("p.csv", {"image": "s.png"}, "--image is of use for spatialdata, wsidata only, not for csv"),
        ("p.csv", {"object_type": "tile"}, "--object-type is of use for geojson only"),
        ("p.csv", {"genes": ["NOPE"]}, "Gene 'NOPE' is not in the prediction"),
        ("no/p.csv", {}, "does not exist"),
    ],
)
def test_refusals_leave_nothing(
    prediction: Prediction, tmp_path: Path, name: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        export(prediction, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.geojson", "p.h5ad", "p.zarr"])
def test_what_is_there_stays_without_force(prediction: Prediction, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(ExistsAlreadyError, match="--force"):
        mclstexp.export(prediction, path)
    assert path.read_text() == "mine"
    assert mclstexp.export(prediction, path, genes=["CD3E"], force=True) == path
    assert path.is_dir() == (name == "p.zarr")


@pytest.mark.parametrize("name", ["p.csv", "p.geojson"])
def test_an_interrupted_export_leaves_what_was_there(
    prediction: Prediction, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_text("mine")

    def interrupted(self: Path, target: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(prediction, path, genes=["CD3E"], force=True)
    monkeypatch.undo()
    assert [left.name for left in tmp_path.iterdir()] == [name]
    assert path.read_text() == "mine"


def test_an_interrupted_store_leaves_what_was_there(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.zarr").write_text("mine")

    def interrupted(self: spatialdata.SpatialData, path: Path) -> None:
        path.mkdir()
        (path / "zarr.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(spatialdata.SpatialData, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(prediction, tmp_path / "p.zarr", force=True)
    assert [left.name for left in tmp_path.iterdir()] == ["p.zarr"]
    assert (tmp_path / "p.zarr").read_text() == "mine"


def test_a_format_may_be_named_where_the_suffix_says_nothing() -> None:
    assert format_of(Path("a.json"), "geojson") == "geojson"
    assert format_of(Path("a.ZARR")) == "spatialdata"
    assert format_of(Path("a.zarr"), "wsidata") == "wsidata"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from mclstexp.data.anndata_file import large_h5ad
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (500, 1_000_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with large_h5ad(Path(sys.argv[1])) as file:
            for i in range(20):
                file[f"part{i}"] = np.random.default_rng(i).integers(0, 255, 20_000)
    except OSError as error:
        sys.stdout.write(f"{error.errno} ")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits need a POSIX system")
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    """HDF5 ends the process when a write fails as it closes; it is not told."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.h5ad")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "27 27 "), done.stderr[-2000:]


def test_a_large_h5ad_is_one_that_anndata_reads(tmp_path: Path) -> None:
    from mclstexp.data.anndata_file import large_h5ad, write_plainly

    adata = ad.AnnData(np.ones((3, 2), np.float32))
    with large_h5ad(tmp_path / "a.h5ad") as file:
        write_plainly(file, adata)
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "a.h5ad").X, adata.X)
