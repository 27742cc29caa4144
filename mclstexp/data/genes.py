"""Gene lists, gene panels, and the one place where counts become expression."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.config import Normalisation
from mclstexp.data.tables import delimiter_of, first_line, read_table
from mclstexp.errors import InputError
from mclstexp.types import FloatArray, GenePanel, Slide, SpotTable, duplicates

if TYPE_CHECKING:
    import pandas as pd

_GENE_COLUMNS = (
    "gene", "genes", "symbol", "symbols", "gene_symbol", "gene_name", "gene_id", "gene_ids", "ensembl", "ensembl_id",
    "name", "names", "feature", "feature_name",
)  # fmt: skip
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
_UNPICKLE = "pickled files are never opened, as that can run code; save the names as text, one a line"


def read_gene_list(path: Path) -> list[str]:
    """Read gene names: one a line, JSON (a list, or ``{"genes": [...]}``), CSV (also with flags), or ``.npy`` of text.

    Returns
    -------
    The names in the file's order; repeated ones are kept.

    Raises
    ------
    InputError
        When the file is missing, pickled, empty, or does not tell which names are meant.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"Gene list {path} does not exist.")
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        names = _from_npy(path)
    elif magic[:1] == b"\x80":
        raise InputError(f"Gene list {path.name} is a pickle: {_UNPICKLE}.")
    elif first_line(path).lstrip()[:1] in ("{", "["):
        names = _from_json(path)
    else:
        names = _from_text(path)
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise InputError(f"Gene list {path} names no gene.")
    return names


def parse_genes(arg: str) -> list[str]:
    """Read genes from a command line: the path of a gene list, or names separated by commas.

    Raises
    ------
    InputError
        When it names no gene, or looks like the path of a file that does not exist.
    """
    if Path(arg).is_file():
        return read_gene_list(Path(arg))
    if re.search(r"\.(txt|json|csv|tsv|npy)$", arg) or "/" in arg:
        raise InputError(f"Gene list {arg} does not exist.")
    names = [name.strip() for name in arg.split(",") if name.strip()]
    if not names:
        raise InputError("No gene is named; give names separated by commas, such as ERBB2,CD3E, or a file.")
    return names


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


def counts_for(spots: SpotTable, panel: GenePanel) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Align a slide's counts with a panel, by symbol first and by Ensembl id (without version) where that fails.

    Returns
    -------
    ``(n_spots, n_genes)`` float32 raw counts, 0 where not measured, and ``(n_genes,)`` bool: which were measured.

    Raises
    ------
    InputError
        When the spots have no counts, or none of the panel's genes was measured.
    """
    counts, genes = _with_counts(spots, "")
    by_id = {_bare(identifier): i for i, identifier in reversed(list(enumerate(genes.ensembl))) if identifier}
    columns = np.array(
        [
            genes.position.get(symbol, by_id.get(_bare(identifier), -1) if identifier else -1)
            for symbol, identifier in zip(panel.symbols, panel.ensembl, strict=True)
        ],
        dtype=np.int64,
    )
    measured = columns >= 0
    if not measured.any():
        raise InputError(
            f"No gene in common: the panel's {len(panel)} genes (such as {panel.symbols[0]}) are not among the "
            f"{len(genes)} measured (such as {genes.symbols[0]})."
        )
    dense = np.zeros((len(spots), len(panel)), dtype=np.float32)
    dense[:, measured] = counts[:, columns[measured]].toarray()
    return dense, measured


def normalise(counts: NDArray[Any], totals: NDArray[Any], normalisation: Normalisation) -> FloatArray:
    """Turn raw counts into expression: ``log(1 + counts / total * target_sum)``.

    Parameters
    ----------
    counts
        ``(n_spots, n_genes)`` raw counts.
    totals
        ``(n_spots,)`` what each spot is divided by; a spot with a total of 0 gives zeros.
    normalisation
        Target sum and logarithm.

    Returns
    -------
    ``(n_spots, n_genes)`` float32.
    """
    totals = np.asarray(totals, dtype=np.float64)
    factor = np.divide(normalisation.target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    logged = np.log1p(np.asarray(counts, dtype=np.float64) * factor[:, None])
    if normalisation.log == "log10":
        logged /= np.log(10.0)
    return np.asarray(logged, dtype=np.float32)


def expression_for(
    spots: SpotTable, panel: GenePanel, normalisation: Normalisation
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Normalise a slide's counts of a panel; the total is over the panel or over every measured gene.

    Returns
    -------
    ``(n_spots, n_genes)`` float32 expression, 0 where not measured, and ``(n_genes,)`` bool: which were measured.

    Raises
    ------
    InputError
        As ``counts_for``.
    """
    counts, measured = counts_for(spots, panel)
    totals = counts.sum(axis=1, dtype=np.float64)
    if normalisation.total == "all":
        totals = np.asarray(_with_counts(spots, "")[0].sum(axis=1, dtype=np.float64)).ravel()
    return normalise(counts, totals, normalisation), measured


