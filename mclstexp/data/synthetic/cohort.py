"""A simulated cohort: H&E-like slides whose morphology and counts come from the same tissue fields.

Every slide has smooth fields of tumour, stroma, immune infiltrate and fat, and of proliferation. The image is
drawn from them (nuclear density, size and shape, fibres, fat vacuoles, stain) and so are the spots' counts. Patients
differ in stain and in expression. Nothing here is fitted to real data: it exists to try the program offline.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.synthetic.histology import SlideSpec
from mclstexp.data.synthetic.slides import COHORT, SimulatedSlide, gene_panel, simulate_slide
from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.slide import Slide
from mclstexp.storage import new_folder


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
    folder: Path,
    *,
    n_patients: int = 4,
    slides_per_patient: int = 2,
    spec: SlideSpec | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> CohortPaths:
    """Write a cohort of reference slides, and one slide of a further patient held out.

    ``folder`` gets ``refs/`` (``slides.csv``, and a pyramidal TIFF and an ``.h5ad`` of counts a slide) and ``query/``
    (the TIFF, ``coords.csv`` and ``truth.h5ad``), all at once or not at all.

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
    with new_folder(folder, force=True) as made:
        (made / "refs").mkdir()
        (made / "query").mkdir()
        for done, (patient, slide) in enumerate([*jobs, (n_patients, 0)]):
            simulated = simulate_slide(spec, patient=patient, slide=slide, seed=seed)
            held_out = done == len(jobs)
            (_write_query if held_out else _write_reference)(simulated, made)
            named.append((simulated.slide_id, simulated.patient))
            if on_progress:
                on_progress(done + 1, len(jobs) + 1)
        _write_slides_csv(made / "refs" / "slides.csv", named[:-1], spec.mpp)
    return _cohort_paths(folder, [name for name, _ in named])


def tiny_slides(
    folder: Path, n: int = 3, *, n_spots: int = 36, n_genes: int = 40, seed: int = 0, per_patient: int = 1
) -> list[Slide]:
    """Write ``n`` small images into ``folder`` and return their slides, for tests; a few tens of milliseconds each."""
    from mclstexp.data.images import open_image

    rows = int(np.ceil(np.sqrt(n_spots)))
    pitch = 56.0
    spec = SlideSpec(
        n_genes=n_genes, side_px=int((rows + 1) * pitch), mpp=1.0, pitch_um=pitch, grid="square", margin=False
    )
    slides = []
    for i in range(n):
        made = simulate_slide(spec, patient=i // per_patient, slide=i % per_patient, seed=seed)
        path = Path(folder) / f"{made.slide_id}.tif"
        write_pyramid(made.image, path, mpp=spec.mpp)
        slides.append(
            Slide(
                slide_id=made.slide_id,
                patient=made.patient,
                cohort=COHORT,
                spots=made.spots.take(np.arange(n_spots)),
                image=open_image(path),
                mpp=spec.mpp,
                mpp_source="file",
                layout="h5ad",
                sources=(path,),
            )
        )
    return slides


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


def _write_reference(made: SimulatedSlide, folder: Path) -> None:
    write_pyramid(made.image, folder / "refs" / f"{made.slide_id}.tif", mpp=made.mpp)
    _write_counts(made, folder / "refs" / f"{made.slide_id}.h5ad")


def _write_query(made: SimulatedSlide, folder: Path) -> None:
    write_pyramid(made.image, folder / "query" / f"{made.slide_id}.tif", mpp=made.mpp)
    _write_counts(made, folder / "query" / "truth.h5ad")
    with (folder / "query" / "coords.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "x", "y"])
        for spot, (x, y) in zip(made.spots.spot_ids, made.spots.xy_px, strict=True):
            writer.writerow([spot, f"{x:.2f}", f"{y:.2f}"])


def _write_counts(made: SimulatedSlide, path: Path) -> None:
    import anndata as ad
    import pandas as pd

    from mclstexp.data.anndata_file import write_h5ad

    spots = made.spots
    panel = gene_panel(spots.counts.shape[1] if spots.counts is not None else 0)
    obs = pd.DataFrame(
        {
            "in_tissue": 1,
            "array_row": spots.array_row,
            "array_col": spots.array_col,
            "patient": made.patient,
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
