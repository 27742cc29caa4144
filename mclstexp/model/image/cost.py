"""What encoding slides costs: how many patches and passes, and how long that takes here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mclstexp.config import EncoderSpec, PatchSpec
from mclstexp.model.image.cache import FeatureCache
from mclstexp.slide import Slide
from mclstexp.text import counted, duration

if TYPE_CHECKING:  # what is cached costs nothing, and torch takes seconds to load
    from mclstexp.model.image.encoder import ImageEncoder


@dataclass(frozen=True)
class Cost:
    """What is to be encoded.

    Attributes
    ----------
    encoder
        Its name.
    n_slides, n_spots
        How many there are.
    n_new
        Spots whose features no cache holds.
    passes
        Passes of the encoder a spot: fields of view x views.
    seconds
        How long the new ones take, at the pace of one batch measured here; 0 where there are none.
    """

    encoder: str
    n_slides: int
    n_spots: int
    n_new: int
    passes: int
    seconds: float

    @classmethod
    def of_cached(cls, spec: EncoderSpec, slides: Sequence[Slide]) -> Cost:
        """Return that of slides whose features are all cached."""
        return cls(spec.name, len(slides), sum(map(len, slides)), 0, len(spec.scales) * spec.views, 0.0)

    def __str__(self) -> str:
        said = (
            f"encoding {counted(self.n_spots, 'spot')} of {counted(self.n_slides, 'slide')}, "
            f"{self.passes} passes of {self.encoder} a spot"
        )
        if not self.n_new:
            return f"{said}: all are cached"
        cached = f", {self.n_spots - self.n_new:,} spots are cached" if self.n_new < self.n_spots else ""
        return f"{said}, {self.n_new * self.passes:,} in all{cached}: about {duration(self.seconds)} here"


def cost_of(slides: Sequence[Slide], encoder: ImageEncoder, patch: PatchSpec, cache: FeatureCache) -> Cost:
    """Count what is not cached, and measure each backbone's pace on one batch where there is something."""
    from mclstexp.model.image.features import missing

    spec, seconds, n_new = encoder.spec, 0.0, 0
    patches = dict.fromkeys(encoder.members, 0)
    for slide in slides:
        lacking = missing(slide, encoder, patch, cache)
        n_new += min(len(slide), -(-max(n for _, n in lacking) // len(spec.scales)))
        for member, n in lacking:
            patches[member] += n
    for member, n in patches.items():
        seconds += n and n * member.seconds_per_patch(patch.size_px)
    return dataclasses.replace(Cost.of_cached(spec, slides), n_new=n_new, seconds=seconds)
