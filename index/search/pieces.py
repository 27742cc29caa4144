"""The inverted files of a reference: which there are, growing them, measuring them.

They are derived from the keys and lie beside them. An entry is a spot's id, and a key never changes, so the pieces
serve every version of a reference: rows that a version lacks are masked, rows in no piece are compared exactly.
All pieces of a record are over the same lists, which were trained once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mclstexp.errors import FormatError
from mclstexp.index.search import ivf
from mclstexp.index.search.exact import ExactBackend
from mclstexp.index.search.ranges import Ranges, RowRanges, covers, merge_ranges, minus, overlap, split, total, touches
from mclstexp.index.search.vectors import recall_at_k
from mclstexp.storage import TEMPORARY, read_digested, sha256_file, write_digested
from mclstexp.types import BoolArray, FloatArray, IdArray

RECORD = "pieces.json"
CHECKED_BYTES = 2**28
"""Inverted files up to this size are compared with their hash before they are used, once a process."""

_WHOLE: dict[tuple[str, int, int, str], bool] = {}
FLAT_ROWS = 65_536
"""Rows outside the inverted files above which they are encoded into one of their own."""
PIECE_ROWS = 2**22
"""Rows of an inverted file: building takes the memory of one, about a kilobyte of codes for every four spots."""
RETRAIN_GROWTH = 4
"""The lists are trained anew once the reference has grown by this factor."""
RECALL_QUERIES = 256
RECALL_K = 200
RECALL_WANTED = 0.993
"""Recall at 200 that nprobe is raised for; above the 0.99 promised, since other queries differ from the sample."""


@dataclass(frozen=True)
class Piece:
    """An inverted file: its name and hash, the ids in it, and how it was made and measured."""

    file: str
    sha256: str
    n_bytes: int
    ranges: Ranges
    kind: str
    trained_on: int
    nprobe: int = 0
    recall: float | None = None
    recall_k: int | None = None

    @property
    def n_rows(self) -> int:
        """Number of entries."""
        return total(self.ranges)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Piece:
        """Read what `to_json` gave."""
        return cls(**{**values, "ranges": tuple(map(tuple, values["ranges"]))})


@dataclass(frozen=True, eq=False)
class LoadedPiece:
    """An inverted file that is memory-mapped when it is first searched."""

    piece: Piece
    path: Path

    def __len__(self) -> int:
        return self.piece.n_rows

    @cached_property
    def index(self) -> Any:
        """The FAISS index.

        Raises
        ------
        FormatError
            When the file cannot be read.
        """
        _require_whole(self.path, self.piece)
        index = ivf.read(self.path, mapped=True)
        if index.ntotal != self.piece.n_rows:
            raise FormatError(f"The index file {self.path} has {index.ntotal} entries, not {self.piece.n_rows}.")
        return index


def load(folder: Path, key: dict[str, Any]) -> list[LoadedPiece]:
    """Return the pieces that are whole by size; none where their record is missing, damaged or of something else."""
    values = read_digested(folder / RECORD)
    if values is None or values.get("key") != key:
        return []
    pieces = [Piece.from_json(item) for item in values["pieces"]]
    loaded = [LoadedPiece(piece, folder / piece.file) for piece in pieces]
    return [item for item in loaded if item.path.exists() and item.path.stat().st_size == item.piece.n_bytes]


def lacking(pieces: Sequence[LoadedPiece], live: Ranges) -> int:
    """Return the number of live rows that no piece holds."""
    return total(minus(live, merge_ranges([part for loaded in pieces for part in loaded.piece.ranges])))


def _require_whole(path: Path, piece: Piece) -> None:
    """Refuse a file that is not the one that was written: FAISS would answer from damaged lists, or end the process."""
    try:
        about = path.stat()
        identity = (str(path), about.st_ino, about.st_mtime_ns, piece.sha256)
        if identity not in _WHOLE and piece.n_bytes <= CHECKED_BYTES:
            _WHOLE[identity] = sha256_file(path) == piece.sha256
        whole = about.st_size == piece.n_bytes and _WHOLE.get(identity, True)
    except OSError:
        whole = False
    if not whole:
        raise FormatError(f"The index file {path} is missing or damaged; run mst verify --repair.")


def update(
    folder: Path, key: dict[str, Any], keys: FloatArray, live: Ranges, *, choice: str, anew: bool = False
) -> None:
    """Bring the pieces up to date with the live rows.

    Parameters
    ----------
    keys
        ``(n_ids, d)`` float32 keys whose row is the id.
    choice
        "auto" or a kind of `ivf.KINDS`.
    anew
        Train the lists again even where they still serve.

    Raises
    ------
    OSError
        When a file cannot be written.
    """
    n_live = total(live)
    kind = ivf.choose_kind(choice, n_live, keys.shape[1])
    old = [loaded.piece for loaded in load(folder, key)]
    if kind == "exact":
        pieces: list[Piece] = []
    else:
        alive = sum(total(overlap(piece.ranges, live)) for piece in old)
        dead = sum(piece.n_rows for piece in old) - alive
        trained_on = max((piece.trained_on for piece in old), default=0)
        outgrown = n_live > RETRAIN_GROWTH * trained_on or dead > n_live
        rest = minus(live, merge_ranges([part for piece in old for part in piece.ranges]))
        if anew or outgrown or any(piece.kind != kind for piece in old):
            pieces = _train(folder, keys, live, kind)
        elif total(rest) > FLAT_ROWS:
            pieces = _encode(folder, keys, rest, old)
        else:
            pieces = old
    if pieces == old and (pieces or not (folder / RECORD).exists()):
        return
    record(folder, key, pieces)


def record(folder: Path, key: dict[str, Any], pieces: Sequence[Piece]) -> None:
    """Make these the pieces of a reference, and remove files that are not among them.

    Raises
    ------
    OSError
        When the record cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_digested(folder / RECORD, {"key": key, "pieces": [piece.to_json() for piece in pieces]})
    for path in folder.glob("ivf-*.faiss"):
        if path.name not in {piece.file for piece in pieces}:
            path.unlink(missing_ok=True)


