"""Image features of a slide's spots, computed once and cached."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import platformdirs

from mclstexp.config import PatchSpec
from mclstexp.data.patches import check_inside, iter_patches
from mclstexp.errors import InputError, StorageError
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.notes import warn
from mclstexp.settings import to_dict
from mclstexp.slide import Slide
from mclstexp.storage import new_file, sha256_input, storage_errors
from mclstexp.types import FloatArray, Progress, StrPath

READ = 128
"""Patches read at a time."""

FEATURES = 3
"""To be raised whenever a change of code changes features, so that no cached ones of before are taken."""

Cache = bool | StrPath
"""Where image features are kept between runs: True for the user's cache folder, False for nowhere, or a folder."""


class FeatureCache:
    """A folder of feature arrays, named by everything that decides their values; ``None`` keeps nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def ready(self) -> bool:
        """Whether features can be kept; a folder that cannot be used is said once, and done without."""
        if self._folder is None:
            return False
        try:
            with storage_errors(self._folder):
                (self._folder / "features").mkdir(parents=True, exist_ok=True)
        except (StorageError, OSError) as error:
            self._give_up(error)
        return self._folder is not None

    def load(self, key: str, n_spots: int) -> FloatArray | None:
        """Return the cached features, or None when there are none or the file is damaged (then made anew)."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            features = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            return None
        return features if features.ndim == 2 and len(features) == n_spots else None

    def store(self, key: str, features: FloatArray) -> None:
        """Keep features under a key; where that fails, say so and keep none from then on."""
        path = self._path(key)
        if path is None:
            return
        # numpy's own write of an array to a full disk raises an error that does not say so.
        buffer = io.BytesIO()
        np.save(buffer, features, allow_pickle=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path, force=True) as work:
                work.write_bytes(buffer.getbuffer())
        except (StorageError, OSError) as error:
            self._give_up(error)

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / "features" / key[:2] / f"{key}.npy"

    def _give_up(self, error: Exception) -> None:
        warn(f"Image features are not kept, the cache cannot be used: {error}")
        self._folder = None


def feature_cache(cache: Cache) -> FeatureCache:
    """Return the cache that a user asked for."""
    if cache is False:
        return FeatureCache()
    return FeatureCache(Path(platformdirs.user_cache_dir("mclstexp")) if cache is True else Path(cache))


def slide_features(
    slide: Slide,
    encoder: ImageEncoder,
    patch: PatchSpec,
    *,
    cache: FeatureCache | None = None,
    on_progress: Progress | None = None,
) -> FloatArray:
    """Return the image features ``(n, F)`` float32 of a slide's spots, scales side by side, views averaged.

    Raises
    ------
    InputError
        The slide has no image, or no pixel size where the patch is defined in um, or spots outside the image.
    """
    if slide.image is None:
        raise InputError(f"Slide {slide.slide_id} has no image: its patches cannot be encoded.")
    if patch.mpp is not None:
        slide.require_mpp()
    check_inside(slide)
    cache = cache or FeatureCache()
    key = _key(slide, encoder, patch) if cache.ready() else ""
    known = cache.load(key, len(slide)) if key else None
    if known is not None:
        return known
    features = _encode(slide, encoder, patch, on_progress)
    slide.image.close()
    if key:
        cache.store(key, features)
    return features


def _encode(slide: Slide, encoder: ImageEncoder, patch: PatchSpec, on_progress: Progress | None) -> FloatArray:
    """Encode every spot at every scale. A spot counts as done when all of its fields of view are."""
    blocks, n_scales = [], len(encoder.spec.scales)
    for number, scale in enumerate(encoder.spec.scales):
        rows: list[FloatArray] = []
        for patches in iter_patches(slide, dataclasses.replace(patch, scale=patch.scale * scale), batch_size=READ):
            rows.append(encoder.features(patches))
            if on_progress:
                passed = number * len(slide) + sum(map(len, rows))
                on_progress(f"encoding {slide.slide_id}", passed // n_scales, len(slide))
        blocks.append(np.concatenate(rows))
    return np.concatenate(blocks, axis=1)


def _key(slide: Slide, encoder: ImageEncoder, patch: PatchSpec) -> str:
    parts = {
        "version": FEATURES,
        "encoder": encoder.digest(),
        "spec": to_dict(encoder.spec),
        "patch": to_dict(patch),
        "mpp": slide.mpp if patch.mpp is not None else None,
        "image": sha256_input(slide.image.path) if slide.image else None,
        "xy_px": hashlib.sha256(np.ascontiguousarray(slide.spots.xy_px).tobytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
