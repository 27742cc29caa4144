"""What was measured on a predicted slide: read, checked that it is the same slide, brought to the same scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

from mclstexp.config import Normalisation
from mclstexp.data.anndata_file import is_anndata, read_anndata
from mclstexp.data.genes.expression import normalise
from mclstexp.errors import InputError
from mclstexp.metrics import pearson_by_gene
from mclstexp.notes import warn
from mclstexp.panel import GenePanel
from mclstexp.predict.prediction import Prediction, scale_name
from mclstexp.settings import from_dict
from mclstexp.slide import Slide
from mclstexp.text import duplicates, some
from mclstexp.types import FloatArray, IdArray, StrPath

if TYPE_CHECKING:
    import anndata as ad

Truth: TypeAlias = "ad.AnnData | FloatArray"
"""Raw counts of the same spots, or ``(n,)`` values on the prediction's scale."""

TOLERANCE = 0.25
"""How far a measured spot may lie from the predicted one of the same id, in diameters of a spot."""


def read_truth(path: StrPath, prediction: Prediction, slide: str | None = None) -> ad.AnnData:
    """Read raw counts of a predicted slide.

    Parameters
    ----------
    path
        An ``.h5ad``, or slides in any layout that `read_slides` reads.
    slide
        Name of the slide among several; None takes the one with the prediction's name or image.

    Raises
    ------
    InputError
        When nothing is there, or it cannot be told which slide is meant.
    """
    path = Path(path)
    if path.suffix.lower() == ".h5ad":
        return read_anndata(path)
    from mclstexp.data.readers import read_slides  # the readers of all layouts take as long to load as a map to draw

    slides = read_slides(path, only=None if slide is None else [slide])
    if slide is None and len(slides) > 1:
        image = Path(str(prediction.settings.get("image", "")))
        named = [one for one in slides if one.slide_id == prediction.slide_id or _same_image(one, image)]
        if len(named) != 1:
            names = some([one.slide_id for one in slides])
            raise InputError(
                f"{path} holds {len(slides)} slides ({names}), none of them surely {prediction.slide_id!r}; "
                "name it with --truth-slide."
            )
        slides = named
    return _as_anndata(slides[0])


def _same_image(slide: Slide, image: Path) -> bool:
    return slide.image is not None and bool(image.name) and slide.image.path.absolute() == image.absolute()


def _as_anndata(slide: Slide) -> ad.AnnData:
    counts, genes = slide.require_counts()
    import anndata as ad

    adata = ad.AnnData(counts.astype(np.float32), obsm={"spatial": slide.spots.xy_px})
    adata.obs_names, adata.var_names = slide.spots.spot_ids.astype(object), list(genes.symbols)
    adata.var["gene_ids"] = list(genes.ensembl)
    return adata


def measured(prediction: Prediction, column: int, truth: Truth) -> tuple[FloatArray, str]:
    """Return the measured values of the prediction's gene in ``column``.

    Returns
    -------
    ``(n,)`` float32, NaN where unknown, and the name of their scale.

    Raises
    ------
    InputError
        When the truth is of other spots, lacks the gene, or holds no raw counts.
    """
    if not is_anndata(truth):
        values = np.asarray(truth, dtype=np.float32)
        if values.shape != (len(prediction),):
            raise InputError(f"The truth has shape {values.shape}, the prediction {len(prediction)} spots.")
        return values, prediction.scale
    genes = _genes_of(truth)
    gene = int(genes.columns(prediction.genes.subset([column]))[0])
    if gene < 0:
        raise InputError(f"The truth has no gene {prediction.genes.symbols[column]!r} among its {truth.n_vars}.")
    rows = matching_rows(prediction, truth)
    settings = prediction.settings.get("normalisation")
    normalisation = Normalisation() if settings is None else from_dict(Normalisation, settings)
    counts = sparse.csr_matrix(truth.X)
    if np.any(counts.data < 0) or np.any(counts.data != np.floor(counts.data)):
        raise InputError("The truth's X are not raw counts; give measured values as an array instead.")
    totalled = counts[:, _panel_columns(genes, prediction)] if normalisation.total == "panel" else counts
    total = np.asarray(totalled.sum(axis=1)).ravel()
    expression = normalise(counts[:, [gene]].toarray(), total, normalisation)[:, 0]
    values = np.where(rows >= 0, expression[rows], np.nan).astype(np.float32)
    return values, scale_name(normalisation)


