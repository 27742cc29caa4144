"""Texts that people write by hand, with anything in any place: read, or refused in one line.

What was once wrong is kept in ``corpus/``, a folder a kind of file, and read first. ``MST_HOSTILE=all`` draws more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mclstexp.config import ModelConfig, configure
from mclstexp.data.genes.lists import read_gene_list
from mclstexp.data.genes.sets import read_gene_sets
from mclstexp.data.positions.files import parse_coords
from mclstexp.data.readers import inspect_slides
from mclstexp.errors import MclstexpError
from mclstexp.evaluate.folds import read_folds
from mclstexp.index.filter import Filter
from mclstexp.index.store.format import METADATA, read_metadata
from mclstexp.model.folder import read_model
from mclstexp.predict.formats.scanpy import fields_of
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import to_dict
from mclstexp.storage import sha256_file

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = 3000 if os.environ.get("MST_HOSTILE") == "all" else 40

TOKENS = (
    "", ",", "\t", ";", "\n", "\r\n", '"', "'", "\0", "\ufeff", "nan", "NaN", "inf", "-inf", "1e999", "-1", "0",
    "1e308", "99999999999999999999", "0x1", "null", "true", "[]", "{}", "[", "{", "}", "=", ".", "../..", "/", "\\",
    "é", "\u202e", "\ud800", "🧬", "#", "%", "x" * 300, "1.5", "1,5", " ", "id", "x", "y", "in_tissue", "array_row",
    "slide", "counts", "/dev/zero", "~", "$HOME", "-", "--", "=cmd|' /C calc'!A0",
)  # fmt: skip


def read_settings(path: Path) -> object:
    return configure(settings=path.read_text(encoding="utf-8", errors="surrogateescape").split("\n"))


def read_condition(path: Path) -> object:
    return Filter(where=path.read_text(encoding="utf-8", errors="surrogateescape"))


def read_slides_csv(path: Path) -> object:
    return [report.problems for report in inspect_slides(path.rename(path.with_name("slides.csv")))]


def read_model_head(path: Path) -> object:
    """Read a model's folder whose settings are the text; its two hashed files are as the text's hashes say."""
    folder = path.parent / "model"
    folder.mkdir(exist_ok=True)
    save_file({"backbone.x": np.zeros(2, np.float32)}, folder / "weights.safetensors")
    (folder / "genes.tsv").write_text("symbol\tensembl\nERBB2\t\nCD3E\t\n")
    (folder / "history.jsonl").write_text('{"epoch": 1}\n')
    text = path.read_bytes()
    for name in ("weights.safetensors", "genes.tsv"):
        text = text.replace(f"SHA {name}".encode(), sha256_file(folder / name).encode())
    (folder / "config.json").write_bytes(text)
    return read_model(folder)


def read_manifest(path: Path) -> object:
    return read_metadata("reference/", SimpleNamespace(metadata={METADATA: path.read_bytes()}))  # type: ignore[arg-type]


def read_prediction_settings(path: Path) -> object:
    """Read a prediction of one spot and gene whose record is the text."""
    import anndata as ad

    record = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    adata = ad.AnnData(np.ones((1, 1), np.float32), obsm={"spatial": np.ones((1, 2))}, uns={"mclstexp": record})
    adata.var["gene_ids"] = [""]
    return Prediction(**fields_of(adata))


HEAD = {
    "format": "mclstexp-model", "format_version": 1, "digest": "0" * 64,
    "sha256": {name: f"SHA {name}" for name in ("weights.safetensors", "genes.tsv")},
    "config": to_dict(ModelConfig()), "facts": {"slides": []},
}  # fmt: skip
IDENTITY = {"model_digest": "0" * 64, "embed_dim": 7, "genes": "0" * 64, "settings": {}, "panel": ""}
MANIFEST = {"format": "mclstexp-reference", "format_version": 2, "reference_id": "a", "index": "auto",
            "identity": IDENTITY}  # fmt: skip
RECORD = {"format_version": 1, "slide": "S1", "scale": "z", "spot_diameter_px": 20.0, "mpp": 0.5,
          "settings": '{"scale": "z", "notes": ["a"]}'}  # fmt: skip

READERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "coordinates": (parse_coords, "coords.csv", "id,x,y\na,100,100\nb,200,100\nc,100,200\n"),
    "positions": (
        parse_coords,
        "positions.csv",
        "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\nA-1,1,0,0,10,10\nB-1,1,0,2,10,90\n",
    ),
    "genes": (read_gene_list, "genes.txt", "ERBB2\nCD3E\nACTB\n"),
    "genes_csv": (read_gene_list, "genes.csv", "gene,highly_variable\nERBB2,True\nCD3E,False\n"),
    "genes_json": (read_gene_list, "genes.json", '{"genes": ["ERBB2", "CD3E"]}'),
    "gene_sets": (read_gene_sets, "sets.json", '{"a": ["ERBB2"], "b": ["CD3E", "ACTB"]}'),
    "gene_sets_gmt": (read_gene_sets, "sets.gmt", "a\t-\tERBB2\tCD3E\nb\t-\tACTB\n"),
    "folds": (read_folds, "folds.csv", "slide,fold\nA,0\nB,1\n"),
    "folds_json": (read_folds, "folds.json", '{"A": 0, "B": "1"}'),
    "slides": (
        read_slides_csv,
        "table.csv",
        "slide,patient,cohort,counts,image,coords,mpp\nA,P1,X,a.tsv,a.tif,a.csv,0.5\nB,P2,X,b.h5,,,\n",
    ),
    "settings": (read_settings, "settings", "retrieval.k=100\nencoder.scales=[0.5, 1, 2]\noptim.lr=1e-4"),
    "condition": (read_condition, "where", "total_counts > 500 AND patient = 'A;B'"),
    "model": (read_model_head, "config.json", json.dumps(HEAD)),
    "manifest": (read_manifest, "manifest.json", json.dumps(MANIFEST)),
    "prediction": (read_prediction_settings, "record.json", json.dumps(RECORD)),
}
"""Name of a kind of text: what reads it, the file's name, and a whole one."""

