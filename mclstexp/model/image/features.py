"""Image features of a slide's spots: read ahead, encoded once, kept by patch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import PatchSpec
from mclstexp.data.ahead import ahead
from mclstexp.data.patches import check_inside, read_patch
from mclstexp.errors import InputError
from mclstexp.model.image.backbone import Backbone
from mclstexp.model.image.cache import Cache, FeatureCache, feature_cache
from mclstexp.model.image.dense import TILE_PX, Field, check_dense, encode_dense, n_tiles
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.kept import FEATURES, field_names, scaled
from mclstexp.model.linear_features import Plan, SummedFeatures
from mclstexp.slide import Slide
from mclstexp.types import BoolArray, FloatArray, IdArray, Progress

__all__ = ["FEATURES", "READ", "Cache", "FeatureCache", "feature_cache", "missing", "slide_features"]

READ = 128
"""Patches read at a time: a whole number of any device's batches."""

KEPT_EVERY = 2048
"""Spots after which what was encoded goes to the cache: what an interruption costs at most."""


@dataclass(frozen=True)
class _Field:
    """One backbone's features at one field of view.

    Attributes
    ----------
    member, scale, patch
        The backbone, the field of view as a multiple of the patch's side, and the patch as it sees it.
    name
        What the cache calls it; "" where nothing is kept.
    columns
        Where its features are in a spot's vector.
    """

    member: Backbone
    scale: float
    patch: PatchSpec
    name: str
    columns: slice


def slide_features(
    slide: Slide,
    encoder: ImageEncoder,
    patch: PatchSpec,
    *,
    cache: FeatureCache | None = None,
    on_progress: Progress | None = None,
) -> FloatArray:
    """Return the image features ``(n, F)`` float32 of a slide's spots, scales side by side, views averaged.

    Within a scale the parts of each backbone follow each other. The cache keeps them by patch, a backbone and a field
    of view apart: what one set of spots left serves any other.

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
    fields = _fields(slide, encoder, patch, cache)
    out = np.empty((len(slide), fields[-1].columns.stop), dtype=np.float32)
    xy = slide.spots.xy_px
    lacking = [~cache.load(field.name, xy, out[:, field.columns]) for field in fields]
    if any(rows.any() for rows in lacking):
        try:
            encoding = _Encoding(slide, patch, fields, lacking, out)
            if encoder.spec.dense:
                encoding.run_dense(cache, on_progress)
            else:
                encoding.run(cache, on_progress)
        finally:
            slide.image.close()
        cache.shrink()
    return out


def summed_features(
    slide: Slide, encoder: ImageEncoder, patch: PatchSpec, plan: Plan, *, on_progress: Progress | None = None
) -> SummedFeatures:
    """Encode tissue tile by tile, and keep of each spot only what a plan asks of its features.

    They are the features of `slide_features`, and nothing of them is cached.

    Raises
    ------
    InputError
        As `slide_features`.
    """
    if slide.image is None:
        raise InputError(f"Slide {slide.slide_id} has no image: its patches cannot be encoded.")
    if patch.mpp is not None:
        slide.require_mpp()
    check_inside(slide)
    summed, rows = SummedFeatures(len(slide), plan), np.arange(len(slide))
    fields = _fields(slide, encoder, patch, FeatureCache())
    n_all, n_done = sum(n_tiles(slide, member, patch, rows) for member in encoder.members), 0

    def count() -> None:
        nonlocal n_done
        n_done += 1
        if on_progress:
            on_progress(f"encoding {slide.slide_id}, tiles", n_done, n_all)

    def take(first: int, places: IdArray, start: int, values: FloatArray) -> None:
        summed.add(places, first + start, values)

    try:
        for member in encoder.members:
            check_dense(member)
            own = [field for field in fields if field.member is member]
            parts = [Field(field.scale, partial(take, field.columns.start)) for field in own]
            encode_dense(slide, member, patch, rows, parts, count)
    finally:
        slide.image.close()
    return summed


def missing(slide: Slide, encoder: ImageEncoder, patch: PatchSpec, cache: FeatureCache) -> list[tuple[Backbone, int]]:
    """Return how many patches each backbone has still to encode, a spot's fields of view counted each.

    Where tissue is encoded tile by tile, the number that costs as much.
    """
    n_scales, ready = len(encoder.spec.scales), cache.ready()
    names = _names(slide, encoder, patch) if ready else [[""] * n_scales] * len(encoder.members)
    if encoder.spec.dense:
        return [
            (member, _tiles_as_patches(slide, member, patch, own, cache))
            for member, own in zip(encoder.members, names, strict=True)
        ]
    held = [[int(cache.holds(name, slide.spots.xy_px).sum()) for name in own] for own in names]
    return [(member, len(slide) * n_scales - sum(own)) for member, own in zip(encoder.members, held, strict=True)]


def _tiles_as_patches(
    slide: Slide, member: Backbone, patch: PatchSpec, names: Sequence[str], cache: FeatureCache
) -> int:
    """Return how many patches cost as much as the tiles that are lacking."""
    held = np.all([cache.holds(name, slide.spots.xy_px) for name in names], axis=0)
    spots = np.flatnonzero(~held)
    return round(n_tiles(slide, member, patch, spots) * (TILE_PX / patch.size_px) ** 2) if len(spots) else 0


def _names(slide: Slide, encoder: ImageEncoder, patch: PatchSpec) -> list[list[str]]:
    return field_names(slide, [member.spec for member in encoder.members], encoder.digests(), patch)


def _fields(slide: Slide, encoder: ImageEncoder, patch: PatchSpec, cache: FeatureCache) -> list[_Field]:
    """Return the parts of a spot's vector: scale by scale, within each the backbones in their order."""
    scales, members = encoder.spec.scales, encoder.members
    names = _names(slide, encoder, patch) if cache.ready() else [[""] * len(scales)] * len(members)
    widths = [
        cache.width(own[0]) or sum(m.blocks(patch.size_px).values()) for m, own in zip(members, names, strict=True)
    ]
    fields, start = [], 0
    for number, scale in enumerate(scales):
        for member, own, width in zip(members, names, widths, strict=True):
            columns = slice(start, start + width)
            fields.append(_Field(member, scale, scaled(patch, scale), own[number], columns))
            start += width
    return fields


