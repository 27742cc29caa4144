"""Image features of a slide's spots, computed once and cached."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import platformdirs

from mclstexp.config import PatchSpec
from mclstexp.data.patches import check_inside, iter_patches
from mclstexp.errors import InputError, StorageError
from mclstexp.model.image.backbone import Backbone
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.notes import warn
from mclstexp.settings import to_dict
from mclstexp.slide import Slide
from mclstexp.storage import new_file, storage_errors
from mclstexp.types import FloatArray, Progress, StrPath

READ = 128
"""Patches read at a time."""

FEATURES = 4
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

    def holds(self, key: str) -> bool:
        """Whether there are features under a key; `load` says whether they are whole."""
        path = self._path(key)
        return path is not None and path.is_file()

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

    Within a scale the parts of each backbone follow each other; the cache keeps them a backbone apart.

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
    members = encoder.members
    keys = _keys(slide, encoder, patch) if cache.ready() else [""] * len(members)
    parts = [cache.load(key, len(slide)) if key else None for key in keys]
    missing = [place for place, part in enumerate(parts) if part is None]
    if missing:
        encoded = _encode(slide, [members[place] for place in missing], patch, on_progress)
        slide.image.close()
        for place, features in zip(missing, encoded, strict=True):
            parts[place] = features
            if keys[place]:
                cache.store(keys[place], features)
    return _side_by_side([part for part in parts if part is not None], len(encoder.spec.scales))


def to_be_encoded(slide: Slide, encoder: ImageEncoder, patch: PatchSpec, cache: FeatureCache) -> list[Backbone]:
    """Return the backbones of which the cache does not hold the slide's features."""
    if not cache.ready():
        return encoder.members
    pairs = zip(encoder.members, _keys(slide, encoder, patch), strict=True)
    return [member for member, key in pairs if not cache.holds(key)]


def _encode(
    slide: Slide, members: Sequence[Backbone], patch: PatchSpec, on_progress: Progress | None
) -> list[FloatArray]:
    """Encode every spot at every scale, ``(n, F)`` a backbone. A spot is done when all of its fields of view are."""
    scales = members[0].spec.scales
    rows: list[list[list[FloatArray]]] = [[[] for _ in scales] for _ in members]
    for number, scale in enumerate(scales):
        done = 0
        for patches in iter_patches(slide, dataclasses.replace(patch, scale=patch.scale * scale), batch_size=READ):
            for member, own in zip(members, rows, strict=True):
                own[number].append(member.features(patches))
            done += len(patches)
            if on_progress:
                on_progress(f"encoding {slide.slide_id}", (number * len(slide) + done) // len(scales), len(slide))
    return [np.concatenate([np.concatenate(one) for one in own], axis=1) for own in rows]


def _side_by_side(parts: Sequence[FloatArray], n_scales: int) -> FloatArray:
    """Put the features of several backbones, ``(n, scales x F)`` each, beside each other within each scale."""
    if len(parts) == 1:
        return parts[0]
    by_scale = [part.reshape(len(part), n_scales, -1) for part in parts]
    return np.concatenate(by_scale, axis=2).reshape(len(parts[0]), -1)


def _keys(slide: Slide, encoder: ImageEncoder, patch: PatchSpec) -> list[str]:
    """Name each backbone's features of a slide by all that decides them: an ensemble takes what its members have."""
    shared = {
        "version": FEATURES,
        "patch": to_dict(patch),
        "mpp": slide.mpp if patch.mpp is not None else None,
        "image": slide.image.digest() if slide.image else None,
        "xy_px": hashlib.sha256(np.ascontiguousarray(slide.spots.xy_px).tobytes()).hexdigest(),
    }
    keys = []
    for member in encoder.members:
        spec = member.spec
        if spec.input_px == (patch.size_px,):
            spec = dataclasses.replace(spec, input_px=None)  # the patch as it is
        own = {"encoder": member.digest(), "spec": to_dict(spec)}
        keys.append(hashlib.sha256(json.dumps(shared | own, sort_keys=True).encode()).hexdigest())
    return keys
