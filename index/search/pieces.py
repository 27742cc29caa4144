"""The inverted files of a reference: which there are, growing them, measuring them.

They are derived from the keys and lie beside them. An entry is a spot's id, and a key never changes, so the pieces
serve every version of a reference: rows that a version lacks are masked, rows in no piece are compared exactly.
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
from mclstexp.index.search.ranges import Ranges, RowRanges, covers, merge_ranges, minus, overlap, total
from mclstexp.index.search.vectors import recall_at_k
from mclstexp.storage import TEMPORARY, read_digested, sha256_file, write_digested
from mclstexp.types import BoolArray, FloatArray, IdArray

RECORD = "pieces.json"
CHECKED_BYTES = 2**28
"""Inverted files up to this size are compared with their hash before they are used, once a process."""

_WHOLE: dict[tuple[str, int, int, str], bool] = {}
FLAT_ROWS = 65_536
"""Rows outside the inverted files above which they are encoded into one of their own."""
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

    def search(self, query: FloatArray, k: int, *, nprobe: int, allowed: BoolArray) -> tuple[IdArray, FloatArray]:
        """Return ids and approximate similarities, both ``(n, k)``, -1 where fewer were found."""
        everything = covers(allowed, self.piece.ranges)
        return ivf.search(self.index, query, k, nprobe=nprobe, allowed=None if everything else allowed)


def load(folder: Path, key: dict[str, Any]) -> list[LoadedPiece]:
    """Return the pieces that are whole by size; none where their record is missing, damaged or of something else."""
    values = read_digested(folder / RECORD)
    if values is None or values.get("key") != key:
        return []
    pieces = [Piece(**{**item, "ranges": tuple(map(tuple, item["ranges"]))}) for item in values["pieces"]]
    loaded = [LoadedPiece(piece, folder / piece.file) for piece in pieces]
    return [item for item in loaded if item.path.exists() and item.path.stat().st_size == item.piece.n_bytes]


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
    kind = ivf.choose_kind(choice, n_live)
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
            pieces = [_train(folder, keys, live, kind)]
        elif total(rest) > FLAT_ROWS:
            pieces = [*old, _encode(folder, keys, rest, old[0])]
        else:
            pieces = old
    if pieces == old and (pieces or not (folder / RECORD).exists()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_digested(folder / RECORD, {"key": key, "pieces": [asdict(piece) for piece in pieces]})
    for path in folder.glob("ivf-*.faiss"):
        if path.name not in {piece.file for piece in pieces}:
            path.unlink(missing_ok=True)


def _train(folder: Path, keys: FloatArray, live: Ranges, kind: str) -> Piece:
    ids = RowRanges(live).row_ids(np.arange(total(live)))
    index = ivf.train(keys, ids, kind)
    ivf.fill(index, keys, ids)
    piece = _store(folder, Piece("", "", 0, live, kind, len(ids)), index)
    return _measured(folder, piece, keys, ids)


def _encode(folder: Path, keys: FloatArray, rows: Ranges, like: Piece) -> Piece:
    """Write an inverted file of further rows over the lists that another one was trained with."""
    _require_whole(folder / like.file, like)
    index = ivf.read(folder / like.file, mapped=False)
    index.reset()
    ivf.fill(index, keys, RowRanges(rows).row_ids(np.arange(total(rows))))
    return _store(folder, replace(like, ranges=rows), index)


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


def _measured(folder: Path, piece: Piece, keys: FloatArray, ids: IdArray) -> Piece:
    """Raise nprobe until the recall against exact search is what is wanted; record both."""
    loaded = LoadedPiece(piece, folder / piece.file)
    rows = ids[np.unique(np.linspace(0, len(ids) - 1, RECALL_QUERIES).astype(np.int64))]
    query = np.ascontiguousarray(keys[rows])
    allowed = np.zeros(len(keys), dtype=bool)
    allowed[ids] = True
    k = min(RECALL_K, len(ids))
    truth, _ = ExactBackend(keys).candidates(query, k, allowed, len(ids))
    for nprobe in itertools.accumulate(itertools.repeat(8), lambda n, _: int(np.ceil(n * 1.5))):
        nprobe = min(nprobe, int(loaded.index.nlist))
        # As in a search, a quarter more than wanted is scored again exactly.
        near, _ = loaded.search(query, k + max(16, k // 4), nprobe=nprobe, allowed=allowed)
        scores = np.einsum("qd,qkd->qk", query, keys[np.maximum(near, 0)])
        best = np.argsort(np.where(near >= 0, -scores, np.inf), axis=1, kind="stable")[:, :k]
        recall = recall_at_k(np.take_along_axis(near, best, axis=1), truth)
        if recall >= RECALL_WANTED or nprobe == loaded.index.nlist:
            break
    return replace(piece, nprobe=nprobe, recall=round(recall, 5), recall_k=k)


def outside(pieces: Sequence[LoadedPiece], live: BoolArray) -> BoolArray:
    """Return truth by id: live rows that no piece holds."""
    rest = live.copy()
    for loaded in pieces:
        for start, stop in loaded.piece.ranges:
            rest[start:stop] = False
    return rest
