"""Predictions: what is checked, what is written, what comes back, and that scanpy and squidpy draw it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer import Typer
from typer.testing import CliRunner

from mclstexp.config import Normalisation
from mclstexp.data.anndata_file import read_anndata
from mclstexp.errors import ExistsAlreadyError, InputError, StorageError
from mclstexp.panel import GenePanel
from mclstexp.predict.evidence import NEIGHBOUR_SCHEMA, neighbours_of, neighbours_path
from mclstexp.predict.prediction import Prediction, load_prediction, scale_name
from mclstexp.settings import to_dict

N, K = 24, 3


def neighbour_table(spots: list[str], k: int = K) -> pa.Table:
    rows = [
        {
            "query_spot": spot,
            "rank": rank,
            "row_id": 1000 + rank,
            "cohort": "c",
            "patient": "p",
            "slide": "s",
            "spot_id": f"r{rank}",
            "array_row": rank,
            "array_col": 2 * rank,
            "x_px": 10.0 * rank,
            "y_px": 20.0 * rank,
            "similarity": 1.0 / rank,
            "weight": 1.0 / k,
        }
        for spot in spots
        for rank in range(k, 0, -1)  # deliberately the least similar first
    ]
    return pa.Table.from_pylist(rows, schema=NEIGHBOUR_SCHEMA)


def make(**changes: Any) -> Prediction:
    rng = np.random.default_rng(7)
    side = int(np.ceil(np.sqrt(N)))
    row, col = np.divmod(np.arange(N), side)
    mean = rng.random((N, 4)).astype(np.float32)
    mean[2, 0], mean[:, 3] = np.nan, np.nan
    spots = [f"{r}x{c}" for r, c in zip(row, col, strict=True)]
    values: dict[str, Any] = {
        "slide_id": "S1",
        "spot_ids": spots,
        "xy_px": np.stack([100.0 + 200 * col, 100.0 + 200 * row], axis=1),
        "genes": GenePanel(("ERBB2", "CD3E", "EPCAM", "XIST"), ("ENSG00000141736", "", "", "")),
        "mean": mean,
        "sd": 0.1 * mean,
        "settings": {
            "normalisation": to_dict(Normalisation()),
            "model": "abc",
            "k": 200,
            "none": None,
            "list": [1, "a"],
        },
        "spot_diameter_px": 110.0,
        "array_row": row,
        "array_col": col,
        "obs": {"similarity": rng.random(N), "note": ["x"] * N},
        "var": {"missing_reason": ["", "", "", "no reference measured it"], "reliability": [0.5, 0.4, 0.3, np.nan]},
        "neighbours": neighbour_table(spots),
        "thumbnail": rng.integers(0, 255, (700, 800, 3), dtype=np.uint8),
        "thumbnail_scale": 0.7,
        "mpp": 0.5,
    }
    return Prediction(**{**values, **changes})


def assert_same(a: Prediction, b: Prediction) -> None:
    assert (a.slide_id, a.genes, a.genes.ensembl, a.scale) == (b.slide_id, b.genes, b.genes.ensembl, b.scale)
    assert (a.spot_diameter_px, a.thumbnail_scale, a.mpp) == (b.spot_diameter_px, b.thumbnail_scale, b.mpp)
    assert dict(a.settings) == dict(b.settings)
    for name in ("spot_ids", "xy_px", "mean", "sd", "lower", "upper", "array_row", "array_col", "thumbnail"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=name)
    for mine, theirs in ((a.obs, b.obs), (a.var, b.var)):
        assert list(mine) == list(theirs)
        for name in mine:
            left, right = np.asarray(mine[name]), np.asarray(theirs[name])
            np.testing.assert_array_equal(left.astype(str), right.astype(str), err_msg=name)
            assert (left.dtype.kind == "f") == (right.dtype.kind == "f"), name
    assert a.neighbours.equals(b.neighbours)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"thumbnail": None, "thumbnail_scale": None, "mpp": None},
        {"array_row": None, "array_col": None},
        {"obs": {}, "var": {}},
        {"sd": None},
        {"lower": np.zeros((N, 4)), "upper": np.ones((N, 4))},
        {"neighbours": NEIGHBOUR_SCHEMA.empty_table()},
        {"settings": {"scale": "log1p(CPM)", "nested": {"a": {"b": [None, True]}}}},
    ],
    ids=["full", "no image", "no grid", "bare", "no spread", "interval", "no neighbours", "nested"],
)
def test_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    prediction = make(**changes)
    prediction.save(tmp_path / "p.h5ad")
    assert_same(load_prediction(tmp_path / "p.h5ad"), prediction)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.h5ad", "p.neighbours.parquet"]


@settings(deadline=None, max_examples=40)
@given(
    values=st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=9),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=5,
    )
)
def test_any_json_settings_survive(values: dict[str, Any]) -> None:
    prediction = make(settings={"scale": "s", **values}, neighbours=NEIGHBOUR_SCHEMA.empty_table())
    assert dict(Prediction.from_anndata(prediction.to_anndata()).settings) == dict(prediction.settings)


def test_the_same_prediction_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        make().save(folder / "p.h5ad")
    for file in ("p.h5ad", "p.neighbours.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_anndata_says_what_its_numbers_are(tmp_path: Path) -> None:
    make().save(tmp_path / "p.h5ad")
    adata = ad.read_h5ad(tmp_path / "p.h5ad")
    assert adata.uns["mclstexp"]["scale"] == "log1p(counts per 10,000 of the panel)"
    assert adata.uns["mclstexp"]["model"] == "abc"
    assert json.loads(adata.uns["mclstexp"]["settings"])["list"] == [1, "a"]
    assert adata.X.dtype == np.float32
    assert list(adata.var["gene_ids"]) == ["ENSG00000141736", "", "", ""]
    assert np.isnan(adata["0x2", "ERBB2"].X).all()
    spatial = adata.uns["spatial"]["S1"]
    assert spatial["images"]["hires"].shape == (700, 800, 3)
    assert spatial["images"]["lowres"].shape == (525, 600, 3)
    assert spatial["scalefactors"]["tissue_lowres_scalef"] == pytest.approx(0.7 * 600 / 800)
    assert spatial["scalefactors"]["spot_diameter_fullres"] == 110.0


@pytest.mark.parametrize(
    ("normalisation", "name"),
    [
        (Normalisation(), "log1p(counts per 10,000 of the panel)"),
        (Normalisation(1e6, "all", "natural"), "log1p(counts per 1,000,000 of all genes)"),
        (Normalisation(1e4, "panel", "log10"), "log10(1 + counts per 10,000 of the panel)"),
    ],
)
def test_scale_names(normalisation: Normalisation, name: str) -> None:
    assert scale_name(normalisation) == name


@pytest.mark.parametrize("image", [True, False])
def test_scanpy_draws_it(tmp_path: Path, image: bool) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import scanpy as sc
    from matplotlib import pyplot as plt

    changes: dict[str, Any] = {} if image else {"thumbnail": None, "thumbnail_scale": None}
    make(**changes).save(tmp_path / "p.h5ad")
    adata = ad.read_h5ad(tmp_path / "p.h5ad")
    size = {} if image else {"spot_size": 110.0}
    for axes in sc.pl.spatial(adata, color=["CD3E", "similarity"], show=False, **size):
        assert axes.collections
        assert bool(axes.images) == image
    plt.close("all")


def test_squidpy_draws_it(tmp_path: Path) -> None:
    sq = pytest.importorskip("squidpy", reason="squidpy is no dependency; install it to check that it draws")
    from matplotlib import pyplot as plt

    make().save(tmp_path / "p.h5ad")
    adata = ad.read_h5ad(tmp_path / "p.h5ad")
    sq.pl.spatial_scatter(adata, color=["CD3E", "similarity"])
    panels = [axes for axes in plt.gcf().axes if axes.images and axes.collections]
    assert len(panels) == 2
    plt.close("all")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mean": np.zeros((N, 3))}, "mean of shape"),
        ({"upper": np.zeros((N - 1, 4))}, "upper of shape"),
        ({"xy_px": np.zeros((N, 3))}, "coordinates of shape"),
        ({"obs": {"similarity": np.zeros(3)}}, "3 values of similarity"),
        ({"var": {"reliability": [1.0]}}, "1 values of reliability"),
        ({"array_row": np.zeros(2)}, "2 values of array_row"),
        ({"spot_ids": ["a"] * N}, "more than once"),
        ({"thumbnail_scale": None}, "go together"),
        ({"thumbnail": np.zeros((5, 5, 3))}, "uint8"),
        ({"slide_id": ""}, "name of its slide"),
        ({"slide_id": "a/b"}, "name of its slide"),
        ({"settings": {"model": "abc"}}, "scale or its normalisation"),
        ({"settings": {"scale": "s", "k": np.int64(3)}}, "JSON"),
        ({"neighbours": neighbour_table(["elsewhere"])}, "unknown spots, e.g. 'elsewhere'"),
        ({"neighbours": neighbour_table(["0x0"]).drop(["weight"])}, "lacks the columns weight"),
    ],
)
def test_a_contradictory_prediction_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make(**changes)


def test_an_existing_output_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "p.h5ad"
    neighbours_path(path).write_text("mine")
    with pytest.raises(ExistsAlreadyError, match="--force"):
        make().save(path)
    assert neighbours_path(path).read_text() == "mine"
    assert not path.exists()
    make().save(path, force=True)
    before = path.read_bytes()
    with pytest.raises(ExistsAlreadyError, match="--force"):
        make(slide_id="S2").save(path)
    assert path.read_bytes() == before
    make(slide_id="S2").save(path, force=True)
    assert load_prediction(path).slide_id == "S2"


@pytest.mark.parametrize(("name", "says"), [("no/p.h5ad", "does not exist"), ("p.txt", "is an .h5ad file")])
def test_a_bad_output_name(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_prediction import make
from mclstexp.data.anndata_file import read_anndata
from mclstexp.errors import StorageError
prediction, folder = make(), Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (500, 3_000, 60_000, 400_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        prediction.save(folder / "p.h5ad")
    except StorageError as error:
        left = [path.name for path in folder.iterdir()]
        sys.stdout.write(f"{error} {left}\\n")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits need a POSIX system")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses to write past a size: in each of the two files, and at several places.

    In a process of its own, because HDF5 is known to end it when a write fails as the file is closed.
    """
    command = [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"Cannot write {tmp_path / 'p.h5ad'}: File too large. []"] * 4, done.stderr


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make().save(tmp_path / "p.h5ad")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "p.h5ad"
    make().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(InputError, match=r"not a readable \.h5ad"):
        load_prediction(path)


