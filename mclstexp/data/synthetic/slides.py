"""One simulated slide: spots and counts from the tissue fields that its picture was drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from mclstexp.data.synthetic.histology import (
    CELL_UM,
    CYCLING,
    FAT,
    IMMUNE,
    STAINS,
    STROMA,
    TUMOUR,
    SlideSpec,
    draw_tissue,
    paint,
)
from mclstexp.panel import GenePanel
from mclstexp.slide import SpotTable
from mclstexp.types import FloatArray

COHORT = "simulated"
"""Name of the cohort."""

_MARKERS = {
    TUMOUR: "ERBB2 EPCAM KRT8 KRT18 KRT19 GRB7 MUC1 CDH1 ESR1 KRT7 TFF3 CLDN4 FOXA1 GATA3 S100P MIEN1 STARD3",
    STROMA: "COL1A1 COL1A2 COL3A1 FN1 VIM DCN LUM POSTN SPARC ACTA2 FAP THY1 COL6A3 BGN FBLN1 TAGLN PDGFRB",
    IMMUNE: "CD3E CD3D CD8A CD4 PTPRC CD19 MS4A1 CD79A CXCL13 CCL5 GZMB LTB TRAC CD2 CXCR4 IL7R HLA-DRA",
    FAT: "ADIPOQ FABP4 PLIN1 PLIN4 LPL CIDEC LEP CD36 GPAM ADH1B LIPE G0S2",
    CYCLING: "MKI67 TOP2A PCNA CCNB1 CDK1 BIRC5 AURKA UBE2C TYMS RRM2 MCM2 CENPF",
}

_EVERYWHERE = "ACTB GAPDH B2M EEF1A1 RPLP0 RPS3 TPT1 RPL13A TUBA1B UBC PPIA HSP90AB1"

_FAMILIES = ("ZNF", "TMEM", "SLC25A", "FAM", "CCDC", "LRRC", "ANKRD", "TTC")


@dataclass(frozen=True, eq=False)
class SimulatedSlide:
    """One simulated section: image ``(side, side, 3)`` uint8 RGB and its spots with counts."""

    slide_id: str
    patient: str
    image: NDArray[np.uint8]
    spots: SpotTable
    mpp: float
    spot_um: float


def simulate_slide(spec: SlideSpec, *, patient: int = 0, slide: int = 0, seed: int = 0) -> SimulatedSlide:
    """Simulate one slide, a function of its arguments alone.

    Slides of one seed share their genes; slides of one patient also share stain and expression shifts.

    Examples
    --------
    >>> slide = simulate_slide(SlideSpec(n_genes=20, side_px=256, mpp=2.0), patient=1)
    >>> slide.slide_id, slide.image.shape, slide.spots
    ('P2_A', (256, 256, 3), SpotTable(15 spots, 20 genes))
    """
    rng = np.random.default_rng([seed, 2, patient, slide])
    own = np.random.default_rng([seed, 1, patient])
    stains = STAINS * np.exp(own.normal(0, 0.13, (2, 1))) * np.exp(own.normal(0, 0.05, (2, 3)))
    stains *= np.exp(rng.normal(0, 0.03, (2, 1)))
    fields, tissue = draw_tissue(spec, rng)
    image = paint(spec, fields, tissue, stains, rng)
    xy_px, array_row, array_col = _grid(spec, tissue)
    counts = _counts(spec, _at_spots(spec, fields, xy_px), seed, own, rng)
    spots = SpotTable(
        spot_ids=np.array([f"{r}x{c}" for r, c in zip(array_row, array_col, strict=True)], dtype=np.str_),
        xy_px=xy_px,
        array_row=array_row,
        array_col=array_col,
        counts=counts,
        genes=gene_panel(spec.n_genes),
    )
    name = f"P{patient + 1}"
    return SimulatedSlide(f"{name}_{_letter(slide)}", name, image, spots, spec.mpp, spec.spot_um)


def gene_panel(n_genes: int) -> GenePanel:
    """Return the simulated genes: markers in turn, then invented members of gene families.

    The Ensembl ids have the right form but lie outside the range in use, so that none can be mistaken for a real one.
    """
    columns = [names.split() for names in (*_MARKERS.values(), _EVERYWHERE)]
    named = [names[i] for i in range(max(map(len, columns))) for names in columns if i < len(names)]
    more = [f"{_FAMILIES[i % len(_FAMILIES)]}{900 + i}" for i in range(max(0, n_genes - len(named)))]
    symbols = (named + more)[:n_genes]
    return GenePanel(tuple(symbols), tuple(f"ENSG{90_000_000 + i:011d}" for i in range(len(symbols))))


def _grid(spec: SlideSpec, tissue: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Lay the spots out; only those whose whole disc is on tissue are kept."""
    pitch, side = spec.pitch_um / spec.mpp, spec.side_px
    step = pitch * (np.sqrt(3) / 2 if spec.grid == "hex" else 1.0)
    n_rows, n_cols = int((side - pitch) / step) + 1, int((side - pitch) / pitch) + 1
    row, col = (a.ravel() for a in np.mgrid[:n_rows, :n_cols])
    odd = row % 2 if spec.grid == "hex" else 0 * row
    xy = np.stack([pitch / 2 + (col + odd / 2) * pitch, pitch / 2 + row * step], axis=1)
    covered = ndimage.minimum_filter(tissue, size=max(1, round(spec.spot_um / CELL_UM)))
    cells = np.minimum((xy * spec.mpp / CELL_UM).astype(int), tissue.shape[0] - 1)
    keep = (covered[cells[:, 1], cells[:, 0]] > 0.5) & (xy.max(axis=1) < side - pitch / 4)
    array_col = 2 * col + odd if spec.grid == "hex" else col
    return xy[keep], row[keep].astype(np.int64), array_col[keep].astype(np.int64)


