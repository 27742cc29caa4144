"""Image features of a slide's spots, computed once and cached."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mclstexp.config import PatchSpec, to_dict
from mclstexp.data.patches import check_inside, iter_patches
from mclstexp.errors import InputError
from mclstexp.files import new_file, sha256_file
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.slide import Slide
from mclstexp.types import FloatArray

Progress = Callable[[int, int], None]
READ = 128
"""Patches read at a time."""


FEATURES = 3
"""To be raised whenever a change of code changes features, so that no cached ones of before are taken."""


@dataclass(frozen=True)
class FeatureCache:
    """A folder of feature arrays, named by everything that decides their values.

    ``folder=None`` keeps nothing.
    """

    folder: Path | None = None

    def path(self, key: str) -> Path | None:
        """Return the file of a key, or None when nothing is kept."""
        return None if self.folder is None else self.folder / "features" / key[:2] / f"{key}.npy"

    def load(self, key: str, n_spots: int) -> FloatArray | None:
        """Return the cached features, or None when there are none or the file is damaged (then made anew)."""
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        try:
            features = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            return None
        return features if features.ndim == 2 and len(features) == n_spots else None

    def store(self, key: str, features: FloatArray) -> None:
        """Keep features under a key."""
        path = self.path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, force=True) as work:
            # numpy's own write of an array to a full disk raises an error that does not say so.
            buffer = io.BytesIO()
            np.save(buffer, features, allow_pickle=False)
            work.write_bytes(buffer.getbuffer())


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
    key = _key(slide, encoder, patch) if cache.folder else ""
    known = cache.load(key, len(slide)) if key else None
    if known is not None:
        return known
    blocks = []
    n_scales = len(encoder.spec.scales)
    for s, scale in enumerate(encoder.spec.scales):
        spec = dataclasses.replace(patch, scale=patch.scale * scale)
        rows = []
        for patches in iter_patches(slide, spec, batch_size=READ):
            rows.append(encoder.features(patches))
            if on_progress:
                on_progress(s * len(slide) + sum(map(len, rows)), n_scales * len(slide))
        blocks.append(np.concatenate(rows))
    slide.image.close()
    features = np.concatenate(blocks, axis=1)
    if key:
        cache.store(key, features)
    return features


def _key(slide: Slide, encoder: ImageEncoder, patch: PatchSpec) -> str:
    parts = {
        "version": FEATURES,
        "encoder": encoder.digest(),
        "spec": to_dict(encoder.spec),
        "patch": to_dict(patch),
        "mpp": slide.mpp if patch.mpp is not None else None,
        "image": sha256_file(slide.image.path) if slide.image else None,
        "xy_px": hashlib.sha256(np.ascontiguousarray(slide.spots.xy_px).tobytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
