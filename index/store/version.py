"""What one version of a reference holds: slides, genes, spots, counts, embeddings."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.ranges import Ranges, RowRanges, merge_ranges
from mclstexp.index.store.counts import decode_counts
from mclstexp.index.store.depths import median_depths
from mclstexp.index.store.expression import ExpressionRows, SlideCounts, read_expression
from mclstexp.index.store.format import read_metadata, refuse_version_1
from mclstexp.index.store.genes import read_genes
from mclstexp.index.store.hashes import check_manifest
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.place import Place
from mclstexp.index.store.schema import SlideEntry, matrix
from mclstexp.index.store.shared import Shared
from mclstexp.index.store.table import ROW_ID, Table
from mclstexp.panel import GenePanel
from mclstexp.settings import from_dict
from mclstexp.storage import parse_digested, read_digested, storage_error, write_digested
from mclstexp.types import BoolArray, FloatArray, IdArray


class Version:
    """One version of a reference, to be read. It stays what it is, whatever is committed meanwhile.

    Ids of spots are int64, unique in the reference for ever and never given out again; a slide's are consecutive. A
    mask of allowed spots is ``(n_ids,)`` truth by id.
    """

    def __init__(self, place: Place, table: Table, entries: Sequence[SlideEntry] | None = None) -> None:
        self.place = place
        self.table = table
        self.manifest_sha256 = check_manifest(place, table.version)
        self.metadata = read_metadata(place, table)
        self._entries = entries

    @classmethod
    def at(cls, place: Place, version: int | None = None) -> Self:
        """Open the newest version, or the one of this number.

        Raises
        ------
        InputError
            When there is no reference.
        FormatError
            When it is damaged, or of another format version.
        StorageError
            When an object store cannot be used.
        """
        place.check_reachable()
        place.check_files()
        refuse_version_1(place)
        return cls(place, Table.open(place, version))

    @property
    def root(self) -> Path | str:
        """The reference's folder, or its URI."""
        return self.place.root

    @property
    def version(self) -> int:
        """Number of the open version."""
        return self.table.version

    @property
    def reference_id(self) -> str:
        """Identity of the reference, the same in all of its versions."""
        return str(self.metadata["reference_id"])

    @cached_property
    def identity(self) -> ReferenceIdentity:
        """What a model must agree on with this reference."""
        values = self.metadata["identity"]
        return ReferenceIdentity.from_json(values, read_genes(self.place, values["genes"]))

    @property
    def index_choice(self) -> str:
        """Kind of index that the reference was built with, or "auto"."""
        return str(self.metadata["index"])

    @property
    def model_folder(self) -> Path:
        """Local folder of the copy of the model; it exists when the reference was built with one."""
        return self.place.model(str(self.metadata["identity"]["model_digest"]))

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.table.n_rows

    def __len__(self) -> int:
        return self.n_spots

    def check_identity(self, identity: ReferenceIdentity) -> None:
        """Refuse another model, panel, patch spec or spot context, with both values.

        Raises
        ------
        MismatchError
            When something differs.
        """
        self.identity.check(identity, self.root)

    # --- what was left out where it was published

    @property
    def published(self) -> dict[str, Any]:
        """Of a published copy: what it was made from, and what was left out; else empty."""
        return dict(self.metadata.get("published", {}))

    @property
    def has_counts(self) -> bool:
        """Whether raw counts are there: they may have been left out where the reference was published."""
        return "counts" not in self.published.get("left_out", ())

    def require_counts(self, what: str) -> None:
        """Refuse what needs counts where they were left out.

        Raises
        ------
        InputError
            Says what is there.
        """
        if not self.has_counts:
            raise InputError(
                f"{what} needs raw counts, and {self.root} was published without them: the "
                f"{len(self.identity.panel)} genes of its panel can be had, on the scale of its model."
            )

    # --- what is derived from this version

    @property
    def derived(self) -> Path:
        """Local folder of all that can be derived again."""
        return self.place.derived(self.reference_id)

    @cached_property
    def shared(self) -> Shared:
        """What is derived, beside the table in an object store."""
        return Shared(self.place)

    def kept_path(self, name: str) -> Path:
        """Path of a small derived value of this version."""
        return self.derived / f"{name}-{self.version}-{self.manifest_sha256[:12]}.json"

    def kept(self, name: str) -> dict[str, Any] | None:
        """Return a small derived value of this version; None where it is missing or damaged."""
        values = read_digested(self.kept_path(name))
        if values is None and self.place.local is None:
            values = parse_digested(self.shared.fetch_kept(self.kept_path(name)) or b"")
            if values is not None:
                self.keep(name, values)
        return values

    def keep(self, name: str, values: dict[str, Any]) -> str:
        """Keep a small derived value; returns why it could not be written, or ""."""
        try:
            self.derived.mkdir(parents=True, exist_ok=True)
            write_digested(self.kept_path(name), values)
        except OSError as error:
            return str(storage_error(error, self.derived))
        return ""

    # --- slides

    @cached_property
    def entries(self) -> tuple[SlideEntry, ...]:
        """The slides in the order of their rows: from the list that is kept of them, or from the rows."""
        if self._entries is not None:
            return tuple(self._entries)
        values = self.kept("slides")
        with contextlib.suppress(KeyError, TypeError):  # a list of another program's, or of somebody who forged it
            if values is not None:
                return tuple(SlideEntry(**item) for item in values["slides"])
        entries = tuple(self.table.slides())
        self._keep_slides(entries)
        return entries

    def _keep_slides(self, entries: Sequence[SlideEntry]) -> str:
        return self.keep("slides", {"slides": [entry.to_json() for entry in entries]})

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
    def live(self) -> Ranges:
        """Ranges of the ids of this version's spots."""
        return merge_ranges([entry.rows for entry in self.entries])

    @cached_property
    def rows(self) -> RowRanges:
        """Ids of the spots; a position is the row's offset in the table."""
        return RowRanges(self.live)

    @property
    def n_ids(self) -> int:
        """Length of a mask by id: every id of this version is below it."""
        return self.live[-1][1] if self.live else 0

    @cached_property
    def live_mask(self) -> BoolArray:
        """``(n_ids,)`` truth by id: the spots of this version."""
        return self.rows.mask(self.n_ids)

    @cached_property
    def _starts(self) -> IdArray:
        return np.array([entry.row_start for entry in self.entries], dtype=np.int64)

    def slide_numbers(self, row_ids: IdArray) -> IdArray:
        """Position in `entries` of each spot's slide."""
        return np.searchsorted(self._starts, row_ids, side="right") - 1

    @cached_property
    def _ranks(self) -> IdArray:
        sizes = np.array([entry.n_spots for entry in self.entries], dtype=np.int64)
        order = sorted(range(len(self.entries)), key=lambda i: self.entries[i].slide_id)
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.cumsum(sizes[order]) - sizes[order]
        return ranks

    def tie_rank(self, row_ids: IdArray) -> IdArray:
        """Order spots by slide name, then by position within the slide: the same however the reference grew."""
        number = np.clip(self.slide_numbers(row_ids), 0, None)
        return self._ranks[number] + row_ids - self._starts[number]

    # --- genes

    @cached_property
    def panels(self) -> dict[str, GenePanel]:
        """Measured genes by their digest."""
        digests = dict.fromkeys(entry.genes_digest for entry in self.entries)
        return {digest: read_genes(self.place, digest) for digest in digests}

    @cached_property
    def genes(self) -> GenePanel:
        """Every gene that some slide measured, by symbol; without counts those of the panel alone."""
        known: dict[str, str] = {}
        for digest in sorted(self.panels):
            panel = self.panels[digest]
            for symbol, ensembl in zip(panel.symbols, panel.ensembl, strict=True):
                known[symbol] = known.get(symbol) or ensembl
        wanted = [s for s in sorted(known) if self.has_counts or s in self.identity.panel.position]
        return GenePanel(tuple(wanted), tuple(known[symbol] for symbol in wanted))

    # --- spots

    def spots(self, row_ids: IdArray, columns: Sequence[str]) -> pa.Table:
        """Read columns of spots, in the order of ``row_ids``, repeats included.

        Raises
        ------
        InputError
            For an id that is not in this version.
        """
        asked = np.asarray(row_ids, dtype=np.int64)
        unique, inverse = np.unique(asked, return_inverse=True)
        table = self._take(unique, columns)
        return table.take(pa.array(inverse)) if len(unique) != len(asked) or np.any(unique != asked) else table

    def spot_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read columns of every spot in the order of ids, a batch at a time."""
        return self.table.batches(columns)

    def _take(self, unique: IdArray, columns: Sequence[str]) -> pa.Table:
        offsets = self.rows.positions(unique)
        if len(unique) and offsets.min() < 0:
            raise InputError(f"Row id {unique[offsets < 0][0]} is not in version {self.version} of {self.root}.")
        table = self.table.take(offsets, [*dict.fromkeys([*columns, ROW_ID])])
        if not np.array_equal(np.asarray(table[ROW_ID], dtype=np.int64), unique):
            raise FormatError(f"Reference {self.root}: rows are not where their slides say; run mst verify --repair.")
        return table.select(list(columns))

    def counts(self, row_ids: IdArray) -> Iterator[SlideCounts]:
        """Read the counts of ascending, different ids, slide by slide.

        Raises
        ------
        InputError
            When they were left out where the reference was published.
        """
        self.require_counts("This")
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
        return matrix(self.spots(row_ids, [column])[column], self.identity.embed_dim)

    def matching(self, condition: str) -> IdArray:
        """Ids of the spots that meet an SQL condition on the columns of the table."""
        return self.table.where(condition)

    @cached_property
    def median_depths(self) -> tuple[float, NDArray[np.float64]]:
        """Median of the spots' total counts, over all of them and ``(slides,)`` over each slide's."""
        kept = self.kept("depths")
        if kept is None:
            batches = (
                np.asarray(batch["total_counts"], dtype=np.int64) for batch in self.spot_batches(["total_counts"])
            )
            median, of_slide = median_depths(batches, [entry.n_spots for entry in self.entries])
            kept = {"median": median, "of_slide": of_slide.tolist()}
            self.keep("depths", kept)
        return float(kept["median"]), np.asarray(kept["of_slide"], dtype=np.float64)

    # --- expression

    def expression(self, row_ids: IdArray, genes: GenePanel, rule: Normalisation) -> ExpressionRows:
        """Read the expression of ascending, different ids from the table."""
        return read_expression(self.counts(row_ids), self.panels, len(row_ids), genes, rule)

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation that the reference's model was trained with."""
        return from_dict(Normalisation, dict(self.metadata["identity"]["settings"].get("normalisation", {})))