changes = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(TOKENS) | st.text(max_size=4), st.integers(0, 12)), max_size=4
)


def changed(text: str, edits: list[tuple[float, str, int]]) -> bytes:
    """Return the text with tokens put in place of what was there."""
    for place, token, length in edits:
        start = round(place * len(text))
        text = text[:start] + token + text[start + length :]
    return text.encode("utf-8", errors="surrogatepass")


def read_or_refuse(kind: str, data: bytes) -> None:
    """Read a text; anything but an error of one line is a failure."""
    read, name, _ = READERS[kind]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / name
        path.write_bytes(data)
        if kind == "prediction":
            try:
                json.loads(data.decode("utf-8", errors="surrogateescape"))
            except (ValueError, RecursionError):
                return  # the record is made of values here: what is none cannot be in it
        said = None
        try:
            read(path)
        except MclstexpError as error:
            said = str(error)
    assert said is None or (said and "\n" not in said)


@pytest.mark.parametrize("kind", READERS)
@seed(0)
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(edits=changes)
def test_any_text_is_read_or_refused(kind: str, edits: list[tuple[float, str, int]]) -> None:
    read_or_refuse(kind, changed(READERS[kind][2], edits))


@pytest.mark.parametrize("kind", READERS)
def test_a_whole_text_is_read(kind: str, tmp_path: Path) -> None:
    read, name, text = READERS[kind]
    (tmp_path / name).write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(tmp_path / name)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_once_wrong_is_read_or_refused(path: Path) -> None:
    read_or_refuse(path.parent.name, path.read_bytes())


def test_the_corpus_has_kinds_that_are_read() -> None:
    assert {path.parent.name for path in CORPUS.glob("*/*")} <= set(READERS)
    assert dataclasses.is_dataclass(ModelConfig)
