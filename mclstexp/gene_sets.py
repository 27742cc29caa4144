"""Named sets of genes: from a file, or the short built-in lists, and whether well-predicted genes are rich in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from mclstexp.errors import InputError
from mclstexp.metrics import Floats, highest

GeneSets = dict[str, tuple[str, ...]]
"""Name of a set to its gene symbols."""

WELL_PREDICTED_SHARE = 0.1
"""The tenth of the scored genes with the highest correlation counts as well predicted."""

_CANCER = """
AKT1 ALDH1A3 AR AURKA BCL2 BIRC5 BRAF BRCA1 BRCA2 CCNB1 CCND1 CCNE1 CD24 CD44 CDH1 CDK4 CDKN2A CEACAM6 CENPF CLDN3
CLDN4 CTNNB1 EGFR EPCAM ERBB2 ERBB3 ESR1 FASN FGFR1 FOXA1 FOXM1 GATA3 GNAS GRB7 KRAS KRT14 KRT17 KRT18 KRT19 KRT5 KRT7
KRT8 MCL1 MDM2 MIEN1 MKI67 MUC1 MYC NOTCH1 PCNA PGAP3 PGR PIK3CA PTEN RB1 S100A4 S100A8 S100A9 SCGB2A2 SOX9 SPDEF
STARD3 TACSTD2 TFF1 TFF3 TIMP1 TOP2A TP53 TYMS VEGFA XBP1
"""
_IMMUNE = """
B2M C1QA C1QB C1QC CCL19 CCL21 CCL5 CCR7 CD14 CD163 CD19 CD2 CD27 CD37 CD3D CD3E CD3G CD4 CD68 CD69 CD74 CD79A CD79B
CD8A CD8B CORO1A CTLA4 CXCL10 CXCL13 CXCL9 CXCR4 FCER1G FCGR3A FOXP3 GNLY GZMA GZMB GZMK HLA-A HLA-B HLA-C HLA-DPA1
HLA-DPB1 HLA-DQA1 HLA-DQB1 HLA-DRA HLA-DRB1 HLA-E IGHA1 IGHG1 IGHG2 IGHG3 IGHG4 IGHM IGKC IGLC2 IGLC3 IL2RA IL32 IL7R
IRF8 ITGB2 JCHAIN LAPTM5 LCK LYZ MS4A1 MZB1 NKG7 PDCD1 PRF1 PTPRC SELL SPI1 STAT1 TRAC TRBC1 TRBC2 TYROBP
"""

KNOWN_GENES: GeneSets = {"cancer": tuple(_CANCER.split()), "immune": tuple(_IMMUNE.split())}
"""Textbook symbols of breast and general cancer, and of immune cells; a start, not a database."""


def read_gene_sets(path: Path) -> GeneSets:
    """Read named sets of genes: JSON ``{set: [genes]}``, or GMT (name, description, genes; tab-separated).

    Raises
    ------
    InputError
        When the file is absent, of neither shape, or holds an empty set.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read marker sets from {path}: {error}.") from error
    sets = _from_json(text, path) if text.lstrip().startswith(("{", "[")) else _from_gmt(text, path)
    if not sets or not all(sets.values()):
        raise InputError(f"{path} holds no marker sets, or an empty one: JSON {{set: [genes]}} or GMT is needed.")
    return sets


def _from_json(text: str, path: Path) -> GeneSets:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict) or not all(
        isinstance(genes, list) and all(isinstance(gene, str) for gene in genes) for genes in value.values()
    ):
        raise InputError(f"{path}: marker sets as JSON are {{set: [genes]}}.")
    return {name: tuple(dict.fromkeys(genes)) for name, genes in value.items()}


def _from_gmt(text: str, path: Path) -> GeneSets:
    sets: GeneSets = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.rstrip().split("\t")
        if len(fields) < 3:
            raise InputError(
                f"{path}, line {number}: a GMT line is name, description and genes, separated by tabs; or give JSON "
                "{set: [genes]}."
            )
        if fields[0] in sets:
            raise InputError(f"{path}, line {number}: the set {fields[0]!r} is there twice.")
        sets[fields[0]] = tuple(dict.fromkeys(gene for gene in fields[2:] if gene))
    return sets


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


def enrichment(symbols: Sequence[str], pcc: ArrayLike, sets: Mapping[str, Sequence[str]]) -> list[Enrichment]:
    """Test each set for being predicted better than the rest of the scored genes (NaN takes no part)."""
    from scipy import stats

    values = np.asarray(pcc, dtype=np.float64)
    scored = ~np.isnan(values)
    names = np.asarray(symbols, dtype=np.str_)[scored]
    values = values[scored]
    well = np.zeros(len(values), dtype=bool)
    well[highest(values, round(WELL_PREDICTED_SHARE * len(values)) or 1)] = True
    results = []
    for name, genes in sets.items():
        known = np.isin(names, np.asarray(list(genes), dtype=np.str_))
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
