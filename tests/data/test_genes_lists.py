"""Lists of genes as people keep them, and pickles refused."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest

from mclstexp.data.genes.lists import parse_genes, read_gene_list
from mclstexp.errors import InputError

TEXT = {
    "lines": "ERBB2\nCD3E\n\n# comment\n ACTB \n",
    "lines with a heading": "gene\nERBB2\nCD3E\nACTB\n",
    "json list": '["ERBB2", "CD3E", "ACTB"]',
    "json dict": '{"genes": ["ERBB2", "CD3E", "ACTB"], "n": 3}',
    "csv": "rank,gene\n1,ERBB2\n2,CD3E\n3,ACTB\n",
    "csv with an index": ",highly_variable,means\nERBB2,True,1\nX,False,2\nCD3E,True,3\nACTB,True,3\n",
    "tsv with a flag": "symbol\tin_panel\nERBB2\t1\nX\t0\nCD3E\t1\nACTB\t1\n",
    "one line": "ERBB2,CD3E,ACTB\n",
}


@pytest.mark.parametrize("name", TEXT)
def test_gene_lists_as_met(tmp_path, name):
    path = tmp_path / "genes.any"
    path.write_text(TEXT[name])
    assert read_gene_list(path) == ["ERBB2", "CD3E", "ACTB"]
    assert parse_genes(str(path)) == ["ERBB2", "CD3E", "ACTB"]


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_npy_of_text(tmp_path, dtype):
    np.save(tmp_path / "genes.npy", np.array(["ERBB2", "CD3E"], dtype=dtype))
    assert read_gene_list(tmp_path / "genes.npy") == ["ERBB2", "CD3E"]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a gene list was unpickled",))


def test_pickles_are_refused_with_a_way_out(tmp_path):
    np.save(tmp_path / "object.npy", np.array(["ERBB2", Bomb()], dtype=object), allow_pickle=True)
    (tmp_path / "index.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("object.npy", "index.pkl"):
        with pytest.raises(InputError, match=r"never opened.*one a line"):
            read_gene_list(tmp_path / name)


BAD = {
    "empty": (b"", "empty"),
    "blank": (b"\n\n", "empty"),
    "only comments": (b"# nothing\n", "names no gene"),
    "json": (b'{"genes": [1, 2]}', "list of names"),
    "json without genes": (b'{"panel": ["A"]}', "list of names"),
    "broken json": (b'["A",', "valid JSON"),
    "no gene column": (b"a,b\n1,2\n", "none of its columns"),
    "two flags": (b"gene,flag,other\nA,1,0\nB,0,1\n", "several flags"),
    "binary": (b"\0\1\2\3", "not text"),
    "broken npy": (b"\x93NUMPY\x01\x00", "damaged"),
    "npy of numbers": (None, "holds int64"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_gene_lists_are_one_line(tmp_path, name):
    content, match = BAD[name]
    path = tmp_path / "genes.csv"
    if content is None:
        np.save(tmp_path / "n.npy", np.arange(3))
        content = (tmp_path / "n.npy").read_bytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        read_gene_list(path)
    assert "\n" not in str(caught.value)


def test_genes_of_a_command_line():
    assert parse_genes("ERBB2, CD3E,") == ["ERBB2", "CD3E"]
    for text, match in [(" , ", "No gene is named"), ("missing.txt", "does not exist"), ("a/b", "does not exist")]:
        with pytest.raises(InputError, match=match):
            parse_genes(text)
    with pytest.raises(InputError, match="does not exist"):
        read_gene_list("none.txt")


def test_json_round_trip_of_the_panel_file(tmp_path):
    path = tmp_path / "var_50genes.json"
    path.write_text(json.dumps({"genes": ["A", "B"]}))
    pd.DataFrame({"gene": ["A", "B"]}).to_csv(tmp_path / "g.csv", index=False)
    assert read_gene_list(path) == read_gene_list(tmp_path / "g.csv")
