"""Where slides are, in place of the slides: what another machine needs to read one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mclstexp.data.assemble import PixelSize
from mclstexp.data.readers.choices import DEFAULT, Choices
from mclstexp.data.readers.discover import discover
from mclstexp.data.readers.source import SlideSource
from mclstexp.errors import InputError
from mclstexp.slide import MppSource, Slide
from mclstexp.text import duplicates, some
from mclstexp.types import StrPath


@dataclass(frozen=True)
class SlideAddresses:
    """The slides under a path, none of them read: only their names are known.

    Attributes
    ----------
    refs
        The path, absolute: it has to mean the same on every machine that reads from it.
    slide_ids
        Names of the slides, in their order.
    mpp, mpp_from, choices
        How they are read, as in `read_slides`.
    """

    refs: str
    slide_ids: tuple[str, ...]
    mpp: float | None = None
    mpp_from: MppSource | None = None
    choices: Choices = DEFAULT

    def __len__(self) -> int:
        return len(self.slide_ids)

    def __iter__(self) -> Iterator[Slide]:
        """Read one after the other."""
        return map(self.read, self.slide_ids)

    @cached_property
    def _sources(self) -> dict[str, SlideSource]:
        return {source.slide_id: source for source in discover(self.refs, self.choices)}

    def read(self, slide_id: str) -> Slide:
        """Read one slide.

        Raises
        ------
        InputError
            It is not there (any more), or something is wrong with it.
        """
        source = self._sources.get(slide_id)
        if source is None:
            raise InputError(f"{self.refs} has no slide {slide_id!r} on this machine; every machine must see the same.")
        return source.load(PixelSize(self.mpp, self.mpp_from))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SlideAddresses:
        """Rebuild from plain JSON values."""
        return cls(
            values["refs"], tuple(values["slide_ids"]), values["mpp"], values["mpp_from"], Choices(**values["choices"])
        )


def find_slides(
    refs: StrPath,
    *,
    mpp: float | None = None,
    mpp_from: MppSource | None = None,
    only: Sequence[str] | None = None,
    bin_um: int | None = None,
    cells: bool = False,
    pool_um: float | None = None,
) -> SlideAddresses:
    """Find the slides under a path and read none, as ``Reference.build(..., ray="auto")`` wants them.

    Parameters
    ----------
    refs, mpp, mpp_from, only, bin_um, cells, pool_um
        As in `read_slides`.

    Raises
    ------
    InputError
        There is no slide, or none of a name that is asked for; a name comes twice.

    Examples
    --------
    >>> import tempfile
    >>> from mclstexp.data.synthetic import SlideSpec, write_cohort
    >>> folder = tempfile.TemporaryDirectory()
    >>> small = SlideSpec(n_genes=20, side_px=256, mpp=2.0)
    >>> cohort = write_cohort(f"{folder.name}/cohort", n_patients=1, slides_per_patient=2, spec=small)
    >>> find_slides(cohort.refs).slide_ids
    ('P1_A', 'P1_B')
    """
    choices = Choices(bin_um, cells, pool_um)
    names = [source.slide_id for source in wanted_sources(refs, choices, only)]
    return SlideAddresses(str(Path(refs).absolute()), tuple(names), mpp, mpp_from, choices)


def wanted_sources(refs: StrPath, choices: Choices, only: Sequence[str] | None) -> list[SlideSource]:
    """Return the slides under a path that are asked for, unread.

    Raises
    ------
    InputError
        There is none, or none of a name that is asked for; a name comes twice.
    """
    sources = discover(refs, choices)
    repeated = duplicates(source.slide_id for source in sources)
    if repeated:
        raise InputError(f"{refs} holds more than one slide named {repeated[0]!r}; rename one.")
    if only is None:
        return sources
    known = {source.slide_id for source in sources}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise InputError(f"{refs} has no slide {unknown[0]!r}; it has {some(sorted(known), 10)}.")
    return [source for source in sources if source.slide_id in set(only)]
