"""Choosing a gene panel: the highly variable genes of slides, or named ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.text import duplicates, some


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
    from threadpoolctl import threadpool_limits

    tables = [slide.require_counts() for slide in slides]
    if not tables:
        raise InputError("A gene panel needs slides with counts; there is none.")
    common = set.intersection(*(set(genes.symbols) for _, genes in tables))
    if not common:
        raise InputError(f"No gene in common: the {len(tables)} slides share no gene symbol.")
    panel = _known(sorted(common), [genes for _, genes in tables])
    matrices = [counts[:, genes.columns(panel)] for counts, genes in tables]
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
    # scanpy's numba sets OpenMP's number of threads for the whole process, whatever the user or torch had chosen.
    with threadpool_limits({}):
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
    measured = [slide.require_counts()[1] for slide in slides]
    symbols = {name: _symbol(name, measured) for name in names}
    missing = [name for name, symbol in symbols.items() if symbol is None]
    chosen = [symbol for name in names if (symbol := symbols[name]) is not None]
    if not chosen:
        raise InputError(_no_gene_in_common(list(symbols), measured))
    notes = []
    repeated = duplicates(chosen)
    if repeated:
        notes.append(f"{len(chosen) - len(set(chosen))} repeated genes were taken once, for example {repeated[0]}.")
    if missing:
        notes.append(
            f"{len(missing)} of {len(symbols)} genes were measured on no slide and left out: {some(missing, 5)}."
        )
    panel = _known(list(dict.fromkeys(chosen)), measured)
    everywhere = np.all([genes.columns(panel) >= 0 for genes in measured], axis=0)
    partly = [symbol for symbol, whole in zip(panel.symbols, everywhere, strict=True) if not whole]
    if partly:
        notes.append(f"{len(partly)} genes were not measured on every slide: {some(partly, 5)}.")
    return panel, notes


def _symbol(name: str, measured: list[GenePanel]) -> str | None:
    """Return what the slides call a gene: the name itself where it is a symbol of any, else the first that fits."""
    symbols = [genes.symbols[column] for genes in measured if (column := genes.find(name)) is not None]
    return name if name in symbols else next(iter(symbols), None)


def _no_gene_in_common(names: list[str], measured: list[GenePanel]) -> str:
    symbols = sorted({symbol for genes in measured for symbol in genes.symbols})
    near = list(dict.fromkeys(symbol for genes in measured[:1] for name in names[:3] for symbol in genes.near(name, 1)))
    hint = f"; did you mean {some(near)}?" if near else "."
    return (
        f"No gene in common: none of the {len(names)} names (such as {next(iter(names), '')!r}) was measured on the "
        f"{len(measured)} slides (which have names such as {', '.join(symbols[:3])}){hint}"
    )


def _known(symbols: list[str], measured: list[GenePanel]) -> GenePanel:
    """Return the panel of the symbols, with the first Ensembl id that any slide knows."""
    ensembl: dict[str, str] = {}
    for genes in measured:
        for symbol, identifier in zip(genes.symbols, genes.ensembl, strict=True):
            if identifier:
                ensembl.setdefault(symbol, identifier)
    return GenePanel(tuple(symbols), tuple(ensembl.get(symbol, "") for symbol in symbols))
