"""What encoding slides costs: how many patches and passes, and how long that takes here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mclstexp.config import PatchSpec
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.features import FeatureCache, to_be_encoded
from mclstexp.slide import Slide
from mclstexp.text import counted, duration


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
    spec = encoder.spec
    missing = [(slide, to_be_encoded(slide, encoder, patch, cache)) for slide in slides]
    seconds = 0.0
    for member in encoder.members:
        n_spots = sum(len(slide) for slide, members in missing if member in members)
        if n_spots:
            seconds += n_spots * len(spec.scales) * member.seconds_per_patch(patch.size_px)
    return Cost(
        encoder=spec.name,
        n_slides=len(slides),
        n_spots=sum(map(len, slides)),
        n_new=sum(len(slide) for slide, members in missing if members),
        passes=len(spec.scales) * spec.views,
        seconds=seconds,
    )
