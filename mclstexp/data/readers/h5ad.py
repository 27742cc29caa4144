"""AnnData files with their image beside them (``A1.h5ad``, ``A1.tif``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.data.apart.worker import try_hdf5
from mclstexp.data.assemble import CountTable, Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.images.pixels import plausible_mpp
from mclstexp.data.positions.coordinates import Coordinates, check_ids, check_places, naming
from mclstexp.data.positions.lattice import LEGACY_ST_PITCH_UM, VISIUM_PITCH_UM, is_staggered
from mclstexp.data.readers.choices import DEFAULT, Choices
from mclstexp.data.readers.damage import reading
from mclstexp.data.readers.matrices import count_table
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.errors import InputError
from mclstexp.slide import Slide

NAME = "h5ad"
LOOKS_FOR = "an .h5ad"

TECHNOLOGY_PITCH_UM = {
    "visium": VISIUM_PITCH_UM,
    "st": LEGACY_ST_PITCH_UM,
    "legacy st": LEGACY_ST_PITCH_UM,
    "spatial transcriptomics": LEGACY_ST_PITCH_UM,
}
"""Distance between neighbouring spots in um, by the (lower-case) name of the technology."""

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d+(\.\d+)?$")
_IDENTITY = {"patient": ("patient", "patient_id", "donor", "donor_id"), "cohort": ("cohort", "dataset", "study")}
_SYMBOLS = ("gene_symbol", "gene_symbols", "gene_name", "symbol", "feature_name", "SYMBOL")
_ENSEMBL_COLUMNS = ("gene_ids", "gene_id", "ensembl", "ensembl_id", "ensemblid")
_LABELS = ("label", "annotation")


def matches(path: Path) -> bool:
    """Whether the path is an .h5ad, or a folder that holds some."""
    return bool(_files(path))


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the .h5ad files, each a slide named after its file."""
    return [SlideSource(file.stem, NAME, partial(_read, file)) for file in _files(path)]


def accepts(path: Path) -> bool:
    """Whether the path is one .h5ad."""
    return path.suffix.lower() == ".h5ad"


def read(path: Path, slide_id: str, *, coords: Coordinates | None = None, choices: Choices = DEFAULT) -> Draft:
    """Read one .h5ad, without its image.

    Parameters
    ----------
    path
        The file.
    slide_id
        Name of the slide.
    coords
        Coordinates from elsewhere, in place of the file's own.
    choices
        Of no use here.

    Raises
    ------
    InputError
        When the file is damaged, holds no raw counts or no coordinates, or several slides.
    """
    import anndata

    with reading(path), _anndata_errors(path):
        try_hdf5(path)
        adata = anndata.read_h5ad(path)
        return _draft(adata, path, slide_id, coords)


@contextmanager
def _anndata_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # anndata's error for an encoding that it does not know is a plain Exception of a private module.
        if type(error).__name__ != "IORegistryError":
            raise
        raise InputError(
            f"{path} is damaged or of a newer anndata ({str(error).splitlines()[0]}); copy it again."
        ) from error


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if accepts(path) else []
    return sorted(path.glob("*.h5ad"))


def _read(path: Path, size: PixelSize) -> Slide:
    draft = read(path, path.stem)
    image_path = find_image(path.parent, path.stem)
    draft = replace(
        draft,
        image=open_image(image_path) if image_path else None,
        sources=(*draft.sources, *([image_path] if image_path else [])),
        without_image="no image beside the .h5ad: counts only.",
    )
    return build_slide(draft, size)


def _draft(adata: Any, path: Path, slide_id: str, coords: Coordinates | None) -> Draft:
    libraries = adata.uns.get("spatial")
    libraries = dict(libraries) if hasattr(libraries, "keys") else {}
    if len(libraries) > 1:
        raise InputError(f"{path.name} holds {len(libraries)} slides ({', '.join(libraries)}); write one file a slide.")
    scale = next((dict(library.get("scalefactors", {})) for library in libraries.values()), {})
    kept = np.ones(adata.n_obs, dtype=bool)
    notes = []
    if "in_tissue" in adata.obs:
        kept = adata.obs["in_tissue"].astype(str).str.lower().isin(["1", "1.0", "true"]).to_numpy()
        if not kept.all():
            notes.append(f"{int((~kept).sum())} of {len(kept)} spots are off the tissue and were dropped.")
    identity = {key: _constant(adata, names) for key, names in _IDENTITY.items()}
    notes += [f"several values of {key}: left unknown." for key, value in identity.items() if value is None]
    label = next((name for name in _LABELS if name in adata.obs), None)
    ids = adata.obs_names.to_numpy(dtype=np.str_)
    stated = scale.get("microns_per_pixel") or scale.get("mpp") or adata.uns.get("mpp")
    return Draft(
        slide_id=slide_id,
        layout=NAME,
        coords=coords or _coordinates(adata, path, kept, "spot_diameter_fullres" in scale),
        counts=counts_of(adata, path, kept),
        patient=identity["patient"] or "",
        cohort=identity["cohort"] or "",
        stated_mpp=plausible_mpp(number_of(stated)),
        labels=_labels(ids, adata.obs[label]) if label else None,
        sources=(path,),
        notes=tuple(notes),
        extra={str(key): repr(float(value)) for key, value in scale.items() if number_of(value) is not None},
    )


