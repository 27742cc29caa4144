"""The range of every number that people set: in a model's settings, and in the command's options.

One table, so that an option and the setting behind it never differ. `check_ranges` uses it for the settings;
`mclstexp.cli` takes an option's range from it, and so refuses a value before anything is read.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from mclstexp.settings import require


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; NaN is in no range.

    Attributes
    ----------
    low, high
        The ends, which belong to it.
    above, below
        Whether ``low`` and ``high`` themselves are outside.
    what
        What the number is, for messages: "a share", "um per pixel", ...
    optional
        Whether null is a value, too.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    what: str = "a number"
    optional: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.optional
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        enough = value > self.low if self.above else value >= self.low
        return enough and (value < self.high if self.below else value <= self.high)

    @property
    def needed(self) -> str:
        """What a value has to be, in words.

        Examples
        --------
        >>> Range(0, 1, what="a share").needed
        'a share from 0 to 1'
        """
        or_null = ", or null" if self.optional else ""
        if math.isinf(self.high):
            start = "above" if self.above else "of at least"
            return f"{self.what} {start} {_plain(self.low)}{or_null}"
        start, end = "above" if self.above else "from", "below" if self.below else "at most"
        if self.above or self.below:
            return f"{self.what} {start} {_plain(self.low)} and {end} {_plain(self.high)}{or_null}"
        return f"{self.what} from {_plain(self.low)} to {_plain(self.high)}{or_null}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


WHOLE, SHARE, UM = "a whole number", "a share", "a length in um"

SIDE_PX = Range(8, 4096, what=WHOLE)
SCALE = Range(0.01, 100)
_POSITIVE = Range(0, above=True)
_SIZE = Range(1, 65_536, what=WHOLE)

RANGES: dict[str, Range] = {
    "patch.size_px": SIDE_PX,
    "patch.mpp": Range(0.01, 100, what="um per pixel", optional=True),
    "patch.scale": SCALE,
    "normalisation.target_sum": _POSITIVE,
    # A search never asks for more neighbours than there are spots; beyond is a slip of the finger.
    "retrieval.k": Range(1, 1_000_000, what="a number of neighbours"),
    "retrieval.temperature": _POSITIVE,
    "retrieval.min_measured": Range(0, 1, what=SHARE),
    "network.embed_dim": _SIZE,
    "network.blocks": _SIZE,
    "network.heads": _SIZE,
    "network.head_dim": _SIZE,
    "network.context_spots": _SIZE,
    "network.dropout": Range(0, 1, below=True, what=SHARE),
    "optim.lr": Range(0, 10, above=True, what="a learning rate"),
    "optim.weight_decay": Range(0),
    "optim.epochs": Range(1, 1_000_000, what="a number of epochs"),
    "optim.batch_size": Range(2, 65_536, what="a batch of spots"),
    "optim.temperature": _POSITIVE,
    "optim.validation_share": Range(0, 0.9, below=True, what=SHARE),
    "shared.components": Range(1, 4096, what=WHOLE),
    "shared.context_um": Range(0),
    "shared.caution": Range(0),
    "shared.radius": _POSITIVE,
    "shared.shrink_spots": Range(0),
    "shared.max_landmarks": Range(8, 65_536, what=WHOLE),
    "shared.max_rank": Range(8, 65_536, what=WHOLE),
    "key_mix": Range(0, 1, what=SHARE),
    "blend": Range(0, 1, what=SHARE),
    "correction": Range(0),
    "contrast_epochs": Range(0, 1000, what="a number of epochs"),
    "interval_level": Range(0, 1, above=True, below=True, what=SHARE),
    "n_genes": Range(1, 1_000_000, what="a number of genes"),
    "seed": Range(0, 2**32 - 1, what=WHOLE),
}
"""Range of each setting that is a number, by its dotted name."""

MPP = Range(0.01, 100, what="um per pixel")
TILE_PX = Range(1, 1_000_000, what="a side in pixels")
PITCH_UM = Range(0.1, 100_000, what=UM)
"""Ranges of what people say of a slide: pixel size, side of a tile, distance between spots."""


def check_ranges(group: str, settings: object) -> None:
    """Refuse settings that are out of their range.

    Parameters
    ----------
    group
        Name of the settings' group, "" for those of a model itself.
    settings
        A dataclass.

    Raises
    ------
    InputError
        Naming the first such setting, its value and what is needed.
    """
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        name = f"{group}.{field.name}" if group else field.name
        if name in RANGES:
            value = getattr(settings, field.name)
            require(name, value, value in RANGES[name], RANGES[name].needed)
