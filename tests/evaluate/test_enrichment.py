"""Whether well-predicted genes are rich in known sets, against scipy."""

import numpy as np
import pytest
from scipy import stats

from mclstexp.evaluate.enrichment import enrichment, members
from mclstexp.panel import GenePanel


def test_enrichment_agrees_with_scipy():
    symbols = [f"G{i}" for i in range(40)]
    pcc = np.linspace(0.4, -0.4, 40)
    pcc[39] = np.nan
    known = {"top": [f"G{i}" for i in (0, 1, 2, 30)], "absent": ["X"], "all": symbols}
    top, absent, everything = enrichment(GenePanel(tuple(symbols)), pcc, known)
    assert (top.n_scored, top.n_known, top.n_well, top.n_hits) == (39, 4, 4, 3)
    assert top.fold == pytest.approx((3 / 4) / (4 / 39))
    # one-sided Fisher's exact test is the hypergeometric tail
    assert top.p_hypergeometric == pytest.approx(stats.fisher_exact([[3, 1], [1, 34]], alternative="greater").pvalue)
    inside = np.isin(symbols, known["top"])[:39]
    expected = stats.mannwhitneyu(pcc[:39][inside], pcc[:39][~inside], alternative="greater").pvalue
    assert top.p_mann_whitney == pytest.approx(expected)
    assert (absent.n_known, absent.fold, absent.p_mann_whitney) == (0, None, None)
    assert everything.p_hypergeometric is None


def test_sets_name_genes_by_symbol_or_ensembl_id():
    panel = GenePanel(("ERBB2", "CD3E", "ACTB", "TP53"), ("ENSG00000141736.14", "", "ENSG00000075624", ""))
    assert members(panel, ["ENSG00000141736", "CD3E", "ERBB2", "absent"]) == [0, 1]
    by_id, by_symbol = enrichment(panel, [0.3, 0.1, 0.2, 0.0], {"ids": ["ENSG00000075624.2"], "symbols": ["ACTB"]})
    assert by_id.n_known == 1
    assert (by_id.fold, by_id.p_mann_whitney) == (by_symbol.fold, by_symbol.p_mann_whitney)
