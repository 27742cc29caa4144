"""Reading one version of a reference: slides, genes, spots, counts, embeddings, search."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.ranges import RowRanges, merge_ranges
from mclstexp.index.search.segment import LoadedSegment
from mclstexp.index.search.spot_index import SpotIndex
from mclstexp.index.store import tables
from mclstexp.index.store.commit import read_entries
from mclstexp.index.store.counts import decode_counts
from mclstexp.index.store.expression import ExpressionCache, ExpressionRows, SlideCounts, read_expression
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.manifest import Manifest, model_folder
from mclstexp.index.store.tables import LanceTable, SlideEntry
from mclstexp.panel import GenePanel
from mclstexp.settings import from_dict
from mclstexp.storage import storage_error
from mclstexp.types import Device, FloatArray, IdArray, Progress


class Snapshot:
    """One version of a reference, to be read. It stays what it is, whatever is committed meanwhile."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self._index: dict[str, SpotIndex] = {}

    @property
    def version(self) -> int:
        """Number of the open version."""
        return self.manifest.version

    @property
    def identity(self) -> ReferenceIdentity:
        """What a model must agree on with this reference."""
        return self.manifest.identity

    @property
    def model_folder(self) -> Path:
        """Folder of the copy of the model; it exists when the reference was built with one."""
        return model_folder(self.root, self.identity)

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.manifest.n_spots

    def __len__(self) -> int:
        return self.manifest.n_spots

    def check_identity(self, identity: ReferenceIdentity) -> None:
        """Refuse another model, panel, patch spec or spot context, with both values.

        Raises
        ------
        MismatchError
            When something differs.
        """
        self.identity.check(identity, self.root)

    # --- slides

    @cached_property
    def entries(self) -> tuple[SlideEntry, ...]:
        """The slides in the order of their rows."""
        entries = tuple(read_entries(self.root, self.manifest))
        if sum(entry.n_spots for entry in entries) != self.n_spots or len(entries) != self.manifest.n_slides:
            raise FormatError(f"Reference {self.root}: slides and manifest disagree in number; run mst verify.")
        return entries

    def slides(self) -> list[SlideEntry]:
        """Slides, by name."""
        return sorted(self.entries, key=lambda entry: entry.slide_id)

    def cohorts(self) -> dict[str, dict[str, list[SlideEntry]]]:
        """Slides by cohort and patient, each by name."""
        tree: dict[str, dict[str, list[SlideEntry]]] = {}
        for entry in sorted(self.entries, key=lambda entry: (entry.cohort, entry.patient, entry.slide_id)):
            tree.setdefault(entry.cohort, {}).setdefault(entry.patient, []).append(entry)
        return tree

    def find_slide(self, sha256: str) -> list[SlideEntry]:
        """Slides with this content hash, or with a source file (an image, say) of this SHA-256."""
        return [
            entry for entry in self.slides() if sha256 == entry.content_hash or sha256 in entry.source_hashes.values()
        ]

    @cached_property
    def rows(self) -> RowRanges:
        """Row ids of the live spots; a position is the row's offset in the table."""
        return RowRanges(merge_ranges([entry.rows for entry in self.entries]))

    @cached_property
    def _starts(self) -> IdArray:
        return np.array([entry.row_start for entry in self.entries], dtype=np.int64)

    def slide_numbers(self, row_ids: IdArray) -> IdArray:
        """Position in `entries` of each row's slide."""
        return np.searchsorted(self._starts, row_ids, side="right") - 1

    def tie_rank(self, row_ids: IdArray) -> IdArray:
        """Order spots by slide name, then by position within the slide: the same however the reference grew."""
        order = sorted(range(len(self.entries)), key=lambda i: self.entries[i].slide_id)
        first = np.zeros(len(order) + 1, dtype=np.int64)
        first[1:] = np.cumsum([self.entries[i].n_spots for i in order])
        base = np.empty(len(order), dtype=np.int64)
        base[order] = first[:-1]
        number = np.clip(self.slide_numbers(row_ids), 0, None)
        return base[number] + row_ids - self._starts[number]

    # --- genes

    @cached_property
    def panels(self) -> dict[str, GenePanel]:
        """Measured genes by their digest."""
        wanted: dict[str, int] = {}
        for entry in self.entries:
            wanted.setdefault(entry.genes_digest, entry.row_start)
        starts = ", ".join(map(str, wanted.values())) or "-1"
        columns = ["genes_digest", "genes", "ensembl"]
        table = self._slides.read(lambda ds: ds.to_table(columns=columns, filter=f"row_start IN ({starts})"))
        found = {}
        for row in table.to_pylist():
            panel = GenePanel(tuple(row["genes"].split("\n")), tuple(row["ensembl"].split("\n")))
            if panel.digest != row["genes_digest"]:
                raise FormatError(f"Reference {self.root}: a slide's genes do not match their digest; run mst verify.")
            found[panel.digest] = panel
        return found

    @cached_property
    def genes(self) -> GenePanel:
        """Every gene that some slide measured, by symbol."""
        known: dict[str, str] = {}
        for digest in sorted(self.panels):
            panel = self.panels[digest]
            for symbol, ensembl in zip(panel.symbols, panel.ensembl, strict=True):
                known[symbol] = known.get(symbol) or ensembl
        return GenePanel(tuple(sorted(known)), tuple(known[symbol] for symbol in sorted(known)))

    # --- spots

    @cached_property
    def _spots(self) -> LanceTable:
        return LanceTable(self.root, self.manifest.spots)

    @cached_property
    def _slides(self) -> LanceTable:
        return LanceTable(self.root, self.manifest.slides)

    def spots(self, row_ids: IdArray, columns: Sequence[str]) -> pa.Table:
        """Read columns of spots, in the order of ``row_ids``, repeats included.

        Raises
        ------
        InputError
            For a row id that is not in this version.
        """
        asked = np.asarray(row_ids, dtype=np.int64)
        unique, inverse = np.unique(asked, return_inverse=True)
        table = self._take(unique, columns)
        return table.take(pa.array(inverse)) if len(unique) != len(asked) or np.any(unique != asked) else table

    def spot_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read columns of every spot in the order of row ids, a batch at a time."""
        return self._spots.batches(columns)

    def _take(self, unique: IdArray, columns: Sequence[str]) -> pa.Table:
        offsets = self.rows.positions(unique)
        if len(unique) and offsets.min() < 0:
            raise InputError(f"Row id {unique[offsets < 0][0]} is not in version {self.version} of {self.root}.")
        table = self._spots.take(offsets, [*dict.fromkeys([*columns, "row_id"])])
        if not np.array_equal(np.asarray(table["row_id"], dtype=np.int64), unique):
            raise FormatError(f"Reference {self.root}: rows are not where their slides say; run mst verify.")
        return table.select(list(columns))

    def counts(self, row_ids: IdArray) -> Iterator[SlideCounts]:
        """Read the counts of ascending, different row ids, slide by slide."""
        columns = ["count_genes", "count_values", "total_counts", "panel_counts"]
        table = self._take(row_ids, columns)
        numbers = self.slide_numbers(row_ids)
        edges = np.flatnonzero(np.diff(numbers, prepend=-1, append=len(self.entries)))
        for start, stop in itertools.pairwise(edges.tolist()):
            entry = self.entries[int(numbers[start])]
            part = table.slice(start, stop - start)
            yield SlideCounts(
                entry=entry,
                where=np.arange(start, stop),
                counts=decode_counts(
                    part["count_genes"], part["count_values"], (entry.gene_width, entry.value_width), entry.n_genes
                ),
                total_counts=np.asarray(part["total_counts"], dtype=np.int64),
                panel_counts=np.asarray(part["panel_counts"], dtype=np.int64),
            )

    def embeddings(self, row_ids: IdArray, column: str = "embedding") -> FloatArray:
        """Read ``(n, d)`` float32 embeddings from the table, in order; NaN where there is none."""
        return tables.matrix(self.spots(row_ids, [column])[column], self.identity.embed_dim)

    def expression(self, row_ids: IdArray, genes: GenePanel, rule: Normalisation) -> ExpressionRows:
        """Read the expression of ascending, different row ids from the table."""
        return read_expression(self.counts(row_ids), self.panels, len(row_ids), genes, rule)

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation that the reference's model was trained with."""
        return from_dict(Normalisation, dict(self.identity.settings.get("normalisation", {})))

    @cached_property
    def expression_cache(self) -> ExpressionCache:
        """The copy of the panel's expression; it may lack slides until `fill_cache`."""
        return ExpressionCache(self.root, self.manifest.reference_id, self.identity.panel, self.normalisation)

    def fill_cache(self, *, on_progress: Progress | None = None) -> str:
        """Complete the copy of the panel's expression; returns why it could not be written, or ""."""
        cache = self.expression_cache

        def read(entry: SlideEntry) -> ExpressionRows:
            return self.expression(np.arange(*entry.rows), cache.genes, cache.rule)

        try:
            cache.fill(self.entries, read, on_progress=on_progress)
        except OSError as error:
            return str(storage_error(error, f"Reference {self.root}"))
        return ""

    def matching(self, condition: str) -> IdArray:
        """Row ids of the spots that meet an SQL condition on the spot columns."""
        return self._spots.where(condition)

    @cached_property
    def median_depths(self) -> tuple[float, NDArray[np.float64]]:
        """Median of the spots' total counts, over all of them and ``(slides,)`` over each slide's."""
        table = self._spots.read(lambda ds: ds.to_table(columns=["row_id", "total_counts"]))
        depth = np.asarray(table["total_counts"], dtype=np.float64)
        numbers = self.slide_numbers(np.asarray(table["row_id"], dtype=np.int64))
        order = np.argsort(numbers, kind="stable")
        parts = np.split(depth[order], np.searchsorted(numbers[order], np.arange(1, len(self.entries))))
        of_slide = [np.median(part) for part in parts]
        return float(np.median(depth)) if len(depth) else 0.0, np.asarray(of_slide, dtype=np.float64)

    # --- search

    def index(self, device: Device = "auto") -> SpotIndex:
        """Return the search index of this version; its files are memory-mapped.

        Raises
        ------
        FormatError
            When a file is missing or damaged, or the index does not hold exactly this version's rows.
        """
        if device not in self._index:
            dim = self.identity.embed_dim
            segments = [LoadedSegment.open(self.root, segment, dim) for segment in self.manifest.segments]
            live = merge_ranges([entry.rows for entry in self.entries])
            held = merge_ranges([part for segment in self.manifest.segments for part in segment.ranges])
            if np.any(RowRanges(held).positions(np.array([b for pair in live for b in (pair[0], pair[1] - 1)])) < 0):
                raise FormatError(f"Reference {self.root}: the index lacks spots; run mst verify --repair.")
            self._index[device] = SpotIndex(segments, live, dim=dim, tie_rank=self.tie_rank, device=device)
        return self._index[device]