def test_damage_inside_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.h5ad"
    make().save(path)
    beside = neighbours_path(path)
    table = beside.read_bytes()
    beside.write_bytes(table[:-9])
    with pytest.raises(InputError, match="not a readable Parquet"):
        load_prediction(path)
    beside.unlink()
    with pytest.raises(InputError, match="is missing"):
        load_prediction(path)
    pq.write_table(pa.table({"a": [1]}), beside)
    with pytest.raises(InputError, match="not a table of neighbours"):
        load_prediction(path)
    pq.write_table(neighbour_table(["0x0"]), beside)
    with pytest.raises(InputError, match="not of the same run"):
        load_prediction(path)


def test_other_h5ad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.h5ad"
    make().save(path)
    ad.AnnData(np.zeros((2, 2), dtype=np.float32)).write_h5ad(path)
    with pytest.raises(InputError, match="not a prediction"):
        load_prediction(path)
    adata = make().to_anndata()
    adata.uns["mclstexp"]["format_version"] = 99
    adata.write_h5ad(path)
    with pytest.raises(InputError, match="format version 99, this program reads 1"):
        load_prediction(path)
    with pytest.raises(InputError, match="does not exist"):
        load_prediction(tmp_path / "absent.h5ad")
    (tmp_path / "text.h5ad").write_text("spot,gene\n")
    with pytest.raises(InputError, match=r"not a readable \.h5ad"):
        read_anndata(tmp_path / "text.h5ad")


