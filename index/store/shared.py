"""What is derived from the table, beside it in a bucket, so that no reader derives it again.

Who writes puts it there, after the commit; who reads fetches it once into the local cache. Everything large lies under
the hash of its bytes, and a record that carries its own digest says what it is; the record is written last. So nothing
is ever changed, a reader sees all of a file or nothing, and what is stale, damaged or missing is derived from the table
instead. Only `mst optimize` removes anything.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mclstexp.index.search import pieces
from mclstexp.index.search.ivf import choose_kind
from mclstexp.index.store.matrix import RowMatrix, locked
from mclstexp.index.store.place import DERIVED, Place
from mclstexp.index.store.schema import SlideEntry
from mclstexp.notes import inform
from mclstexp.storage import TEMPORARY, digested, parse_digested, sha256_bytes, sha256_file, storage_error

if TYPE_CHECKING:
    from mclstexp.index.store.snapshot import Snapshot

SHARD_BYTES = 2**27
"""Rows of slides are put together up to this size: a reader holds one such file in memory."""

Row = tuple[int, str, int]
"""A slide's first row, content hash and number of spots."""


@dataclass(frozen=True)
class Shard:
    """Rows of some slides, one slide after the other."""

    file: str
    sha256: str
    n_bytes: int
    slides: dict[str, dict[str, Any]]
    record: str = ""

    @property
    def rows(self) -> set[Row]:
        """What it holds."""
        return {(int(start), slide["content_hash"], slide["n_spots"]) for start, slide in self.slides.items()}


class Shared:
    """The derived files in a bucket.

    Parameters
    ----------
    place
        Where the reference lies; of a local one nothing is shared, since everybody opens the same files.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def fetch_kept(self, path: Path) -> bytes | None:
        """Return a small derived value by the name of its local file; None where there is none."""
        try:
            return self.place.read(f"{DERIVED}/{path.name}")
        except OSError as error:
            self._say(error)
            return None

    def put_kept(self, path: Path) -> None:
        """Put a small derived value there."""
        name = f"{DERIVED}/{path.name}"
        if path.exists() and self.place.read(name) is None:
            self.place.write(name, path.read_bytes())

    # --- rows: keys and expression

    def fetch_rows(self, held: RowMatrix, entries: Sequence[SlideEntry]) -> None:
        """Fetch the rows of slides that the local file lacks, as far as they are there; the rest is left to the caller.

        Raises
        ------
        OSError
            When the local file cannot be written.
        """
        if not held.missing(entries):
            return
        held.folder.mkdir(parents=True, exist_ok=True)
        with locked(held.folder):
            missing = {(entry.row_start, entry.content_hash, entry.n_spots) for entry in held.missing(entries)}
            for shard in self._shards(held) if missing else ():
                if missing & shard.rows:
                    data = self._read(f"{self._folder(held.folder)}/{shard.file}")
                    if data is None or sha256_bytes(data) != shard.sha256:
                        inform(f"{self.place}: {shard.file} of what is derived is missing or damaged; it is not used.")
                        continue
                    held.adopt(shard.slides, data)
                    missing -= shard.rows

    def put_rows(self, held: RowMatrix, entries: Sequence[SlideEntry], *, anew: bool = False) -> None:
        """Put the rows there that are not yet; with ``anew`` small files are joined and useless ones removed."""
        wanted = {(entry.row_start, entry.content_hash, entry.n_spots) for entry in entries}
        shards = list(self._shards(held))
        stale = [s for s in shards if anew and (not s.rows & wanted or s.n_bytes < SHARD_BYTES // 2)]
        present = {row for shard in shards if shard not in stale for row in shard.rows}
        folder, new = self._folder(held.folder), set()
        for slides in _groups(held, [row for row in sorted(wanted) if row not in present]):
            data = b"".join(held.row_bytes_of(int(start), slide["n_spots"]) for start, slide in slides.items())
            digest = sha256_bytes(data)
            name = f"rows-{digest[:20]}"
            new.add(f"{name}.bin")
            self.place.write(f"{folder}/{name}.bin", data)
            values = {"key": held.key, "file": f"{name}.bin", "sha256": digest, "n_bytes": len(data), "slides": slides}
            self.place.write(f"{folder}/{name}.json", digested(values))
        for shard in stale:
            if shard.file not in new:
                self.place.remove(f"{folder}/{shard.record}")
                self.place.remove(f"{folder}/{shard.file}")

    def _shards(self, held: RowMatrix) -> Iterator[Shard]:
        folder = self._folder(held.folder)
        for name in self._names(folder, "rows-", ".json"):
            values = parse_digested(self._read(name) or b"")
            if values is not None and values.pop("key") == held.key:
                # A slide's bytes follow each other in the order of its first rows.
                slides = {start: values["slides"][start] for start in sorted(values["slides"], key=int)}
                yield Shard(**{**values, "slides": slides}, record=name.rpartition("/")[2])

    # --- inverted files

    def fetch_pieces(self, folder: Path, key: dict[str, Any]) -> None:
        """Fetch the newest inverted files that are whole, in the place of the local ones.

        Raises
        ------
        OSError
            When a local file cannot be written.
        """
        key = json.loads(json.dumps(key))
        for name in reversed(self._names(self._folder(folder), "pieces-", ".json")):
            values = parse_digested(self._read(name) or b"")
            if values is None or values["key"] != key:
                continue
            wanted = [pieces.Piece.from_json(item) for item in values["pieces"]]
            folder.mkdir(parents=True, exist_ok=True)
            if all(self._fetch_piece(folder, piece) for piece in wanted):
                pieces.record(folder, key, wanted)
                return

    def _fetch_piece(self, folder: Path, piece: pieces.Piece) -> bool:
        path = folder / piece.file
        if path.exists() and path.stat().st_size == piece.n_bytes:
            return True
        temporary = folder / f"{TEMPORARY}{os.getpid()}-{piece.file}"
        try:
            there = self._fetched(f"{self._folder(folder)}/{piece.file}", temporary)
            if there and sha256_file(temporary) == piece.sha256:
                temporary.replace(path)
                return True
        finally:
            temporary.unlink(missing_ok=True)
        inform(f"{self.place}: {piece.file} of what is derived is missing or damaged; it is not used.")
        return False

    def put_pieces(self, folder: Path, key: dict[str, Any], version: int, *, anew: bool = False) -> None:
        """Put the local inverted files there; with ``anew`` the others are removed."""
        local, there = pieces.load(folder, key), self._folder(folder)
        present = set(self._names(there, "", ""))
        for loaded in local:
            if f"{there}/{loaded.path.name}" not in present:
                self.place.put_file(loaded.path, f"{there}/{loaded.path.name}")
        record = digested({"key": key, "pieces": [loaded.piece.to_json() for loaded in local]})
        same = f"-{sha256_bytes(record)[:12]}.json"
        kept = {f"{there}/{loaded.path.name}" for loaded in local}
        kept |= {name for name in present if name.startswith(f"{there}/pieces-") and name.endswith(same)}
        if local and not any(name.endswith(same) for name in kept):
            self.place.write(f"{there}/pieces-{version:08d}{same}", record)
        for name in sorted(present - kept, reverse=True) if anew else ():
            if name.startswith((f"{there}/pieces-", f"{there}/ivf-")):
                self.place.remove(name)

    # --- the bucket

    def _folder(self, local: Path) -> str:
        return f"{DERIVED}/{local.name}"

    def _names(self, folder: str, start: str, end: str) -> list[str]:
        try:
            names = self.place.names(folder)
        except OSError as error:
            self._say(error)
            return []
        return [name for name in names if name.startswith(f"{folder}/{start}") and name.endswith(end)]

    def _read(self, name: str) -> bytes | None:
        try:
            return self.place.read(name)
        except OSError as error:
            self._say(error)
            return None

    def _fetched(self, name: str, path: Path) -> bool:
        try:
            return self.place.fetch_file(name, path)
        except OSError as error:
            if error.errno is not None:  # The local disk's; the store's have none.
                raise
            self._say(error)
            return False

    def _say(self, error: OSError) -> None:
        reason = self.place.refusal(error) or (str(error).splitlines() or ["?"])[0]
        inform(f"{self.place}: what is derived could not be fetched, so it is derived from the table: {reason}")


def _groups(held: RowMatrix, rows: Sequence[Row]) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the whole slides of a local file, put together up to `SHARD_BYTES`, in the order of their rows."""
    filled, group, size = held.filled(), dict[str, dict[str, Any]](), 0
    for start, content_hash, n_spots in rows:
        slide = filled.get(str(start))
        if slide is None or (slide["content_hash"], slide["n_spots"]) != (content_hash, n_spots):
            continue
        if sha256_bytes(held.row_bytes_of(start, n_spots)) != slide["sha256"]:
            continue
        n_bytes = n_spots * held.row_bytes
        if group and size + n_bytes > SHARD_BYTES:
            yield group
            group, size = {}, 0
        group[str(start)] = slide
        size += n_bytes
    if group:
        yield group


