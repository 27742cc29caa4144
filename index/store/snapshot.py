"""Reading one version of a reference: slides, genes, spots, counts, embeddings, search."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.errors import FormatError, InputError
from mclstexp.index.search import pieces
from mclstexp.index.search.backend import Backend, Search
from mclstexp.index.search.exact import ExactBackend
from mclstexp.index.search.faiss_cpu import FaissBackend
from mclstexp.index.search.faiss_gpu import choose_device, on_gpu
from mclstexp.index.search.lancedb import LanceBackend, open_table
from mclstexp.index.search.ranges import Ranges, RowRanges, merge_ranges
from mclstexp.index.search.spot_index import SpotIndex
from mclstexp.index.store.counts import decode_counts
from mclstexp.index.store.expression import ExpressionRows, HalfArray, SlideCounts, read_expression
from mclstexp.index.store.format import read_metadata, refuse_version_1
from mclstexp.index.store.genes import read_genes
from mclstexp.index.store.hashes import check_manifest
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.matrix import RowMatrix
from mclstexp.index.store.place import EXPRESSION, TABLE, Place
from mclstexp.index.store.schema import SlideEntry, matrix
from mclstexp.index.store.table import ROW_ID, Table
from mclstexp.panel import GenePanel
from mclstexp.settings import from_dict, to_dict
from mclstexp.storage import canonical_json, read_digested, sha256_bytes, storage_error, write_digested
from mclstexp.types import BoolArray, Device, FloatArray, IdArray, Progress


class Snapshot:
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
        self._index: dict[tuple[str, str], SpotIndex] = {}

    @classmethod
    def at(cls, place: Place, version: int | None = None) -> Snapshot:
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

    def kept_path(self, name: str) -> Path:
        """Path of a small derived value of this version."""
        return self.derived / f"{name}-{self.version}-{self.manifest_sha256[:12]}.json"

    def kept(self, name: str) -> dict[str, Any] | None:
        """Return a small derived value of this version; None where it is missing or damaged."""
        return read_digested(self.kept_path(name))

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
        table = self.table.read(lambda ds: ds.to_table(columns=["total_counts"], with_row_id=True))
        depth = np.asarray(table["total_counts"], dtype=np.float64)
        numbers = self.slide_numbers(np.asarray(table[ROW_ID], dtype=np.int64))
        order = np.argsort(numbers, kind="stable")
        parts = np.split(depth[order], np.searchsorted(numbers[order], np.arange(1, len(self.entries))))
        of_slide = [np.median(part) for part in parts]
        return float(np.median(depth)) if len(depth) else 0.0, np.asarray(of_slide, dtype=np.float64)

    # --- expression

    def expression(self, row_ids: IdArray, genes: GenePanel, rule: Normalisation) -> ExpressionRows:
        """Read the expression of ascending, different ids from the table."""
        return read_expression(self.counts(row_ids), self.panels, len(row_ids), genes, rule)

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation that the reference's model was trained with."""
        return from_dict(Normalisation, dict(self.metadata["identity"]["settings"].get("normalisation", {})))

    @cached_property
    def expression_cache(self) -> RowMatrix:
        """The float16 copy of the panel's expression; it may lack slides until `fill_cache`."""
        panel = self.identity.panel
        key = {"reference_id": self.reference_id, "genes": panel.digest, "normalisation": to_dict(self.normalisation)}
        folder = self.derived / f"expression-{sha256_bytes(canonical_json(key).encode())[:16]}"
        if not self.has_counts:
            folder = self.place.kept_folder(EXPRESSION, self.reference_id)
        return RowMatrix(folder, key, "<f2", len(panel))

    def panel_expression(self, entry: SlideEntry) -> HalfArray:
        """Read ``(n_spots, len(panel))`` float16 expression of a slide, of its counts or in their place."""
        panel = self.identity.panel
        if not self.has_counts:
            self.fill_cache()
            return np.asarray(self.expression_cache.values()[slice(*entry.rows)])
        return self.expression(np.arange(*entry.rows), panel, self.normalisation).dense(0, len(panel))

    def fill_cache(self, *, on_progress: Progress | None = None) -> str:
        """Complete the copy of the panel's expression; returns why it could not be written, or "".

        Raises
        ------
        FormatError
            When a part is missing or damaged that was published in the place of counts.
        """
        if not self.has_counts:
            if self.expression_cache.missing(self.entries):
                raise FormatError(
                    f"Reference {self.root}: {EXPRESSION} is missing or damaged, and the counts that it was made of "
                    "were left out; fetch the reference again."
                )
            return ""
        try:
            self.expression_cache.fill(self.entries, self.panel_expression, on_progress=on_progress)
        except OSError as error:
            return str(storage_error(error, self.derived))
        return ""

    # --- search

    @cached_property
    def keys_file(self) -> RowMatrix:
        """The copy of the column ``embedding``, so that it can be memory-mapped."""
        dim = int(self.metadata["identity"]["embed_dim"])
        return RowMatrix(self.derived / f"keys-{dim}", self._index_key, "<f4", dim)

    @property
    def _index_key(self) -> dict[str, Any]:
        return {"reference_id": self.reference_id, "dim": int(self.metadata["identity"]["embed_dim"])}

    def slide_keys(self, entry: SlideEntry) -> FloatArray:
        """Read ``(n_spots, d)`` keys of a slide from the table."""
        return self.embeddings(np.arange(*entry.rows))

    @cached_property
    def keys(self) -> FloatArray:
        """``(at least n_ids, d)`` keys whose row is the id, memory-mapped, or in memory where no file can be kept."""
        try:
            self.keys_file.fill(self.entries, self.slide_keys)
        except OSError:
            return self.keys_file.in_memory(self.entries, self.slide_keys)
        return self.keys_file.values()

    @property
    def index_folder(self) -> Path:
        """Folder of the inverted files."""
        return self.keys_file.folder

    def pieces(self) -> list[pieces.LoadedPiece]:
        """Inverted files that are at hand for this version."""
        return pieces.load(self.index_folder, self._index_key)

    def bring_up(self, *, anew: bool = False) -> list[str]:
        """Derive what is missing: keys, inverted files, expression; returns what could not be written and why."""
        problem = self._keep_slides(self.entries)
        problems = [f"The list of slides: {problem}"] if problem else []
        try:
            pieces.update(self.index_folder, self._index_key, self.keys, self.live, choice=self.index_choice, anew=anew)
        except (OSError, RuntimeError) as error:
            problems.append(f"The search index: {storage_error(error, self.derived)}")
        problem = self.fill_cache()
        return [*problems, f"The copy of the expression: {problem}"] if problem else problems

    def lance_table(self) -> Any:
        """Return the table as LanceDB opens it, at this version."""
        return open_table(self.place.uri, TABLE, self.version, self.place.storage_options)

    def index(self, device: Device = "auto", search: Search = "faiss") -> SpotIndex:
        """Return the search over this version's keys.

        Parameters
        ----------
        device
            ``auto`` takes a GPU where FAISS sees one.
        search
            ``faiss``, ``lancedb`` for the table's own index, or ``exact`` for every key on the CPU.
        """
        if (device, search) not in self._index:
            keys = self.keys[: self.n_ids]
            backend, note = self._backend(keys, device, search)
            self._index[device, search] = SpotIndex(
                keys, self.live_mask, tie_rank=self.tie_rank, backend=backend, note=note
            )
        return self._index[device, search]

    def _backend(self, keys: FloatArray, device: Device, search: Search) -> tuple[Backend, str]:
        if search == "lancedb":
            return LanceBackend(self.lance_table(), self.live_mask), ""
        if search == "exact":
            return ExactBackend(keys), ""
        parts = [loaded for loaded in self.pieces() if any(self.live_mask[a:b].any() for a, b in loaded.piece.ranges)]
        note = ""
        if choose_device(device)[0] == "cuda":
            backend, note = on_gpu(keys, self.live_mask, parts)
            if backend is not None:
                return backend, note
        if not parts:
            return ExactBackend(keys), note
        return FaissBackend(keys, parts, pieces.outside(parts, self.live_mask)), note
