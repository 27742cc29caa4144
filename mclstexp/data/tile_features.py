"""Image features of a slide's tiles that another tool computed: TRIDENT's and CLAM's ``.h5``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.anndata_file import reason
from mclstexp.data.apart.worker import opened_hdf5
from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.paths import require_file
from mclstexp.data.positions.coordinates import Coordinates, naming
from mclstexp.errors import InputError
from mclstexp.slide import MppSource, Slide
from mclstexp.types import FloatArray, StrPath


@dataclass(frozen=True, eq=False)
class TileFeatures:
    """Features of tiles, and what is known of how they were made.

    Attributes
    ----------
    values
        ``(n, F)`` float32, finite.
    corner_px
        ``(n, 2)`` float64 top left corners of the tiles as (x, y) at full resolution.
    tile_px
        Side of a tile in pixels of full resolution.
    encoder
        Name of the encoder as the other tool calls it, "" where it is unknown.
    weights_sha256
        Digest of its weights as `mclstexp.Model` has it (``model.encoder.digest()``), "" where it is unknown.
    name
        What messages call them.

    Raises
    ------
    InputError
        When shapes do not fit each other, a value is not finite, or a tile has no size.
    """

    values: FloatArray
    corner_px: NDArray[np.float64]
    tile_px: float
    encoder: str = ""
    weights_sha256: str = ""
    name: str = "features"

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.values, dtype=np.float32)
        corners = np.asarray(self.corner_px, dtype=np.float64)
        if values.ndim != 2 or not values.size:
            shape = " x ".join(map(str, values.shape))
            raise InputError(f"{self.name} has features of shape {shape}; tiles x features are needed.")
        if corners.shape != (len(values), 2):
            raise InputError(f"{self.name} has {len(values)} tiles but coordinates of shape {corners.shape}.")
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        if bad:
            raise InputError(f"{self.name} has {bad} of {len(values)} tiles with NaN or infinite features.")
        if not 1 <= self.tile_px <= 1e6:
            raise InputError(f"{self.name} has tiles of {self.tile_px:g} px; a side of at least 1 is needed.")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "corner_px", corners)

    def __len__(self) -> int:
        return len(self.values)

    def slide(
        self,
        image: StrPath | None = None,
        *,
        mpp: float | None = None,
        mpp_from: MppSource | None = None,
        patient: str = "",
    ) -> Slide:
        """Return the tiles as the spots of a slide, in their centres, named ``XxY`` by their corners.

        Parameters
        ----------
        image
            The slide's image, to check the features against and for the picture; None where it is not at hand.
        mpp
            Pixel size in um, needed where the image is not at hand or does not say it.
        mpp_from
            Which pixel size is right where ``mpp`` and the image's own disagree.
        patient
            Name of the patient, "" where unknown.

        Raises
        ------
        InputError
            When tiles lie outside the image, or two at one place.
        """
        ids = [f"{x:.0f}x{y:.0f}" for x, y in self.corner_px]
        places = Coordinates(np.asarray(ids), self.corner_px + self.tile_px / 2)
        path = None if image is None else require_file(image, "Image")
        draft = Draft(
            slide_id=_stem(path or Path(self.name)),
            layout="query",
            coords=places,
            image=None if path is None else open_image(path),
            patient=patient,
            sources=() if path is None else (path,),
            without_image="no image: the features alone.",
        )
        with naming(self.name):
            return build_slide(draft, PixelSize(mpp, mpp_from))


def read_features(path: StrPath, *, tile_px: float | None = None, encoder: str = "") -> TileFeatures:
    """Read the tile features that TRIDENT or CLAM wrote.

    Parameters
    ----------
    path
        An ``.h5`` with ``features`` ``(n, F)`` and ``coords`` ``(n, 2)``, the tiles' top left corners in pixels.
    tile_px
        Side of a tile at full resolution; needed where the file does not say it (CLAM's).
    encoder
        Name of the encoder; by default what the file or its folder (``features_NAME``) says.

    Raises
    ------
    InputError
        When the file is missing, damaged, holds one vector a slide, or does not say the size of its tiles.

    Examples
    --------
    >>> import h5py, numpy as np
    >>> with h5py.File("tiles.h5", "w") as file:
    ...     file["features"] = np.ones((2, 8), np.float32)
    ...     file["coords"] = np.array([[0, 0], [256, 0]])
    ...     file["coords"].attrs["patch_size_level0"] = 256
    >>> features = read_features("tiles.h5", encoder="resnet50")
    >>> features.values.shape, features.tile_px
    ((2, 8), 256.0)
    """
    file_path = require_file(path, "Features")
    try:
        with opened_hdf5(file_path) as file:
            absent = [name for name in ("features", "coords") if name not in file]
            if absent:
                raise InputError(f"{file_path.name} has no {absent[0]!r}; TRIDENT and CLAM write features and coords.")
            values, corners = np.asarray(file["features"]), np.asarray(file["coords"])
            said, about = dict(file["coords"].attrs), dict(file["features"].attrs)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file_path} is not a readable .h5 of tile features ({reason(error)}); copy it.") from error
    if values.dtype.kind not in "fiu" or corners.dtype.kind not in "fiu":
        kinds = f"{values.dtype} and {corners.dtype}"
        raise InputError(f"{file_path.name} holds {kinds} as features and coords; numbers are needed.")
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim == 1:
        raise InputError(f"{file_path.name} holds one vector of {len(values)} numbers for a slide; tiles' are needed.")
    side = tile_px if tile_px is not None else _side(said)
    if side is None:
        raise InputError(f"{file_path.name} does not say the size of its tiles; give their side with --tile-px.")
    stated = encoder or _encoder(about, file_path)
    return TileFeatures(values, corners, float(side), encoder=stated, name=file_path.name)


def _side(said: Mapping[str, Any]) -> float | None:
    """Return a tile's side at full resolution: as TRIDENT says it, or as it follows from CLAM's level."""
    if "patch_size_level0" in said:
        return float(said["patch_size_level0"])
    if "patch_size" not in said:
        return None
    if {"level0_magnification", "target_magnification"} <= set(said):
        return float(said["patch_size"]) * float(said["level0_magnification"]) / float(said["target_magnification"])
    shrink = np.atleast_1d(said.get("downsample", 1.0 if said.get("patch_level", 1) == 0 else np.nan))
    side = float(said["patch_size"]) * float(shrink[0]) * float(said.get("custom_downsample", 1))
    return side if np.isfinite(side) else None


def _encoder(about: Mapping[str, Any], path: Path) -> str:
    """Return the encoder's name: TRIDENT keeps features in a folder ``features_NAME``."""
    for text in (str(about.get("savetodir", "")), path.absolute().parent.name):
        found = re.search(r"features_([^/\\]+)[/\\]?$", text)
        if found:
            return found[1]
    return ""


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name
