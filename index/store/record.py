"""What one slide brings to a reference."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.errors import InputError
from mclstexp.index.search.vectors import unit_rows
from mclstexp.panel import GenePanel
from mclstexp.slide import SpotTable
from mclstexp.types import FloatArray


@dataclass(frozen=True, eq=False)
class SlideRecord:
    """What one slide brings to a reference.

    Attributes
    ----------
    content_hash
        Hash of counts, coordinates, genes and image (`content_hash`).
    sources
        Path to SHA-256 of every file that the slide was read from.
    image_path
        Path of the image, or None.
    mpp, mpp_source
        Pixel size in um and where it came from, or None.
    spot_context
        Text of the rule by which a spot's neighbours enter its embedding.
    spot_ids, xy_px, array_row, array_col, labels
        As in `SpotTable`.
    embedding
        ``(n, d)`` float32 of unit length: the key that queries meet.
    image_embedding
        ``(n, d)`` float32 of unit length of the spots' own patches, or None where there is no image.
    counts
        ``(n, len(genes))`` CSR of raw counts of every measured gene.
    """

    slide_id: str
    patient: str
    cohort: str
    content_hash: str
    spot_ids: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    array_row: NDArray[np.int64]
    array_col: NDArray[np.int64]
    embedding: FloatArray
    counts: sparse.csr_matrix
    genes: GenePanel
    image_embedding: FloatArray | None = None
    labels: NDArray[np.str_] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    image_path: str | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    spot_context: str = ""

    def __post_init__(self) -> None:
        if not self.slide_id or not self.content_hash:
            raise InputError("A reference slide needs a name and a content hash.")
        spots = SpotTable(
            self.spot_ids, self.xy_px, self.array_row, self.array_col, self.counts, self.genes, self.labels
        )
        for name in ("spot_ids", "xy_px", "array_row", "array_col"):
            object.__setattr__(self, name, getattr(spots, name))
        counts = sparse.csr_matrix(self.counts, copy=True)
        counts.sum_duplicates()
        counts.eliminate_zeros()
        object.__setattr__(self, "counts", counts)
        if not len(spots):
            raise InputError(f"Slide {self.slide_id} has no spots.")
        if counts.nnz and counts.data.max() >= 2**32:
            raise InputError(f"Slide {self.slide_id} has a count of {counts.data.max():g}; the largest is {2**32 - 1}.")
        for name in ("embedding", "image_embedding"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, unit_rows(values, f"Slide {self.slide_id}: {name}", len(spots)))

    def __len__(self) -> int:
        return len(self.spot_ids)


def content_hash(spots: SpotTable, image_sha256: str | None = None) -> str:
    """Hash a slide's content: spot ids, coordinates, genes, counts and image; not its name or place.

    The order of the spots and of the genes does not matter.
    """
    if spots.counts is None or spots.genes is None:
        raise InputError("The content hash of a reference slide needs counts.")
    rows = np.argsort(spots.spot_ids, kind="stable")
    symbols = np.asarray(spots.genes.symbols)
    columns = np.argsort(symbols, kind="stable")
    counts = sparse.csr_matrix(spots.counts[rows][:, columns])
    counts.sum_duplicates()
    counts.eliminate_zeros()
    digest = hashlib.sha256()
    for part in (
        "\n".join(spots.spot_ids[rows].tolist()).encode(),
        "\n".join(symbols[columns].tolist()).encode(),
        spots.xy_px[rows].astype("<f8").tobytes(),
        counts.indptr.astype("<i8").tobytes(),
        counts.indices.astype("<i8").tobytes(),
        counts.data.astype("<i8").tobytes(),
        (image_sha256 or "").encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
