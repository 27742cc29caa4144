"""Whether well-predicted genes are rich in known sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mclstexp.metrics import Floats, highest
from mclstexp.panel import GenePanel

WELL_PREDICTED_SHARE = 0.1
"""The tenth of the scored genes with the highest correlation counts as well predicted."""


@dataclass(frozen=True)
class Enrichment:
    """Whether a known set of genes is predicted better than the rest of the panel.

    Attributes
    ----------
    n_scored, n_known
        Genes with a correlation, and how many of them are in the set.
    n_well, n_hits
        Genes in the best tenth, and how many of them are in the set.
    fold
        ``(n_hits / n_well) / (n_known / n_scored)``.
    p_hypergeometric
        Chance of at least ``n_hits`` in a random tenth.
    p_mann_whitney
        One-sided test that the set's correlations are higher than the others'.
    """

    name: str
    n_scored: int
    n_known: int
    n_well: int
    n_hits: int
    fold: float | None
    p_hypergeometric: float | None
    p_mann_whitney: float | None


def members(genes: GenePanel, names: Sequence[str]) -> list[int]:
    """Return the columns of the named genes (symbols or Ensembl ids), each once; others are left out."""
    return list(dict.fromkeys(column for name in names if (column := genes.find(name)) is not None))


def enrichment(genes: GenePanel, pcc: ArrayLike, sets: Mapping[str, Sequence[str]]) -> list[Enrichment]:
    """Test each set for being predicted better than the rest of the scored genes.

    Parameters
    ----------
    genes
        The panel.
    pcc
        ``(len(genes),)`` correlations; a gene of NaN takes no part.
    sets
        Names of genes, symbols or Ensembl ids, by name of the set.
    """
    from scipy import stats

    values = np.asarray(pcc, dtype=np.float64)
    scored = np.flatnonzero(~np.isnan(values))
    values = values[scored]
    well = np.zeros(len(values), dtype=bool)
    well[highest(values, round(WELL_PREDICTED_SHARE * len(values)) or 1)] = True
    results = []
    for name, names in sets.items():
        known = np.isin(scored, members(genes, names))
        n, n_known, n_well, hits = len(values), int(known.sum()), int(well.sum()), int((known & well).sum())
        testable = 0 < n_known < n
        results.append(
            Enrichment(
                name=name,
                n_scored=n,
                n_known=n_known,
                n_well=n_well,
                n_hits=hits,
                fold=(hits / n_well) / (n_known / n) if testable else None,
                p_hypergeometric=float(stats.hypergeom.sf(hits - 1, n, n_known, n_well)) if testable else None,
                p_mann_whitney=_one_sided(values[known], values[~known]) if testable else None,
            )
        )
    return results


def _one_sided(inside: Floats, outside: Floats) -> float:
    from scipy import stats

    return float(stats.mannwhitneyu(inside, outside, alternative="greater").pvalue)
