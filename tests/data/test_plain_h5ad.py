"""An ``.h5ad`` read without anndata is what anndata reads, or is left to anndata."""

from datetime import UTC, datetime
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from mclstexp.data.anndata_file import write_h5ad
from mclstexp.data.plain_h5ad import PlainH5ad, read_plain, write_plain


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


def facts(path: Path) -> dict[str, object]:
    """Everything in an HDF5 file: names, attributes, types, how it is packed, values."""
    listed: dict[str, object] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        about = sorted((key, str(value)) for key, value in item.attrs.items())
        is_array = isinstance(item, h5py.Dataset)
        kind = (str(item.dtype), h5py.check_string_dtype(item.dtype), item.shape) if is_array else None
        packed = (item.chunks, item.compression, item.compression_opts) if is_array else None
        listed[name] = (about, kind, packed, str(np.asarray(item[()]).tolist()) if is_array else None)

    with h5py.File(path) as file:
        note("/", file)
        file.visititems(note)
    return listed


def test_it_writes_what_anndata_writes(tmp_path: Path) -> None:
    whole = adata()
    whole.obs["n"], whole.uns["more"] = [1, 2, 3], {"mask": np.eye(4, dtype=np.uint8), "names": np.array(["a", "é"])}
    whole.obsm["embedding"] = np.zeros((3, 4), np.float32)
    write_h5ad(whole, tmp_path / "theirs.h5ad")
    parts = PlainH5ad(whole.X, whole.obs, whole.var, dict(whole.layers), dict(whole.obsm), dict(whole.uns))
    for name in ("ours", "again"):
        write_plain(parts, tmp_path / f"{name}.h5ad")
    assert facts(tmp_path / "ours.h5ad") == facts(tmp_path / "theirs.h5ad")
    assert (tmp_path / "ours.h5ad").read_bytes() == (tmp_path / "again.h5ad").read_bytes()
    with pytest.raises(TypeError, match="when is datetime"):
        write_plain(PlainH5ad(whole.X, whole.obs, whole.var, {}, {}, {"when": datetime.now(UTC)}), tmp_path / "b.h5ad")


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
