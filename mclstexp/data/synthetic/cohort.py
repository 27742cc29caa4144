"""A simulated cohort: H&E-like slides whose morphology and counts come from the same tissue fields.

Every slide has smooth fields of tumour, stroma, immune infiltrate and fat, and of proliferation. The image is
drawn from them (nuclear density, size and shape, fibres, fat vacuoles, stain) and so are the spots' counts. Patients
differ in stain and in expression. Nothing here is fitted to real data: it exists to try the program offline.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.synthetic.histology import SlideSpec
from mclstexp.data.synthetic.slides import COHORT, SimulatedSlide, gene_panel, simulate_slide
from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.storage import new_folder
from mclstexp.types import Progress, StrPath


@dataclass(frozen=True)
class CohortPaths:
    """Where `write_cohort` put things: references under ``refs``, the held-out slide under ``query``."""

    root: Path
    refs: Path
    slides_csv: Path
    slides: tuple[str, ...]
    query_slide: str
    query_image: Path
    query_coords: Path
    query_truth: Path


def write_cohort(
    folder: StrPath,
    *,
    n_patients: int = 4,
    slides_per_patient: int = 2,
    spec: SlideSpec | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> CohortPaths:
    """Write a cohort of reference slides, and one slide of a further patient held out.

    ``folder`` gets ``refs/`` (``slides.csv``, and a pyramidal TIFF and an ``.h5ad`` of counts a slide) and ``query/``
    (the TIFF, ``coords.csv`` and ``truth.h5ad``), all at once or not at all.

    Parameters
    ----------
    folder
        A folder that is empty or does not exist; its parent does.
    n_patients, slides_per_patient
        Patients of the references, and slides of each.
    spec
        Size and layout of the slides.
    seed
        The same seed gives the same files.
    on_progress
        Called with "simulating slides", how many are written, and how many there are.

    Raises
    ------
    ExistsAlreadyError
        When ``folder`` holds anything.
    InputError
        When there is nothing to simulate, or the parent folder does not exist.
    StorageError
        When the operating system refuses a write.
    """
    folder, spec = Path(folder), spec or SlideSpec()
    if n_patients < 1 or slides_per_patient < 1:
        raise InputError(f"A cohort needs patients and slides, got {n_patients} and {slides_per_patient}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExistsAlreadyError(f"{folder} exists and is not empty; choose another folder or remove it.")
    jobs = [(patient, slide) for patient in range(n_patients) for slide in range(slides_per_patient)]
    named = []
    with new_folder(folder, force=True) as root:
        (root / "refs").mkdir()
        (root / "query").mkdir()
        for done, (patient, slide) in enumerate([*jobs, (n_patients, 0)]):
            simulated = simulate_slide(spec, patient=patient, slide=slide, seed=seed)
            held_out = done == len(jobs)
            (_write_query if held_out else _write_reference)(simulated, root)
            named.append((simulated.slide_id, simulated.patient))
            if on_progress:
                on_progress("simulating slides", done + 1, len(jobs) + 1)
        _write_slides_csv(root / "refs" / "slides.csv", named[:-1], spec.mpp)
    return _cohort_paths(folder, [name for name, _ in named])


def write_pyramid(image: NDArray[np.uint8], path: Path, *, mpp: float, tile_px: int = 256) -> None:
    """Write a tiled JPEG pyramid with its pixel size in the resolution tags, halving down to about one tile."""
    import tifffile
    from PIL import Image

    level, smallest = image, 2 * tile_px
    with tifffile.TiffWriter(path) as tiff:
        for i in range(16):
            scale = 1e4 * level.shape[1] / image.shape[1] / mpp
            tiff.write(
                level,
                photometric="rgb",
                tile=(tile_px, tile_px),
                compression="jpeg",
                compressionargs={"level": 88},
                resolution=(scale, scale),
                resolutionunit="CENTIMETER",
                subfiletype=int(i > 0),
                software=False,
                metadata=None,
            )
            if i and max(level.shape[:2]) <= smallest:
                break
            height, width = max(1, level.shape[0] // 2), max(1, level.shape[1] // 2)
            level = np.asarray(Image.fromarray(level).resize((width, height), Image.Resampling.BOX))


def _write_reference(simulated: SimulatedSlide, folder: Path) -> None:
    write_pyramid(simulated.image, folder / "refs" / f"{simulated.slide_id}.tif", mpp=simulated.mpp)
    _write_counts(simulated, folder / "refs" / f"{simulated.slide_id}.h5ad")


def _write_query(simulated: SimulatedSlide, folder: Path) -> None:
    write_pyramid(simulated.image, folder / "query" / f"{simulated.slide_id}.tif", mpp=simulated.mpp)
    _write_counts(simulated, folder / "query" / "truth.h5ad")
    with (folder / "query" / "coords.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "x", "y"])
        for spot, (x, y) in zip(simulated.spots.spot_ids, simulated.spots.xy_px, strict=True):
            writer.writerow([spot, f"{x:.2f}", f"{y:.2f}"])


def _write_counts(simulated: SimulatedSlide, path: Path) -> None:
    import anndata as ad
    import pandas as pd

    from mclstexp.data.anndata_file import write_h5ad

    spots = simulated.spots
    panel = gene_panel(spots.counts.shape[1] if spots.counts is not None else 0)
    obs = pd.DataFrame(
        {
            "in_tissue": 1,
            "array_row": spots.array_row,
            "array_col": spots.array_col,
            "patient": simulated.patient,
            "cohort": COHORT,
        },
        index=pd.Index(spots.spot_ids.astype(object)),
    )
    var = pd.DataFrame({"gene_ids": list(panel.ensembl)}, index=pd.Index(list(panel.symbols), dtype=object))
    adata = ad.AnnData(spots.counts, obs=obs, var=var, obsm={"spatial": spots.xy_px})
    write_h5ad(adata, path)


def _write_slides_csv(path: Path, slides: list[tuple[str, str]], mpp: float) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide", "patient", "cohort", "counts", "image", "coords", "mpp"])
        for name, patient in slides:
            writer.writerow([name, patient, COHORT, f"{name}.h5ad", f"{name}.tif", "", f"{mpp:g}"])


def _cohort_paths(folder: Path, names: list[str]) -> CohortPaths:
    refs, query = folder / "refs", folder / "query"
    return CohortPaths(
        root=folder,
        refs=refs,
        slides_csv=refs / "slides.csv",
        slides=tuple(names[:-1]),
        query_slide=names[-1],
        query_image=query / f"{names[-1]}.tif",
        query_coords=query / "coords.csv",
        query_truth=query / "truth.h5ad",
    )