def _train(folder: Path, keys: FloatArray, live: Ranges, kind: str) -> list[Piece]:
    """Train lists on a sample, and write the rows over them in files that each fit into memory."""
    index = ivf.train(keys, RowRanges(live), kind)
    like = Piece("", "", 0, (), kind, total(live))
    pieces = [_filled(folder, index, keys, part, like) for part in split(live, PIECE_ROWS)]
    return _measured(folder, pieces, keys)


def _encode(folder: Path, keys: FloatArray, rows: Ranges, old: Sequence[Piece]) -> list[Piece]:
    """Write inverted files of further rows over the lists that are trained already.

    Files at the end that are no larger than what is new are written again with it, so that many adds leave few.
    """
    _require_whole(folder / old[0].file, old[0])
    index, kept = ivf.emptied(folder / old[0].file), list(old)
    while len(kept) > 1 and kept[-1].n_rows <= total(rows) and kept[-1].n_rows + total(rows) <= PIECE_ROWS:
        rows = merge_ranges([*rows, *kept.pop().ranges])
    return [*kept, *(_filled(folder, index, keys, part, old[0]) for part in split(rows, PIECE_ROWS))]


def _filled(folder: Path, index: Any, keys: FloatArray, rows: Ranges, like: Piece) -> Piece:
    """Write the rows over trained lists into a file, and leave the lists empty again."""
    ivf.fill(index, keys, RowRanges(rows))
    piece = _store(folder, replace(like, ranges=rows), index)
    index.reset()
    return piece