def _with_counts(spots: SpotTable, slide_id: str) -> tuple[sparse.csr_matrix, GenePanel]:
    if spots.counts is None or spots.genes is None:
        raise InputError(f"Slide {slide_id} has no counts." if slide_id else "The spots have no counts.")
    return spots.counts, spots.genes


def _known(symbols: list[str], measured: list[GenePanel]) -> GenePanel:
    """Return the panel of the symbols, with the first Ensembl id that any slide knows."""
    ensembl: dict[str, str] = {}
    for genes in measured:
        for symbol, identifier in zip(genes.symbols, genes.ensembl, strict=True):
            if identifier:
                ensembl.setdefault(symbol, identifier)
    return GenePanel(tuple(symbols), tuple(ensembl.get(symbol, "") for symbol in symbols))


def _from_npy(path: Path) -> list[str]:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise InputError(f"Gene list {path.name} is a pickled array: {_UNPICKLE}.") from error
        raise InputError(f"Gene list {path.name} is damaged: {str(error).splitlines()[0]}.") from error
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind != "U":
        raise InputError(f"Gene list {path.name} holds {values.dtype}, not text.")
    return [str(name) for name in values.ravel()]


def _from_json(path: Path) -> list[str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise InputError(f"Gene list {path.name} is no valid JSON: {error}.") from error
    if isinstance(values, dict):
        values = values.get("genes")
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise InputError(f'Gene list {path.name}: a list of names is needed, or {{"genes": [...]}}.')
    return values


def _from_text(path: Path) -> list[str]:
    line = first_line(path)
    if line.count(delimiter_of(line)) == 0:
        lines = read_table(path, header=["name"])["name"].astype(str).tolist()
        names = [name.strip() for name in lines if not name.lstrip().startswith("#")]
        return names[1:] if names and names[0].lower() in _GENE_COLUMNS else names
    frame = read_table(path)
    frame.columns = [str(name).strip().lower() for name in frame.columns]
    if not len(frame):
        return [cell.strip().strip('"') for cell in line.split(delimiter_of(line))]  # one line of names
    first = str(frame.columns[0])
    unnamed = first if first in ("", "index") else None
    column = next((name for name in _GENE_COLUMNS if name in frame.columns), unnamed)
    if column is None:
        raise InputError(
            f"Gene list {path.name}: none of its columns ({', '.join(map(str, frame.columns[:8]))}) is called gene or "
            "symbol; rename the one that holds the names."
        )
    flags = [str(name) for name in frame.columns if name != column and _is_flag(frame[name])]
    named = [name for name in flags if name in ("highly_variable", "selected", "in_panel", "keep", "use", "hvg")]
    flags = named or flags
    if len(flags) > 1:
        raise InputError(f"Gene list {path.name} has several flags ({', '.join(flags)}); keep the one that chooses.")
    kept = frame[column] if not flags else frame[column][[_FLAGS[cell.strip().lower()] for cell in frame[flags[0]]]]
    return [str(name) for name in kept]


def _is_flag(column: pd.Series) -> bool:
    cells = {str(cell).strip().lower() for cell in column}
    return cells <= set(_FLAGS) and bool(cells - {""})


def _bare(name: str) -> str:
    """Return the Ensembl id without its version; symbols with a dot (FO538757.1) stay as they are."""
    return re.sub(r"^(ENS[A-Z]*\d+)\.\d+$", r"\1", name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