def _at_spots(spec: SlideSpec, fields: FloatArray, xy_px: NDArray[np.float64]) -> FloatArray:
    """Mean of each field over the spots' discs, ``(n, 5)``."""
    blurred = ndimage.gaussian_filter(fields, (0, *(2 * [spec.spot_um / 4 / CELL_UM])))
    rows_cols = xy_px.T[::-1] * spec.mpp / CELL_UM - 0.5
    means = [ndimage.map_coordinates(field, rows_cols, order=1, mode="nearest") for field in blurred]
    return np.stack(means, axis=1)


def _loadings(n_genes: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Log base means ``(g,)`` and what each programme adds ``(5, g)``; the same for all slides of a seed."""
    rng = np.random.default_rng([seed, 0])
    base = rng.normal(1.0, 0.9, n_genes)
    added = np.where(rng.random((5, n_genes)) < 0.3, rng.normal(0, 1.2, (5, n_genes)), 0.0)
    position = gene_panel(n_genes).position
    for programme, names in _MARKERS.items():
        columns = [position[name] for name in names.split() if name in position]
        added[:, columns] = 0
        added[programme, columns] = rng.uniform(1.6, 3.2, len(columns))
    common = [position[name] for name in _EVERYWHERE.split() if name in position]
    added[:, common], base[common] = 0, 2.5
    return base.astype(np.float32), added.astype(np.float32)


def _counts(
    spec: SlideSpec, parts: FloatArray, seed: int, own: np.random.Generator, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Negative binomial counts ``(n, g)`` with a patient's shift of each gene and a depth of each slide and spot."""
    base, added = _loadings(spec.n_genes, seed)
    programmes = parts.astype(np.float64).copy()
    programmes[:, CYCLING] *= programmes[:, TUMOUR]  # only tumour cells divide
    log_mean = base + own.normal(0, 0.2, spec.n_genes) + programmes @ added
    depth = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.3, (len(parts), 1)))
    depth *= 0.6 + 0.4 * (1 - programmes[:, [FAT]])  # little cytoplasm, few transcripts
    mean, dispersion = np.exp(log_mean) * depth, 0.15
    counts = rng.poisson(rng.gamma(1 / dispersion, mean * dispersion))
    return sparse.csr_matrix(counts.astype(np.float32))


def _letter(slide: int) -> str:
    return chr(ord("A") + slide) if slide < 26 else str(slide + 1)
