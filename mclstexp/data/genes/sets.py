"""Named sets of genes: from a file, or the short built-in lists."""

from __future__ import annotations

from pathlib import Path

from mclstexp.data.paths import read_json, read_text
from mclstexp.errors import InputError
from mclstexp.types import StrPath

GeneSets = dict[str, tuple[str, ...]]
"""Name of a set to its gene symbols."""

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


def read_gene_sets(path: StrPath) -> GeneSets:
    """Read named sets of genes: JSON ``{set: [genes]}``, or GMT (name, description, genes; tab-separated).

    Raises
    ------
    InputError
        When the file is absent, of neither shape, or holds an empty set.
    """
    path = Path(path)
    text = read_text(path, "Gene sets")
    sets = _from_json(path) if text.lstrip().startswith(("{", "[")) else _from_gmt(text, path)
    if not sets or not all(sets.values()):
        raise InputError(f"{path} holds no marker sets, or an empty one: JSON {{set: [genes]}} or GMT is needed.")
    return sets


def _from_json(path: Path) -> GeneSets:
    value = read_json(path, "Gene sets")
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
            raise InputError(f"{path}, line {number}: the set {fields[0]!r} occurs twice; rename one.")
        sets[fields[0]] = tuple(dict.fromkeys(gene for gene in fields[2:] if gene))
    return sets
