"""A gene panel finds a gene by any name that people use for it, and only by those."""

import numpy as np
import pytest

from mclstexp.errors import InputError
from mclstexp.panel import GenePanel

GENES = GenePanel(
    ("ERBB2", "FO538757.1", "FO538757", "ENSG04.2", "ACTB"), ("ENSG01.7", "ENSG02", "ENSG03.1", "", "ENSMUSG05.11")
)

FIND = {
    "a symbol": ("ERBB2", 0),
    "a symbol with a dot": ("FO538757.1", 1),
    "the symbol without it is another gene": ("FO538757", 2),
    "another version of such a symbol": ("FO538757.2", None),
    "an id with its version": ("ENSG01.7", 0),
    "an id without a version": ("ENSG01", 0),
    "an id of another version": ("ENSG02.99", 1),
    "an id that stands as a symbol": ("ENSG04.2", 3),
    "the same without its version": ("ENSG04", 3),
    "an id of another species": ("ENSMUSG05", 4),
    "another case": ("erbb2", None),
    "nothing": ("", None),
    "no gene": ("NOPE", None),
    "a part of an id": ("ENSG0", None),
}


@pytest.mark.parametrize("case", FIND)
def test_find(case):
    name, column = FIND[case]
    assert GENES.find(name) == column


def test_the_first_of_two_genes_with_one_id_wins_and_a_symbol_wins_over_an_id():
    genes = GenePanel(("A", "B", "ENSG01"), ("ENSG01.1", "ENSG01.2", "ENSG09"))
    assert (genes.find("ENSG01"), genes.find("ENSG01.1"), genes.find("ENSG09.3")) == (2, 0, 2)


def test_columns_go_by_symbol_then_by_id():
    other = GenePanel(("ACTB", "OLD_NAME", "NOPE", "FO538757", "ENSG02.5"), ("", "ENSG01.9", "ENSG77", "ENSG01", ""))
    columns = GENES.columns(other)
    assert columns.dtype == np.int64
    assert columns.tolist() == [4, 0, -1, 2, 1]
    assert GENES.columns(GENES).tolist() == [0, 1, 2, 3, 4]
    assert GENES.columns(GenePanel(())).tolist() == []
    assert GenePanel(()).columns(GENES).tolist() == [-1] * 5


def test_near_names():
    genes = GenePanel(("GRB7", "ERBB3", "ERBB2", "ERBB4", "ERBB2IP", "ACTB"))
    assert genes.near("erbb2")[0] == "ERBB2"
    assert genes.near("ErbB2", n=1) == ["ERBB2"]
    assert set(genes.near("ERBB2", n=4)) <= set(genes.symbols)
    assert len(genes.near("erbb", n=2)) == 2
    assert genes.near("zzz") == []
    assert GenePanel(()).near("ERBB2") == []


def test_repr_tells_what_it_is():
    assert repr(GENES) == "GenePanel(5 genes: ERBB2, FO538757.1, FO538757, ...)"
    assert repr(GenePanel(())) == "GenePanel(0 genes)"
    assert repr(GenePanel(tuple(f"G{i}" for i in range(18_000)))).startswith("GenePanel(18,000 genes: G0, ")


def test_a_panel_is_refused_when_it_contradicts_itself():
    with pytest.raises(InputError, match="names 1 genes twice, for example 'A'"):
        GenePanel(("A", "B", "A"))
    with pytest.raises(InputError, match="2 symbols but 1 Ensembl ids"):
        GenePanel(("A", "B"), ("ENSG01",))
