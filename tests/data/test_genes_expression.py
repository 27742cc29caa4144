"""The one place where counts become expression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import counts_for, expression_for, normalise
from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide, SpotTable

WITH_IDS = GenePanel(("ERBB2", "CD3E", "ACTB"), ("ENSG01.7", "ENSG02", "ENSG03.1"))


def slide_of(name, genes, counts):
    n = np.arange(len(counts))
    panel = genes if isinstance(genes, GenePanel) else GenePanel(tuple(genes))
    spots = SpotTable(n.astype(str), np.stack([n, n], 1), n, n, counts=sparse.csr_matrix(counts), genes=panel)
    return Slide(name, "p", "c", spots)


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
