"""Put a slide together from what its files gave: join, pixel size, bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.data.patches import check_inside
from mclstexp.data.positions.coordinates import Coordinates, naming
from mclstexp.data.positions.lattice import resolve_mpp
from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.slide import MppSource, Slide, SlideImage, SpotTable
from mclstexp.types import IdArray


@dataclass(frozen=True, eq=False)
class CountTable:
    """Counts of one slide before they meet coordinates.

    Attributes
    ----------
    ids
        ``(n,)`` str barcodes or spot ids.
    counts
        ``(n, len(genes))`` CSR float32.
    genes
        Unique symbols, Ensembl ids where known.
    notes
        What was summed or dropped.
    """

    ids: NDArray[np.str_]
    counts: sparse.csr_matrix
    genes: GenePanel
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """What a reader found for one slide.

    Attributes
    ----------
    slide_id, patient, cohort, layout, sources, notes, extra
        As in ``Slide``.
    coords, counts, image
        The parts; ``counts`` and ``image`` may be missing.
    stated_mpp
        Pixel size in um from a file other than the image.
    labels
        Annotation by spot id.
    without_image
        What to say where ``image`` is missing.
    """

    slide_id: str
    layout: str
    coords: Coordinates
    counts: CountTable | None = None
    image: SlideImage | None = None
    patient: str = ""
    cohort: str = ""
    stated_mpp: float | None = None
    labels: dict[str, str] | None = None
    sources: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)
    without_image: str = "no image: counts only."


@dataclass(frozen=True)
class PixelSize:
    """What the user said of a slide's pixel size.

    Attributes
    ----------
    mpp
        The size in um, or None.
    believed
        Which size is right where the given one, the files' and the pitch's disagree; None where nobody said.
    """

    mpp: float | None = None
    believed: MppSource | None = None

    def or_else(self, mpp: float | None) -> PixelSize:
        """Return the same with a size from a table of the slides, where none was given."""
        return self if self.mpp is not None else PixelSize(mpp, self.believed)

    def over(self, stated: float | None) -> float | None:
        """Return the given size or that of the files, whichever goes first, before there are spots with a pitch."""
        first, second = (stated, self.mpp) if self.believed == "file" else (self.mpp, stated)
        return first if first is not None else second


NOTHING_SAID = PixelSize()


def build_slide(draft: Draft, size: PixelSize = NOTHING_SAID) -> Slide:
    """Join counts and coordinates, settle the pixel size, and check that the spots lie inside the image.

    Parameters
    ----------
    draft
        The parts.
    size
        What the user said of the pixel size.

    Raises
    ------
    InputError
        When counts and coordinates share no spot, spots lie outside the image, or the pixel size contradicts the pitch.
    """
    coords = draft.coords
    joined_notes: list[str] = []
    with naming(f"Slide {draft.slide_id}"):
        coords.check()
    pixel_size, source, mpp_notes = resolve_mpp(
        draft.slide_id,
        given=size.mpp,
        image=draft.image,
        stated=draft.stated_mpp,
        pitch=coords.mpp_from_pitch(),
        believed=size.believed,
        strict=draft.layout == "query",
    )
    with naming(f"Slide {draft.slide_id}"):
        spots = coords.spots(pixel_size)
        if draft.counts is not None:
            spots, joined_notes = _join(spots, draft.counts)
    if draft.labels is not None:
        spots = _labelled(spots, draft.labels)
    notes = [*draft.notes, *coords.notes, *(draft.counts.notes if draft.counts else ()), *joined_notes, *mpp_notes]
    notes += draft.image.notes if draft.image is not None else [draft.without_image]
    if coords.n_shared:
        notes.append(f"{coords.n_shared} of {len(coords.ids)} spots lie at the place of another one.")
    slide = Slide(
        slide_id=draft.slide_id,
        patient=draft.patient,
        cohort=draft.cohort,
        spots=spots,
        image=draft.image,
        mpp=pixel_size,
        mpp_source=source,
        layout=draft.layout,
        sources=draft.sources,
        notes=tuple(notes),
        pitch_um=coords.pitch_um,
        extra=draft.extra,
    )
    check_inside(slide)
    return slide


def _join(spots: SpotTable, table: CountTable) -> tuple[SpotTable, list[str]]:
    spot_ids, count_ids = spots.spot_ids.tolist(), table.ids.tolist()
    notes = []
    place = _places(count_ids, spot_ids)
    if not (place >= 0).any():
        bare_spots, bare_counts = [[re.sub(r"-\d+$", "", name) for name in names] for names in (spot_ids, count_ids)]
        place = _places(bare_counts, bare_spots)
        if not (place >= 0).any() or len(set(bare_counts)) < len(bare_counts):
            raise InputError(
                f"counts and coordinates share no spot: {len(count_ids)} with counts (such as {count_ids[0]!r}), "
                f"{len(spot_ids)} with coordinates (such as {spot_ids[0]!r}); they are of different slides or name "
                "their spots differently."
            )
        notes.append("barcodes were matched without their suffix (-1).")
    counted = np.flatnonzero(place >= 0)
    for n, what in ((len(count_ids), "counts but no coordinates"), (len(spot_ids), "coordinates but no counts")):
        if n > len(counted):
            notes.append(f"{n - len(counted)} of {n} spots have {what} and were dropped.")
    kept = spots.take(place[counted])
    joined = SpotTable(
        spot_ids=kept.spot_ids,
        xy_px=kept.xy_px,
        array_row=kept.array_row,
        array_col=kept.array_col,
        counts=table.counts[counted],
        genes=table.genes,
    )
    return joined, notes


def _places(wanted: list[str], names: list[str]) -> IdArray:
    """Return where each wanted name stands among the names, -1 where it does not."""
    row_of = {name: row for row, name in enumerate(names)}
    return np.fromiter((row_of.get(name, -1) for name in wanted), dtype=np.int64, count=len(wanted))


def _labelled(spots: SpotTable, labels: dict[str, str]) -> SpotTable:
    values = np.array([labels.get(name, "") for name in spots.spot_ids.tolist()], dtype=np.str_)
    return SpotTable(
        spots.spot_ids, spots.xy_px, spots.array_row, spots.array_col, spots.counts, spots.genes, labels=values
    )
