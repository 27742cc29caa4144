"""Choosing a gene panel: the highly variable genes of slides, or named ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from mclstexp.data.genes.expression import _with_counts
from mclstexp.errors import InputError
from mclstexp.panel import GenePanel, _bare
from mclstexp.slide import Slide
from mclstexp.text import duplicates

if TYPE_CHECKING:
    pass


def select_panel(slides: Sequence[Slide], *, n_top: int = 1000, min_share: float = 0.02) -> GenePanel:
    """Choose the highly variable genes among those measured on every slide; each slide is a batch.

    Scanpy's ``pearson_residuals`` flavour on raw counts: by how many slides a gene is variable on, then by its rank. On
    shallow ST counts the dispersion-based flavours choose rare, noisy genes: over HER2+ patient C they miss ERBB2,
    COL1A1 and IGKC, which this one finds.

    Parameters
    ----------
    slides
        Training slides with counts.
    n_top
        Genes to choose; all expressed ones where there are fewer.
    min_share
        Share of the spots that a gene has to be seen in.

    Returns
    -------
    The panel, in alphabetical order.

    Raises
    ------
    InputError
        When no gene is measured on every slide, or fewer than two are expressed.
    """
    import anndata
    import pandas as pd
    import scanpy as sc

    tables = [_with_counts(slide.spots, slide.slide_id) for slide in slides]
    if not tables:
        raise InputError("A gene panel needs slides with counts; there is none.")
    common = set.intersection(*(set(genes.symbols) for _, genes in tables))
    if not common:
        raise InputError(f"No gene in common: the {len(tables)} slides share no gene symbol.")
    panel = _known(sorted(common), [genes for _, genes in tables])
    matrices = [counts[:, [genes.position[symbol] for symbol in panel.symbols]] for counts, genes in tables]
    counts = sparse.csr_matrix(sparse.vstack(matrices), dtype=np.float32)
    batch = np.repeat([slide.slide_id for slide in slides], [matrix.shape[0] for matrix in matrices])
    filled = np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() > 0)
    n_spots = np.bincount(counts.nonzero()[1], minlength=len(panel))
    expressed = np.flatnonzero(n_spots >= max(1, min_share * len(filled)))
    if len(expressed) < 2:
        raise InputError(
            f"Of {len(panel)} genes measured on every slide {len(expressed)} are expressed; two are needed."
        )
    if len(expressed) <= n_top:
        return panel.subset(expressed)
    adata = anndata.AnnData(
        sparse.csr_matrix(counts[filled][:, expressed]),
        obs=pd.DataFrame({"slide": pd.Categorical(batch[filled])}, index=[str(i) for i in range(len(filled))]),
        var=pd.DataFrame(index=[panel.symbols[i] for i in expressed]),
    )
    sc.experimental.pp.highly_variable_genes(
        adata, n_top_genes=n_top, flavor="pearson_residuals", batch_key="slide" if len(slides) > 1 else None
    )
    return panel.subset(expressed[adata.var["highly_variable"].to_numpy(dtype=bool)])


def panel_from_names(names: Sequence[str], slides: Sequence[Slide]) -> tuple[GenePanel, list[str]]:
    """Turn symbols or Ensembl ids into a panel of genes that the slides measured.

    Parameters
    ----------
    names
        Symbols and Ensembl ids (version suffixes do not matter), mixed as you like.
    slides
        Slides with counts.

    Returns
    -------
    The panel in the order of the names, and notes on what was repeated, missing or not measured everywhere.

    Raises
    ------
    InputError
        When the slides measured none of them.
    """
    measured = [_with_counts(slide.spots, slide.slide_id)[1] for slide in slides]
    symbols = {symbol for genes in measured for symbol in genes.symbols}
    by_id: dict[str, str] = {}
    for genes in measured:
        for symbol, identifier in zip(genes.symbols, genes.ensembl, strict=True):
            if identifier:
                by_id.setdefault(_bare(identifier), symbol)
    bare = {_bare(symbol): symbol for symbol in sorted(symbols, reverse=True) if symbol.startswith("ENS")}
    found: dict[str, str | None] = {
        name: name if name in symbols else by_id.get(_bare(name)) or bare.get(_bare(name)) for name in names
    }
    missing = [name for name, symbol in found.items() if symbol is None]
    chosen = [found_symbol for name in names if (found_symbol := found[name]) is not None]
    if not chosen:
        example = sorted(symbols)[:3]
        raise InputError(
            f"No gene in common: none of the {len(found)} names (such as {next(iter(found), '')!r}) was measured on "
            f"the {len(measured)} slides (which have names such as {', '.join(example)})."
        )
    notes = []
    repeated = duplicates(chosen)
    if repeated:
        notes.append(f"{len(chosen) - len(set(chosen))} repeated genes were taken once, for example {repeated[0]}.")
    if missing:
        notes.append(f"{len(missing)} of {len(found)} genes were measured on no slide and left out: {_some(missing)}.")
    panel = _known(list(dict.fromkeys(chosen)), measured)
    partly = [symbol for symbol in panel.symbols if any(symbol not in genes.position for genes in measured)]
    if partly:
        notes.append(f"{len(partly)} genes were not measured on every slide: {_some(partly)}.")
    return panel, notes


def _known(symbols: list[str], measured: list[GenePanel]) -> GenePanel:
    """Return the panel of the symbols, with the first Ensembl id that any slide knows."""
    ensembl: dict[str, str] = {}
    for genes in measured:
        for symbol, identifier in zip(genes.symbols, genes.ensembl, strict=True):
            if identifier:
                ensembl.setdefault(symbol, identifier)
    return GenePanel(tuple(symbols), tuple(ensembl.get(symbol, "") for symbol in symbols))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
