"""Named sets of genes: the built-in lists, and files."""

import json

import pytest

from mclstexp.data.genes.sets import KNOWN_GENES, read_gene_sets
from mclstexp.errors import InputError


def test_built_in_sets_are_disjoint_and_free_of_doubles():
    cancer, immune = KNOWN_GENES["cancer"], KNOWN_GENES["immune"]
    assert len(set(cancer)) == len(cancer)
    assert len(set(immune)) == len(immune)
    assert not set(cancer) & set(immune)


def test_gene_sets_are_read_from_json_and_gmt(tmp_path):
    as_json, as_gmt = tmp_path / "sets.json", tmp_path / "sets.gmt"
    as_json.write_text(json.dumps({"T cells": ["CD3E", "CD3D", "CD3E"]}))
    as_gmt.write_text("T cells\thttp://x\tCD3E\tCD3D\n\n")
    assert read_gene_sets(as_json) == read_gene_sets(as_gmt) == {"T cells": ("CD3E", "CD3D")}


@pytest.mark.parametrize(
    "text", ["", "{}", '{"a": []}', '{"a": "CD3E"}', "[1]", "{broken", "a\tb", "a\tx\tG\na\tx\tH", "\ufeff"]
)
def test_rubbish_gene_sets_are_refused(tmp_path, text):
    path = tmp_path / "sets"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_gene_sets(path)
    assert "\n" not in str(error.value)


def test_absent_gene_sets_are_refused(tmp_path):
    with pytest.raises(InputError, match="do not exist"):
        read_gene_sets(tmp_path / "none")