def matching_rows(prediction: Prediction, truth: ad.AnnData) -> IdArray:
    """Return ``(n,)`` the truth's row of each spot, -1 for none, by id.

    Raises
    ------
    InputError
        When no id is shared, one occurs twice, or the spots of the same ids lie elsewhere.
    """
    repeated = duplicates(truth.obs_names.tolist())
    if repeated:
        raise InputError(f"{len(repeated)} spot ids of the truth occur more than once, for example {repeated[0]!r}.")
    rows = truth.obs_names.get_indexer(prediction.spot_ids.astype(object))
    if not (rows >= 0).any():
        one, other = truth.obs_names[0], str(prediction.spot_ids[0])
        raise InputError(f"Truth and prediction share no spot id; for example {one!r} and {other!r}.")
    return np.asarray(rows, dtype=np.int64)


def check_same_slide(prediction: Prediction, truth: ad.AnnData) -> None:
    """Refuse the truth of another slide whose spots have the same ids: by position, or by name where it has none.

    Raises
    ------
    InputError
        When the spots lie elsewhere, or there are no positions and the slide's name is another.
    """
    rows = matching_rows(prediction, truth)
    name = _slide_of(truth)
    if "spatial" not in truth.obsm:
        if name is not None and name != prediction.slide_id:
            raise InputError(
                f"The truth is of slide {name!r} and the prediction of {prediction.slide_id!r}; if they are the same, "
                "put the spots' full-resolution pixels into the truth's obsm['spatial'], which are compared first."
            )
        if name is None:
            warn("The truth says neither its slide nor positions (obsm['spatial']): spots were matched by id alone.")
        return
    known = rows >= 0
    there = np.asarray(truth.obsm["spatial"], dtype=np.float64)[rows[known], :2]
    distance = float(np.median(np.linalg.norm(there - prediction.xy_px[known], axis=1)))
    if not distance <= TOLERANCE * prediction.spot_diameter_px:
        raise InputError(
            f"The truth{'' if name is None else f' ({name})'} is not of slide {prediction.slide_id}, or its positions "
            f"are not full-resolution pixels: spots of the same id lie {distance:,.0f} px apart (median), and a spot "
            f"is {prediction.spot_diameter_px:,.0f} px wide; give the truth of this slide."
        )


def _slide_of(truth: ad.AnnData) -> str | None:
    """Return the one slide that an AnnData says it is of; None when it says none or several."""
    record: Any = truth.uns.get("mclstexp", {})
    said = [str(record["slide"])] if isinstance(record, dict) and "slide" in record else []
    said += [str(name) for name in truth.uns.get("spatial", {})]
    for column in ("slide", "slide_id", "library_id"):
        said += truth.obs[column].astype(str).unique().tolist() if column in truth.obs else []
    return said[0] if len(set(said)) == 1 else None


def correlation(truth: FloatArray, predicted: FloatArray) -> float:
    """Correlation over the spots where both are known; NaN where it is not defined."""
    known = np.isfinite(truth) & np.isfinite(predicted)
    return float(pearson_by_gene(truth[known, None], predicted[known, None])[0])


def _genes_of(truth: ad.AnnData) -> GenePanel:
    ensembl = tuple(truth.var["gene_ids"].astype(str)) if "gene_ids" in truth.var else ()
    return GenePanel(tuple(truth.var_names.astype(str)), ensembl)


def _panel_columns(genes: GenePanel, prediction: Prediction) -> IdArray:
    """Return the columns of ``genes`` that a spot's total is taken over: those of the model's panel."""
    names = prediction.settings.get("panel_genes")
    columns = genes.columns(prediction.genes if names is None else GenePanel(tuple(names)))
    return np.unique(columns[columns >= 0])
