"""One version of a reference with all that is derived from it: keys, expression, search."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mclstexp.errors import FormatError
from mclstexp.index.search import pieces
from mclstexp.index.search.backend import Backend, Search
from mclstexp.index.search.choose import by_faiss
from mclstexp.index.search.exact import ExactBackend
from mclstexp.index.search.lancedb import LanceBackend, open_table
from mclstexp.index.search.spot_index import SpotIndex
from mclstexp.index.store.expression import HalfArray, beyond_limit
from mclstexp.index.store.matrix import RowMatrix
from mclstexp.index.store.place import EXPRESSION, TABLE
from mclstexp.index.store.schema import SlideEntry
from mclstexp.index.store.shared import bring_pieces, put_derived
from mclstexp.index.store.version import Version
from mclstexp.settings import to_dict
from mclstexp.storage import canonical_json, sha256_bytes, storage_error
from mclstexp.types import Device, FloatArray, Progress


class Snapshot(Version):
    """A version of a reference, and its search. It stays what it is, whatever is committed meanwhile."""

    @cached_property
    def _index(self) -> dict[tuple[str, str], SpotIndex]:
        return {}

    # --- expression

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
        """Complete the copy of the panel's expression; returns why it was not, or "".

        A copy beyond the limit is not begun, and one that is there already is used.

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
        problem = beyond_limit(self.n_ids * self.expression_cache.row_bytes)
        if problem and self.expression_cache.missing(self.entries):
            return problem
        try:
            if self.place.local is None:
                self.shared.fetch_rows(self.expression_cache, self.entries)
            self.expression_cache.fill(self.entries, self.panel_expression, on_progress=on_progress)
        except OSError as error:
            return str(storage_error(error, self.derived))
        return ""

    # --- search

    @cached_property
    def keys_file(self) -> RowMatrix:
        """The copy of the column ``embedding``, so that it can be memory-mapped."""
        dim = int(self.metadata["identity"]["embed_dim"])
        return RowMatrix(self.derived / f"keys-{dim}", self.index_key, "<f4", dim)

    @property
    def index_key(self) -> dict[str, Any]:
        """What the keys and inverted files are of."""
        return {"reference_id": self.reference_id, "dim": int(self.metadata["identity"]["embed_dim"])}

    def slide_keys(self, entry: SlideEntry) -> FloatArray:
        """Read ``(n_spots, d)`` keys of a slide from the table."""
        return self.embeddings(np.arange(*entry.rows))

    @cached_property
    def keys(self) -> FloatArray:
        """``(at least n_ids, d)`` keys whose row is the id, memory-mapped, or in memory where no file can be kept."""
        try:
            if self.place.local is None:
                self.shared.fetch_rows(self.keys_file, self.entries)
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
        return pieces.load(self.index_folder, self.index_key)

    def bring_up(self, *, anew: bool = False) -> list[str]:
        """Derive what is missing: keys, inverted files, expression; returns what could not be written and why."""
        problem = self._keep_slides(self.entries)
        problems = [f"The list of slides: {problem}"] if problem else []
        try:
            pieces.update(self.index_folder, self.index_key, self.keys, self.live, choice=self.index_choice, anew=anew)
        except (OSError, RuntimeError) as error:
            problems.append(f"The search index: {storage_error(error, self.derived)}")
        for what, problem in (
            ("The copy of the expression", self.fill_cache()),
            ("The bucket", put_derived(self, anew=anew)),
        ):
            problems += [f"{what}: {problem}"] if problem else []
        return problems

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
        bring_pieces(self)
        return by_faiss(keys, self.live_mask, self.pieces(), device)
