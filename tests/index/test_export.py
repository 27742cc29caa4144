"""Spots of a reference as other programs read them: the counts that were put in, and what is unknown stays so."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import lancedb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scanpy
import squidpy
from commands import command, error_of, usage_of
from references import Library, build_library

from mclstexp.errors import ExistsAlreadyError, InputError, MclstexpWarning
from mclstexp.index.filter import Filter
from mclstexp.index.reference import Reference
from mclstexp.panel import GenePanel


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def reference(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Four slides, and P3_A, of which only the first 25 genes were measured, and one gene more."""
    reference = library.copy(tmp_path_factory.mktemp("own") / "reference")
    slide = library.slides[4]
    counts, genes = slide.require_counts()
    fewer = GenePanel((*genes.symbols[:25], "ALONE"), (*genes.ensembl[:25], ""))
    spots = dataclasses.replace(
        slide.spots, counts=counts[:, :26], genes=fewer, labels=np.array(["tumour"] * len(slide), dtype=np.str_)
    )
    reference.add([dataclasses.replace(slide, spots=spots, cohort="new")])
    return reference


def truth(library: Library, genes: GenePanel) -> pd.DataFrame:
    """Counts by spot and symbol as the slides had them; NaN where a slide did not measure a gene."""
    frames = []
    for number, slide in enumerate(library.slides):
        counts, own = slide.require_counts()
        n = 26 if number == 4 else len(own)
        names = [*own.symbols[:25], "ALONE"] if number == 4 else list(own.symbols)
        index = [f"{slide.slide_id}:{spot}" for spot in slide.spots.spot_ids]
        frames.append(pd.DataFrame(counts[:, :n].toarray(), index=index, columns=names))
    return pd.concat(frames).reindex(columns=list(genes.symbols))