@dataclass(frozen=True)
class _Read:
    """Patches ``(b, size, size, 3)`` of the spots of one block at one field of view.

    ``done`` counts spots, ``ends_block`` says that no field of view of the block is left.
    """

    rows: IdArray
    patch: PatchSpec
    patches: NDArray[np.uint8]
    done: int
    ends_block: bool


@dataclass(frozen=True)
class _Encoding:
    """What is lacking of a slide's features: ``lacking`` has ``(n,)`` rows a field, ``out`` is filled in."""

    slide: Slide
    patch: PatchSpec
    fields: Sequence[_Field]
    lacking: Sequence[BoolArray]
    out: FloatArray

    @cached_property
    def spots(self) -> IdArray:
        """Rows that lack anything."""
        return np.flatnonzero(np.any(self.lacking, axis=0))

    def run(self, cache: FeatureCache, on_progress: Progress | None) -> None:
        """Encode, while a thread reads ahead; a spot is done when all of its fields of view are."""
        n_kept = 0
        with ahead(self._reads()) as reads:
            for read in reads:
                for field, rows in zip(self.fields, self.lacking, strict=True):
                    wanted = rows[read.rows]
                    if field.patch == read.patch and wanted.any():
                        self.out[read.rows[wanted], field.columns] = field.member.features(read.patches[wanted])
                if on_progress:
                    on_progress(f"encoding {self.slide.slide_id}", read.done, len(self.spots))
                if read.ends_block and (read.done - n_kept >= KEPT_EVERY or read.done == len(self.spots)):
                    self._keep(cache, self.spots[n_kept : read.done])
                    n_kept = read.done

    def run_dense(self, cache: FeatureCache, on_progress: Progress | None) -> None:
        """Encode the tissue tile by tile; a backbone that lacks anything of a spot pools all of its fields of view."""
        members = list(dict.fromkeys(field.member for field in self.fields))
        for member in members:
            check_dense(member)
        n_all, n_done = sum(n_tiles(self.slide, member, self.patch, self.spots) for member in members), 0

        def count() -> None:
            nonlocal n_done
            n_done += 1
            if on_progress:
                on_progress(f"encoding {self.slide.slide_id}, tiles", n_done, n_all)

        for member in members:
            own = [field for field in self.fields if field.member is member]
            parts = [Field(field.scale, partial(self._take, field.columns.start)) for field in own]
            encode_dense(self.slide, member, self.patch, self.spots, parts, count)
        for start in range(0, len(self.spots), KEPT_EVERY):
            self._keep(cache, self.spots[start : start + KEPT_EVERY])

    def _take(self, first: int, places: IdArray, start: int, values: FloatArray) -> None:
        columns = slice(first + start, first + start + values.shape[1])
        self.out[self.spots[places], columns] = values

    def _reads(self) -> Iterator[_Read]:
        """Read block by block, within a block field of view by field of view: neighbours share decoded tiles."""
        slide, image = self.slide, self.slide.image
        if image is None:
            return
        mpp = slide.mpp
        views = list(dict.fromkeys(field.patch for field in self.fields))
        pairs = list(zip(self.fields, self.lacking, strict=True))
        needed = {view: np.any([lacks for field, lacks in pairs if field.patch == view], axis=0) for view in views}
        for start in range(0, len(self.spots), READ):
            block = self.spots[start : start + READ]
            for number, view in enumerate(views, start=1):
                rows = block[needed[view][block]]
                patches = np.empty((len(rows), view.size_px, view.size_px, 3), dtype=np.uint8)
                for place, row in enumerate(rows):
                    patches[place] = read_patch(image, slide.spots.xy_px[row], view, mpp)
                yield _Read(rows, view, patches, start + len(block) * number // len(views), number == len(views))

    def _keep(self, cache: FeatureCache, spots: IdArray) -> None:
        """Leave what was encoded of these spots in the cache."""
        image = "" if self.slide.image is None else self.slide.image.path.name
        for field, lacks in zip(self.fields, self.lacking, strict=True):
            rows = spots[lacks[spots]]
            if field.name and len(rows):
                about = {"encoder": field.member.spec.name, "image": image}
                cache.store(field.name, self.slide.spots.xy_px[rows], self.out[rows, field.columns], about)
