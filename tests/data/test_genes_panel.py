"""Panels: chosen by variability or by name."""

import numpy as np
import pytest
import scanpy
import torch
from scipy import sparse

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


def test_choosing_genes_leaves_the_number_of_threads_alone(monkeypatch):
    """Whoever set OMP_NUM_THREADS means it: numba, started by scanpy, sets OpenMP's number for the whole process."""
    before, choose = torch.get_num_threads(), scanpy.experimental.pp.highly_variable_genes

    def raises_the_number(*args, **options):
        torch.set_num_threads(before + 3)
        return choose(*args, **options)

    monkeypatch.setattr(scanpy.experimental.pp, "highly_variable_genes", raises_the_number)
    names = [f"V{i}" for i in range(5)] + [f"F{i}" for i in range(40)]
    try:
        select_panel([simulated("a", names, 1)], n_top=5)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


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