def test_neighbours_of_a_spot(tmp_path: Path) -> None:
    path = tmp_path / "p.h5ad"
    make().save(path)
    found = neighbours_of(path, "1x2")
    assert found["rank"].to_pylist() == [1, 2, 3]
    assert set(found["query_spot"].to_pylist()) == {"1x2"}
    with pytest.raises(InputError, match=r"no spot 'zzz'; it has 24 spots, for example 0x0, 0x1"):
        neighbours_of(path, "zzz")
    with pytest.raises(InputError, match="mst query writes it"):
        neighbours_of(tmp_path / "absent.h5ad", "1x2")


def test_neighbours_command(tmp_path: Path) -> None:
    from mclstexp.cli.neighbours import neighbours

    path, app = tmp_path / "p.h5ad", Typer()
    app.command()(neighbours)
    make().save(path)
    lines = CliRunner().invoke(app, [str(path), "0x0", "--top", "2"]).stdout.splitlines()
    assert lines[0].split()[:3] == ["rank", "similarity", "weight"]
    assert [line.split()[:2] for line in lines[1:]] == [["1", "1.0000"], ["2", "0.5000"]]
    listed = json.loads(CliRunner().invoke(app, [str(path), "0x0", "--json"]).stdout)
    assert [row["row_id"] for row in listed] == [1001, 1002, 1003]
    assert isinstance(CliRunner().invoke(app, [str(path), "?"]).exception, InputError)


def test_storage_error_names_the_file(tmp_path: Path) -> None:
    """A name that the file system cannot hold."""
    with pytest.raises(StorageError, match="Cannot write"):
        make().save(tmp_path / f"{'n' * 240}.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_replacing_fields_keeps_the_checks() -> None:
    with pytest.raises(InputError, match="sd of shape"):
        replace(make(), sd=np.zeros((1, 1), dtype=np.float32))
