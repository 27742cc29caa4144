"""A slide: its spots and its image. Frozen, checked once in their constructors, plain arrays inside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.text import duplicates
from mclstexp.types import BoolArray

MppSource = Literal["given", "file", "pitch"]
"""Where a pixel size came from: the user, the image file, or the distance between spots."""

MOST_NAME_BYTES = 200
"""Of a slide's name, which becomes the start of a file's: those have at most 255."""

MPP_RANGE = (0.1, 10.0)
"""Plausible pixel sizes in um per pixel. A TIFF without resolution reads as 352.8."""


class SlideImage(Protocol):
    """A slide's H&E image, read a region at a time. Handles are cheap to hold and open on first use."""

    @property
    def path(self) -> Path:
        """File or folder that the image is read from."""
        ...

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height at full resolution."""
        ...

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level of the pyramid, the full resolution first."""
        ...

    @property
    def mpp(self) -> float | None:
        """Pixel size in um that the file states, or None when it states none that is plausible."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the file is not as a viewer would show it, one sentence each."""
        ...

    def read_region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB at full resolution; white where outside the image."""
        ...

    def read_window(self, x: float, y: float, width: float, height: float, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Resample an exact window of the full resolution to ``(size[1], size[0], 3)`` uint8 RGB; white outside."""
        ...

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Read the whole image as ``(h, w, 3)`` uint8 RGB with its longer side at most ``max_px``."""
        ...

    def digest(self) -> str:
        """SHA-256 of what the image is read from: the same slide, the same digest."""
        ...

    def close(self) -> None:
        """Release the file and any decoded pixels. The handle opens again when it is next used."""
        ...


@dataclass(frozen=True, eq=False)
class SpotTable:
    """The spots of one slide.

    Attributes
    ----------
    spot_ids
        ``(n,)`` str, unique within the slide (barcodes, or ``10x14`` for legacy ST).
    xy_px
        ``(n, 2)`` float64 spot centres as (x, y) at full resolution, finite.
    array_row, array_col
        ``(n,)`` int64 grid coordinates.
    counts
        ``(n, len(genes))`` CSR of whole, non-negative numbers, or None (a query slide).
    genes
        Every gene that was measured, or None when there are no counts.
    labels
        ``(n,)`` str annotation of each spot ("" where unknown), or None.

    Examples
    --------
    >>> from mclstexp import GenePanel, SpotTable
    >>> genes = GenePanel(("ERBB2", "CD3E", "VIM"))
    >>> spots = SpotTable(["a", "b"], [[100, 100], [300, 100]], [0, 0], [0, 1], [[3, 0, 1], [0, 2, 0]], genes)
    >>> spots
    SpotTable(2 spots, 3 genes)
    >>> int(spots.counts.sum())
    6
    """

    spot_ids: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    array_row: NDArray[np.int64]
    array_col: NDArray[np.int64]
    counts: sparse.csr_matrix | None = None
    genes: GenePanel | None = None
    labels: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "spot_ids", np.asarray(self.spot_ids, dtype=np.str_))
        set_(self, "xy_px", np.asarray(self.xy_px, dtype=np.float64))
        set_(self, "array_row", np.asarray(self.array_row, dtype=np.int64))
        set_(self, "array_col", np.asarray(self.array_col, dtype=np.int64))
        n = len(self.spot_ids)
        if self.xy_px.shape != (n, 2):
            raise InputError(f"{n} spots need coordinates of shape ({n}, 2), got {self.xy_px.shape}.")
        for name in ("array_row", "array_col", "labels"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise InputError(f"{n} spots but {len(values)} values of {name}.")
        bad = int((~np.isfinite(self.xy_px).all(axis=1)).sum())
        if bad:
            raise InputError(f"{bad} of {n} spots have NaN or infinite coordinates; remove or correct them.")
        repeated = duplicates(self.spot_ids.tolist())
        if repeated:
            raise InputError(f"{len(repeated)} spot ids occur more than once, for example {repeated[0]!r}.")
        self._check_counts(n)

    def _check_counts(self, n: int) -> None:
        if (self.counts is None) != (self.genes is None):
            raise InputError("Counts and genes go together: one of them is missing.")
        if self.counts is None or self.genes is None:
            return
        counts = sparse.csr_matrix(self.counts)
        object.__setattr__(self, "counts", counts)
        if counts.shape != (n, len(self.genes)):
            raise InputError(f"Counts have shape {counts.shape}, expected ({n}, {len(self.genes)}) (spots, genes).")
        if not np.isfinite(counts.data).all():
            raise InputError("Counts hold NaN or infinite values.")
        if counts.nnz and counts.data.min() < 0:
            raise InputError(f"Counts hold negative values (lowest {counts.data.min():g}); raw counts are needed.")
        if counts.nnz and np.any(counts.data != np.floor(counts.data)):
            raise InputError("Counts hold fractions: they look normalised; raw whole counts are needed.")

    def __len__(self) -> int:
        return len(self.spot_ids)

    def __repr__(self) -> str:
        labels = "" if self.labels is None else ", labelled"
        return f"SpotTable({len(self):,} spots, {_measured(self)}{labels})"

    def require_counts(self) -> tuple[sparse.csr_matrix, GenePanel]:
        """Return the counts and their genes.

        Returns
        -------
        ``(n, g)`` CSR of whole numbers, and the panel of its ``g`` columns.

        Raises
        ------
        InputError
            When the spots have no counts.
        """
        if self.counts is None or self.genes is None:
            raise InputError("The spots have no counts.")
        return self.counts, self.genes

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> SpotTable:
        """Return the given spots (indices or a mask), in order."""
        return SpotTable(
            spot_ids=self.spot_ids[rows],
            xy_px=self.xy_px[rows],
            array_row=self.array_row[rows],
            array_col=self.array_col[rows],
            counts=None if self.counts is None else self.counts[rows],
            genes=self.genes,
            labels=None if self.labels is None else self.labels[rows],
        )


@dataclass(frozen=True, eq=False)
class Slide:
    """One tissue section: its spots and, where there is one, its image.

    Attributes
    ----------
    slide_id, patient, cohort
        Identity. ``slide_id`` may be used as a file's name; the others are "" where the reader could not tell.
    spots
        The slide's spots.
    image
        Handle of the H&E image, or None: counts alone can be a reference.
    mpp, mpp_source
        Pixel size at full resolution in um, and where it came from; None when unknown.
    layout
        The reader that made the slide: "her2st", "space_ranger", "h5ad", "slides_csv", or "query" without counts.
    sources
        Every file that the slide was read from.
    notes
        What the reader assumed or dropped, one sentence each; never silent.
    pitch_um
        Distance between neighbouring spots in um where the technology fixes it (200, 100, ...).
    extra
        What else the files say, by name.
    tissue
        ``(h, w)`` bool over the whole image: where tissue was found for a grid. None where coordinates were given.
    regions
        Outlines, ``(k, 2)`` float64 each as (x, y) in pixels, of the regions that the spots were limited to.

    Raises
    ------
    InputError
        When the name is empty or no file's name, or the pixel size is absurd or without its source.

    Examples
    --------
    >>> import numpy as np
    >>> row, col = np.array([0, 0, 1]), np.array([0, 1, 0])
    >>> spots = SpotTable(["0x0", "1x0", "0x1"], 100.0 * np.stack([col, row], axis=1), row, col)
    >>> Slide("S1", "P7", "mine", spots, mpp=0.5, mpp_source="given")
    Slide('S1', patient P7 of mine, 3 spots, no counts, no image, 0.5 um a pixel)
    """

    slide_id: str
    patient: str
    cohort: str
    spots: SpotTable
    image: SlideImage | None = None
    mpp: float | None = None
    mpp_source: MppSource | None = None
    layout: str = ""
    sources: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    pitch_um: float | None = None
    extra: dict[str, str] = field(default_factory=dict)
    tissue: BoolArray | None = None
    regions: tuple[NDArray[np.float64], ...] = ()

    def __post_init__(self) -> None:
        if not self.slide_id.strip():
            raise InputError("A slide has an empty name.")
        if self.slide_id in (".", "..") or re.search(r"[/\\\x00-\x1f\ud800-\udfff]", self.slide_id):
            raise InputError(f"Slide {self.slide_id!r}: a file's name is needed, in UTF-8 and without / and \\.")
        if len(self.slide_id.encode(errors="replace")) > MOST_NAME_BYTES:
            n_bytes = len(self.slide_id.encode(errors="replace"))
            raise InputError(
                f"Slide {self.slide_id[:20]}...: its name has {n_bytes} bytes; at most {MOST_NAME_BYTES} are needed."
            )
        if self.mpp is not None:
            check_mpp(self.slide_id, self.mpp)
        if (self.mpp is None) != (self.mpp_source is None):
            raise InputError(f"Slide {self.slide_id}: a pixel size needs its source, and a source its pixel size.")

    def __len__(self) -> int:
        return len(self.spots)

    def __repr__(self) -> str:
        patient = f"patient {self.patient}" if self.patient else "patient unknown"
        parts = [repr(self.slide_id), patient + (f" of {self.cohort}" if self.cohort else "")]
        parts += [f"{len(self):,} spots", _measured(self.spots)]
        if self.image is not None:
            size = "image {}x{} px".format(*self.image.size_px)
            parts.append(f"{size} at {self.mpp:.3g} um" if self.mpp is not None else f"{size} of unknown pixel size")
        else:
            parts.append("no image" + (f", {self.mpp:.3g} um a pixel" if self.mpp is not None else ""))
        return f"Slide({', '.join(parts)})"

    def require_counts(self) -> tuple[sparse.csr_matrix, GenePanel]:
        """Return the counts and their genes, as `SpotTable.require_counts`, with an error that names the slide.

        Raises
        ------
        InputError
            When the slide has no counts.
        """
        if self.spots.counts is None:
            raise InputError(f"Slide {self.slide_id} has no counts.")
        return self.spots.require_counts()

    def require_mpp(self) -> float:
        """Return the pixel size, or say how to give it.

        Raises
        ------
        InputError
            When no pixel size is known.
        """
        if self.mpp is None:
            raise InputError(
                f"Slide {self.slide_id}: the pixel size is unknown (not given, not in the file, no known spot pitch); "
                "give it with --mpp, or as the column mpp of slides.csv."
            )
        return self.mpp

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Slide:
        """Return the slide with the given spots only."""
        return replace(self, spots=self.spots.take(rows))


def check_mpp(slide_id: str, mpp: float) -> None:
    """Refuse a pixel size outside ``MPP_RANGE``.

    Raises
    ------
    InputError
        When it is, or is NaN.
    """
    low, high = MPP_RANGE
    if not low <= mpp <= high:
        raise InputError(f"Slide {slide_id}: pixel size {mpp:g} um is outside {low:g} to {high:g}; give it with --mpp.")


def count_patients(slides: Iterable[tuple[str, str, str]]) -> int:
    """Count the patients among ``(cohort, patient, slide)``.

    An id is a patient of its cohort; a slide whose patient is unknown counts as one of its own.

    Examples
    --------
    >>> count_patients([("mine", "P1", "S1"), ("mine", "P1", "S2"), ("other", "P1", "S3"), ("other", "", "S4")])
    3
    """
    return len({(cohort, patient, "" if patient else slide) for cohort, patient, slide in slides})


def _measured(spots: SpotTable) -> str:
    return "no counts" if spots.genes is None else f"{len(spots.genes):,} genes"
