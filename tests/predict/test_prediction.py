"""Predictions: what is checked, what an AnnData of one says, and that scanpy and squidpy draw it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import PREDICTED_SPOTS, neighbour_table, tiny_prediction

from mclstexp.config import Normalisation
from mclstexp.errors import InputError
from mclstexp.predict.evidence import NEIGHBOUR_SCHEMA
from mclstexp.predict.prediction import Prediction, scale_name

N = PREDICTED_SPOTS


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
    assert a.evidence.equals(b.evidence)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"thumbnail": None, "thumbnail_scale": None, "mpp": None},
        {"array_row": None, "array_col": None},
        {"obs": {}, "var": {}},
        {"sd": None},
        {"lower": np.zeros((N, 4)), "upper": np.ones((N, 4))},
        {"evidence": NEIGHBOUR_SCHEMA.empty_table()},
        {"settings": {"scale": "log1p(CPM)", "nested": {"a": {"b": [None, True]}}}},
    ],
    ids=["full", "no image", "no grid", "bare", "no spread", "interval", "no neighbours", "nested"],
)
def test_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    prediction = tiny_prediction(**changes)
    prediction.save(tmp_path / "p.h5ad")
    assert_same(Prediction.load(tmp_path / "p.h5ad"), prediction)
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
    prediction = tiny_prediction(settings={"scale": "s", **values}, evidence=NEIGHBOUR_SCHEMA.empty_table())
    assert dict(Prediction.from_anndata(prediction.to_anndata()).settings) == dict(prediction.settings)


def test_the_same_prediction_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        tiny_prediction().save(folder / "p.h5ad")
    for file in ("p.h5ad", "p.neighbours.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_anndata_says_what_its_numbers_are(tmp_path: Path) -> None:
    tiny_prediction().save(tmp_path / "p.h5ad")
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
    tiny_prediction(**changes).save(tmp_path / "p.h5ad")
    adata = ad.read_h5ad(tmp_path / "p.h5ad")
    size = {} if image else {"spot_size": 110.0}
    for axes in sc.pl.spatial(adata, color=["CD3E", "similarity"], show=False, **size):
        assert axes.collections
        assert bool(axes.images) == image
    plt.close("all")


def test_squidpy_draws_it(tmp_path: Path) -> None:
    sq = pytest.importorskip("squidpy", reason="squidpy is no dependency; install it to check that it draws")
    from matplotlib import pyplot as plt

    tiny_prediction().save(tmp_path / "p.h5ad")
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
        ({"evidence": neighbour_table(["elsewhere"])}, "unknown spots, e.g. 'elsewhere'"),
        ({"evidence": neighbour_table(["0x0"]).drop(["weight"])}, "lacks the columns weight"),
    ],
)
def test_a_contradictory_prediction_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        tiny_prediction(**changes)


def test_replacing_fields_keeps_the_checks() -> None:
    with pytest.raises(InputError, match="sd of shape"):
        replace(tiny_prediction(), sd=np.zeros((1, 1), dtype=np.float32))


def test_it_says_what_it_is() -> None:
    notes = ["the slide is unlike the reference"]
    prediction = tiny_prediction(settings={"scale": "log1p(CPM)", "notes": notes})
    assert repr(prediction) == "Prediction('S1', 24 spots, 4 genes, log1p(CPM))"
    assert len(prediction) == N
    assert prediction.notes == tuple(notes)
    assert tiny_prediction().notes == ()


def test_adata_is_made_once_and_is_the_prediction() -> None:
    prediction = tiny_prediction()
    assert prediction.adata is prediction.adata
    assert_same(Prediction.from_anndata(prediction.adata, prediction.evidence), prediction)
