"""An ``.h5ad`` read without anndata is what anndata reads, or is left to anndata."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from mclstexp.data.anndata_file import write_h5ad
from mclstexp.data.plain_h5ad import read_plain


def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"depth": [1.5, 2.5, np.nan], "label": ["a", "", "b"], "on": [True, False, True]}, index=list("xyz")
    )
    uns = {"mclstexp": {"version": 1, "text": "é", "mpp": 0.5, "empty": ""}, "spatial": {"s": {"hires": np.eye(3)}}}
    x = rng.random((3, 2)).astype(np.float32)
    return ad.AnnData(
        x,
        obs=obs,
        var=pd.DataFrame(index=["g", "h"]),
        layers={"sd": x + 1},
        obsm={"spatial": rng.random((3, 2))},
        uns=uns,
    )


def test_it_reads_what_anndata_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    write_h5ad(adata(), path)
    plain, full = read_plain(path), ad.read_h5ad(path)
    assert plain is not None
    for name in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(plain, name), getattr(full, name), check_column_type=False)
    assert plain.uns["mclstexp"] == full.uns["mclstexp"]
    for one, other in (
        (plain.X, full.X),
        (plain.layers["sd"], full.layers["sd"]),
        (plain.obsm["spatial"], full.obsm["spatial"]),
        (plain.uns["spatial"]["s"]["hires"], full.uns["spatial"]["s"]["hires"]),
    ):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("what", ["categories", "cut", "text"])
def test_what_this_program_does_not_write_is_left_to_anndata(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.h5ad"
    if what == "categories":  # as scanpy leaves a prediction that it has saved
        clustered = adata()
        clustered.obs["cluster"] = pd.Categorical(["1", "2", "1"])
        clustered.write_h5ad(path)
        assert ad.read_h5ad(path).obs["cluster"].dtype == "category"
    else:
        write_h5ad(adata(), path)
        path.write_bytes(path.read_bytes()[:-500] if what == "cut" else b"no HDF5")
    assert read_plain(path) is None