def test_counts_are_those_of_the_slides(library: Library, reference: Reference) -> None:
    with pytest.warns(MclstexpWarning, match="16 of 41 genes were not measured by every slide"):
        adata = reference.to_anndata()
    expected = truth(library, reference.genes).loc[adata.obs_names]
    np.testing.assert_array_equal(adata.X.toarray(), expected.fillna(0))
    measured = adata.varm["measured"][:, adata.obs["gene_list"]].T
    np.testing.assert_array_equal(measured, expected.notna())
    assert adata.obs["slide"].value_counts().to_dict() == dict.fromkeys(["P1_A", "P1_B", "P2_A", "P2_B", "P3_A"], 36)
    assert set(adata.obs.loc[adata.obs["slide"] == "P3_A", "label"]) == {"tumour"}
    assert set(adata.obs.loc[adata.obs["slide"] != "P3_A", "label"]) == {""}
    np.testing.assert_array_equal(adata.obsm["spatial"][:36], library.slides[0].spots.xy_px)
    np.testing.assert_allclose(np.linalg.norm(adata.obsm["embedding"], axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(adata.obs["total_counts"], adata.X.sum(axis=1).A1)


@pytest.mark.filterwarnings("ignore::mclstexp.errors.MclstexpWarning")
def test_files_hold_the_same(reference: Reference, tmp_path: Path) -> None:
    """Written a slide at a time; opened by scanpy and squidpy; encodings that R reads; the same spots as Parquet."""
    whole = reference.to_anndata()
    assert reference.export(tmp_path / "r.h5ad") == 180
    adata = scanpy.read_h5ad(tmp_path / "r.h5ad")
    assert (adata.X != whole.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, whole.obs)
    np.testing.assert_array_equal(adata.obsm["embedding"], whole.obsm["embedding"])
    with h5py.File(tmp_path / "r.h5ad") as file:
        found: set[str] = set()
        file.visititems(lambda _, item: found.add(item.attrs.get("encoding-type", "part of a matrix")))
        assert file["X/indptr"].dtype == np.int64
    known = {"array", "csr_matrix", "dataframe", "dict", "numeric-scalar", "string", "string-array", "part of a matrix"}
    assert found <= known
    scanpy.pp.normalize_total(adata)
    adata.obs["slide"] = adata.obs["slide"].astype("category")
    squidpy.gr.spatial_neighbors(adata, library_key="slide", coord_type="generic", n_neighs=4)
    assert adata.obsp["spatial_connectivities"][:36, 36:].nnz == 0
    reference.export(tmp_path / "r.parquet")
    frame = pd.read_parquet(tmp_path / "r.parquet")
    assert (frame["slide"] + ":" + frame["spot"]).tolist() == whole.obs_names.tolist()
    rows = [dict(zip(row.genes, row.counts, strict=True)) for row in frame.itertuples()]
    again = pd.DataFrame(rows, columns=whole.var_names).fillna(0)
    np.testing.assert_array_equal(again, whole.X.toarray())
    np.testing.assert_array_equal(np.stack(frame["embedding"]), whole.obsm["embedding"])
    assert b"gene_lists" in pq.read_schema(tmp_path / "r.parquet").metadata[b"mclstexp"]


@pytest.mark.filterwarnings("ignore::mclstexp.errors.MclstexpWarning")
def test_some_spots_and_some_genes(library: Library, reference: Reference, tmp_path: Path) -> None:
    some = Filter(exclude_patients=("P1",), where="total_counts > 100")
    genes = [reference.genes.symbols[5], "ALONE"]
    adata = reference.to_anndata(filter=some, genes=genes)
    assert adata.var_names.tolist() == genes
    assert set(adata.obs["patient"]) <= {"P2", "P3"}
    assert (adata.obs["total_counts"] > 100).all()
    expected = truth(library, GenePanel(tuple(genes))).loc[adata.obs_names].fillna(0)
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    assert reference.export(tmp_path / "r.h5ad", filter=some, genes=genes) == adata.n_obs
    assert (ad.read_h5ad(tmp_path / "r.h5ad").X != adata.X).nnz == 0


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("r.csv", {}, "A reference is exported as .h5ad or .parquet, got 'r.csv'"),
        ("r.h5ad", {"genes": ["NOPE"]}, "Gene 'NOPE' was measured by no slide"),
        ("r.parquet", {"filter": Filter(only_cohorts=("nowhere",))}, "no cohort 'nowhere'"),
        ("no/r.h5ad", {}, "does not exist"),
    ],
)
def test_refusals_leave_nothing(
    reference: Reference, tmp_path: Path, name: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        reference.export(tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::mclstexp.errors.MclstexpWarning")
@pytest.mark.parametrize("name", ["r.h5ad", "r.parquet"])
def test_an_interrupted_export_leaves_what_was_there(reference: Reference, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ExistsAlreadyError, match="--force"):
        reference.export(tmp_path / name)

    def interrupted(step: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reference.export(tmp_path / name, force=True, on_progress=interrupted)
    assert [left.name for left in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_lancedb_alone_opens_a_reference(library: Library, reference: Reference) -> None:
    """The sentence of the documentation, with LanceDB's own client."""
    table = lancedb.connect(reference.path).open_table("spots")
    rows = table.search().where("patient = 'P2'").limit(1000).to_pandas()
    assert sorted(set(rows["slide_id"])) == ["P2_A", "P2_B"]
    assert len(rows) == 72
    key = rows["embedding"].iloc[5]
    (nearest,) = table.search(key).where("patient = 'P2'").limit(1).to_list()
    assert (nearest["slide_id"], nearest["spot_id"]) == tuple(rows[["slide_id", "spot_id"]].iloc[5])


def test_the_command(reference: Reference, tmp_path: Path) -> None:
    run, out = command(), tmp_path / "r.parquet"
    done = run("export", "-r", reference.path, "-o", out, "--only-cohort", "new")
    assert done.stdout == f"{out}\n"
    assert "36 spots of Reference(" in done.stderr
    assert set(pd.read_parquet(out)["slide"]) == {"P3_A"}
    assert "needs -o" in usage_of(run("export", "-r", reference.path, ok=False))
    assert "of use for a prediction" in usage_of(run("export", "-o", out, "--layers", "sd", ok=False))
    assert "of use for a reference" in usage_of(run("export", "p.h5ad", "-r", reference.path, ok=False))
    assert "p.h5ad does not exist" in error_of(run("export", tmp_path / "p.h5ad", "-o", tmp_path / "p.csv", ok=False))
