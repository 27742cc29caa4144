"""``mst query``: the prediction, its neighbours, and what may be asked for."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from commands import Run, error_of

from mclstexp.data.synthetic import CohortPaths


def test_the_prediction_is_what_scanpy_users_expect(built: Path, world: CohortPaths) -> None:
    found = ad.read_h5ad(built / "p.h5ad")
    coords = pd.read_csv(world.query_coords)
    assert found.obs_names.tolist() == coords["id"].tolist()
    np.testing.assert_allclose(found.obsm["spatial"], coords[["x", "y"]])
    assert found.shape == (len(coords), 40)
    assert np.isfinite(found.X).all()
    assert found.X.std(axis=0).max() > 0.01
    assert (found.layers["sd"] >= 0).all()
    assert {"similarity", "n_effective", "familiarity"} <= set(found.obs)
    assert found.uns["mclstexp"]["reference_version"] == 1


def test_the_weights_give_the_mean(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    """Ten lines from the paper: the prediction is the neighbours' normalised counts, weighted."""
    mst("query", world.query_image, world.query_coords, "-r", built / "reference", "-o", tmp_path / "p.h5ad", "-k", 7,
        "--weights", "inverse_square")  # fmt: skip
    found = ad.read_h5ad(tmp_path / "p.h5ad")
    table = pq.read_table(tmp_path / "p.neighbours.parquet").to_pandas()
    panel = found.var_names.tolist()
    for spot in found.obs_names[:5]:
        rows = table[table.query_spot == spot]
        expected = np.zeros(len(panel))
        for row in rows.itertuples():
            counts = ad.read_h5ad(world.refs / f"{row.slide}.h5ad")[row.spot_id].to_df()[panel].to_numpy()[0]
            expected += row.weight * np.log1p(counts / counts.sum() * 1e4)
        assert len(rows) == 7
        assert rows.weight.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(found[spot].layers["retrieved"][0], expected, atol=5e-3)


def test_the_same_query_gives_the_same_bytes(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    command = ["query", world.query_image, world.query_coords, "-r", built / "reference", "-o", tmp_path / "p.h5ad"]
    files = ["p.h5ad", "p.neighbours.parquet"]
    mst(*command)
    first = [(tmp_path / name).read_bytes() for name in files]
    mst(*command, "--force")
    assert first == [(tmp_path / name).read_bytes() for name in files]


def test_genes_outside_the_panel_can_be_asked_for(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    common = ["query", world.query_image, world.query_coords, "-r", built / "reference", "--device", "cpu", "-o"]
    mst(*common, tmp_path / "all.h5ad", "--genes", "all")
    mst(*common, tmp_path / "two.h5ad", "--genes", "ERBB2,CD3E")
    every, two = ad.read_h5ad(tmp_path / "all.h5ad"), ad.read_h5ad(tmp_path / "two.h5ad")
    assert every.n_vars == 80
    assert two.var_names.tolist() == ["ERBB2", "CD3E"]
    np.testing.assert_allclose(every[:, ["ERBB2", "CD3E"]].X, two.X, atol=1e-5)
    assert "NOSUCHGENE" in error_of(mst(*common, tmp_path / "none.h5ad", "--genes", "NOSUCHGENE", ok=False))
    assert not (tmp_path / "none.h5ad").exists()


def test_a_patient_left_out_is_no_neighbour(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    mst("query", world.query_image, world.query_coords, "-r", built / "reference", "-o", tmp_path / "p.h5ad",
        "--exclude-patient", "P1", "-k", 5)  # fmt: skip
    table = pq.read_table(tmp_path / "p.neighbours.parquet").to_pandas()
    assert set(table.patient) == {"P2"}
    assert (table.groupby("query_spot").size() == 5).all()


def test_neighbours_and_plot(built: Path, mst: Run, tmp_path: Path) -> None:
    spot = ad.read_h5ad(built / "p.h5ad").obs_names[0]
    listed = json.loads(mst("neighbours", built / "p.h5ad", spot, "--top", 3, "--json").stdout)
    assert len(listed["neighbours"]) == 3
    mst("plot", built / "p.h5ad", "--gene", "ERBB2", "-o", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_cpu_is_taken_where_it_is_asked_for(
    built: Path, world: CohortPaths, mst: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that has a GPU, as far as torch says: whatever asks for another device fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cpu = ("--device", "cpu")
    mst("build-index", world.refs, "--model", built / "model", "-o", tmp_path / "reference", *cpu)
    query = ["query", world.query_image, world.query_coords, "-r", tmp_path / "reference", *cpu]
    mst(*query, "-o", tmp_path / "p.h5ad")
    mst("add", world.refs, tmp_path / "reference", *cpu)
    mst(*query, "-o", tmp_path / "q.h5ad", "--model", built / "model")