def _coordinates(adata: Any, path: Path, kept: NDArray[np.bool_], visium: bool) -> Coordinates:
    if "spatial" in adata.obsm:
        xy = np.asarray(adata.obsm["spatial"], dtype=np.float64)[..., :2]
    elif {"pxl_col_in_fullres", "pxl_row_in_fullres"} <= set(adata.obs):
        xy = adata.obs[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64)
    else:
        raise InputError(f"{path.name} has no coordinates: neither obsm['spatial'] nor pxl_col_in_fullres in obs.")
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise InputError(f"{path.name}: obsm['spatial'] has shape {xy.shape}; x and y of each spot are needed.")
    ids, rows = adata.obs_names.to_numpy(dtype=np.str_)[kept], np.flatnonzero(kept) + 1
    with naming(path.name):
        check_ids(ids, rows)
    array = None
    if {"array_row", "array_col"} <= set(adata.obs):
        steps = adata.obs[["array_row", "array_col"]].to_numpy(dtype=np.float64)[kept]
        with naming(path.name):
            check_places(steps, ids, rows, "array coordinates (array_row, array_col)")
        array = np.rint(steps).astype(np.int64)
    notes: tuple[str, ...] = ()
    pitch = number_of(adata.uns.get("pitch_um")) or TECHNOLOGY_PITCH_UM.get(
        str(adata.uns.get("technology", "")).lower()
    )
    if pitch is None and visium and array is not None and is_staggered(array[:, 0], array[:, 1]):
        pitch = VISIUM_PITCH_UM
        notes = ("taken for Visium (100 um between spots) by its hexagonal array and scale factors.",)
    return Coordinates(ids, xy[kept], array, pitch_um=pitch, notes=notes, rows=rows)


def counts_of(adata: Any, path: Path, kept: NDArray[np.bool_]) -> CountTable:
    """Return the raw counts of the kept spots: of the layer ``counts``, of X, or of raw, the first that are whole.

    Raises
    ------
    InputError
        When there are none.
    """
    candidates = [(adata.layers["counts"], adata.var)] if "counts" in adata.layers else []
    candidates += [(adata.X, adata.var)] if adata.X is not None else []
    candidates += [(adata.raw.X, adata.raw.var)] if adata.raw is not None else []
    if not candidates:
        raise InputError(f"{path.name} has no counts: neither X nor layers['counts'].")
    raw = ((_checked(values), var) for values, var in candidates)
    matrix, var = next(((m, var) for m, var in raw if np.array_equal(m.data, np.floor(m.data))), (None, None))
    if matrix is None or var is None:
        raise InputError(
            f"{path.name} holds no raw counts: its values are fractions, so normalised; put the raw counts in "
            "layers['counts']."
        )
    names = [str(name) for name in var.index]
    by_id = sum(bool(_ENSEMBL.match(name)) for name in names) > len(names) / 2
    columns = _SYMBOLS if by_id else _ENSEMBL_COLUMNS
    other = next((var[name].astype(str).tolist() for name in columns if name in var), None)
    symbols, ensembl = (other or names, names) if by_id else (names, other or ())
    ids = adata.obs_names.to_numpy(dtype=np.str_)[kept]
    return count_table(path, ids, sparse.csr_matrix(matrix[np.flatnonzero(kept)], dtype=np.float32), symbols, ensembl)


def _checked(values: Any) -> sparse.csr_matrix:
    check = getattr(values, "check_format", None)
    if check is not None:
        check(full_check=True)  # an index out of range would be a crash later on
    return sparse.csr_matrix(values)


def _constant(adata: Any, names: tuple[str, ...]) -> str | None:
    """Return the one value of the first column there is, "" where there is none, None where it varies."""
    for name in names:
        if name in adata.obs:
            values = {str(value) for value in adata.obs[name].dropna().unique()} - {""}
            return None if len(values) > 1 else next(iter(values), "")
        if isinstance(adata.uns.get(name), str):
            return str(adata.uns[name])
    return ""


def _labels(ids: NDArray[np.str_], column: Any) -> dict[str, str]:
    return {name: "" if value != value else str(value) for name, value in zip(ids.tolist(), column, strict=True)}


def number_of(value: Any) -> float | None:
    """Return a value as a number, or None where it is none."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
