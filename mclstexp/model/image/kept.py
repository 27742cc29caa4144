"""A slide's image features as the cache has them, without the encoder: loading torch takes longer than a query."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mclstexp.config import EncoderSpec, PatchSpec
from mclstexp.data.patches import check_inside
from mclstexp.model.image.cache import FeatureCache
from mclstexp.settings import identity_dict, to_dict
from mclstexp.slide import Slide
from mclstexp.storage import canonical_json, sha256_bytes
from mclstexp.types import FloatArray

FEATURES = 4
"""To be raised whenever a change of code changes features, so that no cached ones of before are taken."""


def kept_features(
    slide: Slide, spec: EncoderSpec, digests: Sequence[str], patch: PatchSpec, cache: FeatureCache
) -> FloatArray | None:
    """Return what `slide_features` would, where the cache holds all of it; None otherwise.

    Parameters
    ----------
    slide, patch, cache
        As `slide_features` takes them.
    spec, digests
        The encoder's settings, and the digest of each backbone's weights.
    """
    if slide.image is None or not len(slide) or (patch.mpp is not None and slide.mpp is None) or not cache.ready():
        return None
    check_inside(slide)
    names = field_names(slide, spec.members, digests, patch)
    widths = [cache.width(own[0]) for own in names]
    if any(width is None for width in widths):
        return None
    total = sum(width or 0 for width in widths)
    out, start = np.empty((len(slide), total * len(spec.scales)), dtype=np.float32), 0
    for number in range(len(spec.scales)):
        for own, width in zip(names, widths, strict=True):
            columns = slice(start, start + (width or 0))
            if not cache.load(own[number], slide.spots.xy_px, out[:, columns]).all():
                return None
            start = columns.stop
    return out


def is_kept(slide: Slide, spec: EncoderSpec, digests: Sequence[str], patch: PatchSpec, cache: FeatureCache) -> bool:
    """Whether the cache names every feature of a slide; `kept_features` says whether they are whole."""
    if slide.image is None or (patch.mpp is not None and slide.mpp is None) or not cache.ready():
        return False
    names = field_names(slide, spec.members, digests, patch)
    return all(cache.holds(name, slide.spots.xy_px).all() for own in names for name in own)


def scaled(patch: PatchSpec, scale: float) -> PatchSpec:
    """Return the patch as a field of view sees it."""
    return dataclasses.replace(patch, scale=patch.scale * scale)


def field_names(
    slide: Slide, specs: Sequence[EncoderSpec], digests: Sequence[str], patch: PatchSpec
) -> list[list[str]]:
    """Name each backbone's fields of view by all that decides features but the spot's place."""
    shared = {
        "version": FEATURES,
        "mpp": slide.mpp if patch.mpp is not None else None,
        "image": slide.image.digest() if slide.image else None,
        # Patches of a pyramid come from its levels; before they did, its features were kept under the same name.
        **({"levels": slide.image.levels} if slide.image and len(slide.image.levels) > 1 else {}),
    }
    names = []
    for member, digest in zip(specs, digests, strict=True):
        spec = dataclasses.replace(member, scales=(1.0,))  # the cache keeps fields of view apart
        if spec.input_px == (patch.size_px,):
            spec = dataclasses.replace(spec, input_px=None)  # the patch as it is
        own = shared | {"encoder": digest, "spec": identity_dict(spec)}
        names.append([_name(own | {"patch": to_dict(scaled(patch, scale))}) for scale in member.scales])
    return names


def _name(facts: dict[str, Any]) -> str:
    return sha256_bytes(canonical_json(facts).encode())