def put_derived(snapshot: Snapshot, *, anew: bool) -> str:
    """Put what was derived for a version beside the table; returns why it could not be, or ""."""
    place, shared = snapshot.place, snapshot.shared
    if place.local is not None:
        return ""
    try:
        _ = snapshot.median_depths  # kept, and so shared
        for name in ("slides", "depths"):
            shared.put_kept(snapshot.kept_path(name))
        for held in (snapshot.keys_file, snapshot.expression_cache):
            shared.put_rows(held, snapshot.entries, anew=anew)
        shared.put_pieces(snapshot.index_folder, snapshot.index_key, snapshot.version, anew=anew)
    except OSError as error:
        return f"what is derived could not be put there: {place.refusal(error) or storage_error(error, str(place))}"
    return ""


def bring_pieces(snapshot: Snapshot) -> None:
    """Of a reference in an object store: fetch inverted files, or make them here, where many rows are in none."""
    if snapshot.place.local is not None or choose_kind(snapshot.index_choice, snapshot.n_spots) == "exact":
        return
    folder, key, live = snapshot.index_folder, snapshot.index_key, snapshot.live
    with contextlib.suppress(OSError):  # Where no file can be kept, every key is compared.
        if pieces.lacking(snapshot.pieces(), live) > pieces.FLAT_ROWS:
            snapshot.shared.fetch_pieces(folder, key)
        if pieces.lacking(snapshot.pieces(), live) > pieces.FLAT_ROWS:
            inform(f"{snapshot.place}: the inverted files are made here, once; mst optimize puts them there.")
            pieces.update(folder, key, snapshot.keys, live, choice=snapshot.index_choice)
