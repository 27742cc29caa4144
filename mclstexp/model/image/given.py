"""Whether features that another tool computed are those of a model's own encoder: checked, not assumed."""

from __future__ import annotations

import dataclasses

import numpy as np

from mclstexp.config import EncoderSpec, PatchSpec
from mclstexp.data.patches import iter_patches
from mclstexp.data.tile_features import TileFeatures
from mclstexp.errors import MismatchError
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.slide import Slide
from mclstexp.types import FloatArray

CHECKED_TILES = 16
"""Tiles that are encoded anew for comparison."""

LEAST_AGREEMENT = 0.8
"""Median correlation of a tile's features with the encoder's own, after the mean over tiles is taken off: resampling
by another library leaves more than 0.9, other weights of the same architecture leave about nothing."""

SPAN_TOLERANCE = 0.05
"""Share by which a tile's side may differ from the model's patch."""

ALIASES = {
    "uni_v1": "uni",
    "uni_v2": "uni2-h",
    "hoptimus0": "h-optimus-0",
    "hoptimus1": "h-optimus-1",
    "gigapath": "prov-gigapath",
    "lunit-vits8": "vit_small_patch8_224.lunit_dino",
}
"""What TRIDENT calls encoders that hubs call otherwise."""


def check_given(given: TileFeatures, slide: Slide, encoder: ImageEncoder, patch: PatchSpec) -> str:
    """Refuse features that the encoder did not make; return how it was checked, in a sentence.

    Weights of a known digest are enough. With the slide's image some tiles are encoded anew and compared. Without, the
    encoder's name has to be stated, and agree.

    Raises
    ------
    MismatchError
        When something differs, with both values, or nothing says which encoder made them.
    """
    spec, own = encoder.spec, given.weights_sha256 == encoder.digest()
    if given.weights_sha256 and not own:
        raise MismatchError(
            f"{given.name} is of weights {given.weights_sha256[:12]}, the model's encoder {spec.name} has "
            f"{encoder.digest()[:12]}; encode the tiles with the model's own weights."
        )
    if len(spec.scales) != 1:
        refuse_unusual(spec)
    _check_length(given, encoder, patch)
    _check_span(given, slide, spec, patch)
    if own:
        return f"The features of {given.name} are of the model's own weights."
    if slide.image is not None:
        return _compare(given, slide, encoder, patch)
    refuse_unusual(spec)
    _check_name(given, spec)
    return (
        f"The features of {given.name} are taken for those of {spec.name} by its name alone: without the slide's image "
        "its weights cannot be compared."
    )


def refuse_unusual(spec: EncoderSpec) -> None:
    """Refuse an encoder whose features no other tool makes, and say which settings would allow it."""
    if spec.pooling == "last" and spec.views == 1 and len(spec.scales) == 1:
        return
    raise MismatchError(
        f"The model's features are {spec.pooling} pooling over {spec.views} views at {len(spec.scales)} fields of "
        "view; other tools compute the encoder's last output, of one view at one. A model trained with --set "
        "encoder.pooling=last --set encoder.views=1 --set encoder.scales=[1.0] --set shared.context_scales=[0] takes "
        "them."
    )


def _check_length(given: TileFeatures, encoder: ImageEncoder, patch: PatchSpec) -> None:
    wanted = encoder.n_features_per_scale(patch.size_px) * len(encoder.spec.scales)
    if given.values.shape[1] != wanted:
        refuse_unusual(encoder.spec)
        stated = f" ({given.encoder})" if given.encoder else ""
        raise MismatchError(
            f"{given.name}{stated} has {given.values.shape[1]} features a tile, the model's encoder "
            f"{encoder.spec.name} makes {wanted}; it is of another encoder."
        )


def _check_span(given: TileFeatures, slide: Slide, spec: EncoderSpec, patch: PatchSpec) -> None:
    """Compare the tile with the patch that the model was trained on, in pixels of the slide."""
    wanted = _own_patch(spec, patch).span_px(slide.mpp)
    if abs(given.tile_px - wanted) > SPAN_TOLERANCE * wanted:
        um = "" if slide.mpp is None else f" ({given.tile_px * slide.mpp:.0f} um)"
        wanted_um = "" if slide.mpp is None else f" ({wanted * slide.mpp:.0f} um)"
        raise MismatchError(
            f"{given.name} has tiles of {given.tile_px:.0f} px{um}, the model's patches are {wanted:.0f} px{wanted_um} "
            "on this slide; cut tiles of that size, or give the right --mpp or --tile-px."
        )


def _own_patch(spec: EncoderSpec, patch: PatchSpec) -> PatchSpec:
    return dataclasses.replace(patch, scale=patch.scale * spec.scales[0])


def _compare(given: TileFeatures, slide: Slide, encoder: ImageEncoder, patch: PatchSpec) -> str:
    rows = np.unique(np.linspace(0, len(given) - 1, CHECKED_TILES).round().astype(np.int64))
    patches = np.concatenate(
        list(iter_patches(slide.take(rows), _own_patch(encoder.spec, patch), batch_size=len(rows)))
    )
    own = encoder.features(patches)
    found = agreement(given.values[rows], own)
    if found < LEAST_AGREEMENT:
        stated = f", which its file calls {given.encoder}," if given.encoder else ""
        raise MismatchError(
            f"{given.name} is not what the model's encoder {encoder.spec.name} makes of the same tiles: they{stated} "
            f"agree by {found:.2f}, and {LEAST_AGREEMENT} of 1 is needed ({len(rows)} tiles encoded anew); other "
            "weights, another normalisation, or coordinates of another slide?"
        )
    return f"The features of {given.name} agree by {found:.2f} of 1 with {len(rows)} tiles encoded anew."


def agreement(given: FloatArray, own: FloatArray) -> float:
    """Return the median over tiles of the cosine between two sets of features ``(n, F)``, the own mean taken off."""
    centre = own.mean(axis=0) if len(own) > 2 else np.zeros(own.shape[1], dtype=np.float32)
    a, b = (given - centre).astype(np.float64), (own - centre).astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    return float(np.median(np.where(lengths > 0, cosines, 0.0)))


def _check_name(given: TileFeatures, spec: EncoderSpec) -> None:
    if not given.encoder:
        raise MismatchError(
            f"Nothing says which encoder made {given.name}; give the slide's image, to compare with the model's "
            f"{spec.name}, or name the encoder."
        )
    if _plain(given.encoder) != _plain(spec.name):
        raise MismatchError(f"{given.name} is of encoder {given.encoder}, the model's is {spec.name}.")


def _plain(name: str) -> str:
    """Return a name without hub, owner, and the tag of its weights."""
    bare = name.lower().rpartition(":")[2].rpartition("/")[2]
    bare = ALIASES.get(bare, bare)
    return bare.partition(".")[0]
