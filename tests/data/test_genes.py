"""Gene lists, panels, and the one place where counts become expression."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import counts_for, expression_for, normalise
from mclstexp.data.genes.lists import parse_genes, read_gene_list
from mclstexp.data.genes.panel import panel_from_names, select_panel
from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide, SpotTable

RNG = np.random.default_rng(0)


def slide_of(name, genes, counts):
    n = np.arange(len(counts))
    panel = genes if isinstance(genes, GenePanel) else GenePanel(tuple(genes))
    spots = SpotTable(n.astype(str), np.stack([n, n], 1), n, n, counts=sparse.csr_matrix(counts), genes=panel)
    return Slide(name, "p", "c", spots)


# --- lists -----------------------------------------------------------------------------------------------------------

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


# --- panels ----------------------------------------------------------------------------------------------------------


def simulated(name, genes, seed, n=60):
    """Counts in which the genes called V... vary between two halves of the slide, and the others do not."""
    rng = np.random.default_rng(seed)
    half = np.arange(n) < n // 2
    rate = np.stack([np.where(half, 1, 12) if gene.startswith("V") else np.full(n, 6.0) for gene in genes], axis=1)
    return slide_of(name, genes, rng.poisson(rate))


def test_selected_genes_are_the_ones_that_vary():
    names = [f"V{i}" for i in range(5)] + [f"F{i}" for i in range(40)]
    slides = [simulated("a", names, 1), simulated("b", names[::-1], 2), simulated("c", [*names, "Vonly_c"], 3)]
    panel = select_panel(slides, n_top=5)
    assert panel.symbols == ("V0", "V1", "V2", "V3", "V4")
    assert select_panel(slides[::-1], n_top=5) == panel
    assert select_panel(slides[:1], n_top=5) == panel
    assert len(select_panel(slides, n_top=1000)) == 45


def test_genes_seen_in_too_few_spots_are_not_chosen():
    counts = RNG.poisson(5, (100, 4))
    counts[:, 3] = 0
    counts[0, 3] = 50
    slide = slide_of("a", ["A", "B", "C", "RARE"], counts)
    assert select_panel([slide], n_top=10).symbols == ("A", "B", "C")
    assert "RARE" in select_panel([slide], n_top=10, min_share=0.0).symbols


def test_selection_needs_genes_in_common():
    a, b = slide_of("a", ["A", "B"], [[1, 1]] * 5), slide_of("b", ["C", "D"], [[1, 1]] * 5)
    with pytest.raises(InputError, match="No gene in common"):
        select_panel([a, b])
    with pytest.raises(InputError, match="there is none"):
        select_panel([])
    with pytest.raises(InputError, match="two are needed"):
        select_panel([slide_of("z", ["A", "B"], [[0, 0]] * 5)])
    spots = SpotTable(np.array(["0"]), np.zeros((1, 2)), np.zeros(1), np.zeros(1))
    with pytest.raises(InputError, match="Slide q has no counts"):
        select_panel([Slide("q", "", "", spots)])


WITH_IDS = GenePanel(("ERBB2", "CD3E", "ACTB"), ("ENSG01.7", "ENSG02", "ENSG03.1"))


def test_names_may_be_symbols_or_ids_of_any_version():
    slides = [slide_of("a", WITH_IDS, [[1, 2, 3]]), slide_of("b", ["ERBB2", "OTHER"], [[1, 2]])]
    panel, notes = panel_from_names(["ENSG02.99", "ERBB2", "ENSG01", "NOPE", "OTHER"], slides)
    assert panel.symbols == ("CD3E", "ERBB2", "OTHER")
    assert panel.ensembl == ("ENSG02", "ENSG01.7", "")
    assert any("1 repeated" in note and "ERBB2" in note for note in notes)
    assert any("1 of 5 genes were measured on no slide" in note and "NOPE" in note for note in notes)
    assert any("2 genes were not measured on every slide: CD3E, OTHER" in note for note in notes)
    with pytest.raises(InputError, match=r"No gene in common: none of the 1 names \(such as 'NOPE'\)"):
        panel_from_names(["NOPE"], slides)


def test_clean_names_give_no_notes():
    panel, notes = panel_from_names(["ACTB", "ERBB2"], [slide_of("a", WITH_IDS, [[1, 2, 3]])])
    assert (panel.symbols, notes) == (("ACTB", "ERBB2"), [])


def test_symbols_with_a_dot_are_not_stripped():
    slide = slide_of("a", ["FO538757.1", "FO538757"], [[1, 2]])
    assert panel_from_names(["FO538757.1"], [slide])[0].symbols == ("FO538757.1",)


def test_slides_whose_symbols_are_ensembl_ids():
    slide = slide_of("a", ["ENSG01.2", "ENSG02.1"], [[1, 2]])
    assert panel_from_names(["ENSG02"], [slide])[0].symbols == ("ENSG02.1",)


def test_counts_align_by_symbol_then_by_id():
    spots = slide_of(
        "a", GenePanel(("OLD_NAME", "ACTB", "X"), ("ENSG02.4", "ENSG03", "")), [[1, 2, 3], [4, 5, 6]]
    ).spots
    counts, measured = counts_for(spots, WITH_IDS)
    assert counts.dtype == np.float32
    assert counts.tolist() == [[0, 1, 2], [0, 4, 5]]
    assert measured.tolist() == [False, True, True]
    with pytest.raises(InputError, match="No gene in common"):
        counts_for(spots, GenePanel(("NOPE",)))


# --- expression ------------------------------------------------------------------------------------------------------

COUNTS = hnp.arrays(np.int64, (5, 4), elements=st.integers(0, 1000))


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, target=st.sampled_from([1e4, 1e6]), log=st.sampled_from(["natural", "log10"]))
def test_normalisation_is_the_formula(counts, target, log):
    function = np.log if log == "natural" else np.log10
    expression = normalise(counts, counts.sum(axis=1), Normalisation(target_sum=target, log=log))
    assert expression.dtype == np.float32
    for row, values in zip(counts, expression, strict=True):
        total = row.sum()
        expected = [function(1 + c / total * target) if total else 0.0 for c in row]
        np.testing.assert_allclose(values, expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(counts=COUNTS)
def test_total_is_over_the_panel_or_over_everything(counts):
    spots = slide_of("a", ["A", "B", "C", "D"], counts).spots
    panel = GenePanel(("C", "A", "UNMEASURED"))
    chosen = counts[:, [2, 0]]
    for total, totals in [("panel", chosen.sum(axis=1)), ("all", counts.sum(axis=1))]:
        scale = Normalisation(total=total)
        expression, measured = expression_for(spots, panel, scale)
        assert measured.tolist() == [True, True, False]
        np.testing.assert_allclose(expression[:, :2], normalise(chosen, totals, scale), rtol=1e-6)
        assert (expression[:, 2] == 0).all()
        assert np.isfinite(expression).all()


def test_json_round_trip_of_the_panel_file(tmp_path):
    path = tmp_path / "var_50genes.json"
    path.write_text(json.dumps({"genes": ["A", "B"]}))
    pd.DataFrame({"gene": ["A", "B"]}).to_csv(tmp_path / "g.csv", index=False)
    assert read_gene_list(path) == read_gene_list(tmp_path / "g.csv")