def _store(folder: Path, piece: Piece, index: Any) -> Piece:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY}ivf"
    try:
        ivf.write(index, temporary)
        digest = sha256_file(temporary)
        name = f"ivf-{digest[:20]}.faiss"
        n_bytes = temporary.stat().st_size
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    return replace(piece, file=name, sha256=digest, n_bytes=n_bytes)


def _measured(folder: Path, pieces: Sequence[Piece], keys: FloatArray) -> list[Piece]:
    """Raise nprobe until the recall against exact search is what is wanted; record both.

    Where there are many pieces, the first, the one in the middle and the last stand for all: comparing with every key
    would take longer than the rest of the building.
    """
    chosen = sorted({0, len(pieces) // 2, len(pieces) - 1})
    loaded = [LoadedPiece(pieces[i], folder / pieces[i].file) for i in chosen]
    rows = RowRanges(merge_ranges([part for item in loaded for part in item.piece.ranges]))
    ids = rows.row_ids(np.unique(np.linspace(0, len(rows) - 1, RECALL_QUERIES).astype(np.int64)))
    query = np.ascontiguousarray(keys[ids])
    allowed = rows.mask(len(keys))
    k, n_lists = min(RECALL_K, len(rows)), int(loaded[0].index.nlist)
    truth, _ = ExactBackend(keys).candidates(query, k, allowed, len(rows))
    for nprobe in itertools.accumulate(itertools.repeat(8), lambda n, _: int(np.ceil(n * 1.5))):
        nprobe = min(nprobe, n_lists)
        # As in a search, a quarter more than wanted is scored again exactly.
        near, _ = search(loaded, query, k + max(16, k // 4), nprobe=nprobe, allowed=allowed)
        scores = np.einsum("qd,qkd->qk", query, keys[np.maximum(near, 0)])
        best = np.argsort(np.where(near >= 0, -scores, np.inf), axis=1, kind="stable")[:, :k]
        recall = recall_at_k(np.take_along_axis(near, best, axis=1), truth)
        if recall >= RECALL_WANTED or nprobe == n_lists:
            break
    return [replace(piece, nprobe=nprobe, recall=round(recall, 5), recall_k=k) for piece in pieces]


def search(
    pieces: Sequence[LoadedPiece], query: FloatArray, k: int, *, nprobe: int, allowed: BoolArray
) -> tuple[IdArray, FloatArray]:
    """Search pieces that share their lists: the lists are chosen once, and the best k of all pieces are kept.

    Returns
    -------
    IdArray, FloatArray
        Ids and approximate similarities, both ``(n, k)``, -1 where fewer were found.

    Raises
    ------
    FormatError
        When a file cannot be read.
    """
    wanted = [loaded for loaded in pieces if touches(allowed, loaded.piece.ranges)]
    if not wanted:
        return np.full((len(query), k), -1, np.int64), np.full((len(query), k), -np.inf, np.float32)
    lists = ivf.nearest_lists(wanted[0].index, query, nprobe)
    bits = None if all(covers(allowed, loaded.piece.ranges) for loaded in wanted) else ivf.bits_of(allowed)
    return best_of([ivf.search(loaded.index, query, k, lists=lists, bits=bits) for loaded in wanted], k)


def best_of(found: Sequence[tuple[IdArray, FloatArray]], k: int) -> tuple[IdArray, FloatArray]:
    """Return the k most similar of several candidates of each query, those without an id last."""
    if len(found) == 1 and found[0][0].shape[1] <= k:
        return found[0]
    ids, similarity = (np.concatenate([part[i] for part in found], axis=1) for i in (0, 1))
    order = np.argsort(np.where(ids >= 0, -similarity, np.inf), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(similarity, order, axis=1)


def outside(pieces: Sequence[LoadedPiece], live: BoolArray) -> BoolArray:
    """Return truth by id: live rows that no piece holds."""
    rest = live.copy()
    for loaded in pieces:
        for start, stop in loaded.piece.ranges:
            rest[start:stop] = False
    return rest
