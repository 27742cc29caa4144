"""Small files that say to be huge: refused in a moment, before anything of their size is asked for."""

import gzip
import json
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mclstexp.data import sizes
from mclstexp.data.genes.lists import read_gene_list
from mclstexp.data.tables import open_binary, read_table
from mclstexp.errors import InputError
from mclstexp.model.image.weights import load_weights
from mclstexp.predict.evidence import read_neighbours


@contextmanager
def little_memory(more: int = 400 * 2**20) -> Iterator[None]:
    """Let this process have no more than it has and a little."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def zeros_gzipped(path: Path, n_bytes: int) -> Path:
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b"0\t" * 2**19
    with path.open("wb") as file:
        file.write(pack.compress(b"a\tb\n"))
        for _ in range(n_bytes // 2**20):
            file.write(pack.compress(block))
        file.write(pack.flush())
    return path


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SMALL_BYTES", 2**23)
    bomb = zeros_gzipped(tmp_path / "counts.tsv.gz", 2**26)
    assert bomb.stat().st_size < 2**17
    with little_memory(), pytest.raises(InputError, match=r"counts.tsv.gz is refused: its .* bytes unpack to"):
        read_table(bomb)
    twice = tmp_path / "two.tsv.gz"  # gzip files may follow each other in one
    twice.write_bytes(gzip.compress(b"a\tb\n") + bomb.read_bytes())
    with pytest.raises(InputError, match="is refused"):
        open_binary(twice)


def test_a_table_of_zeros_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SMALL_BYTES", 2**16)
    rng = np.random.default_rng(0)
    rows = [["spot", *(f"G{i}" for i in range(200))]]
    rows += [[f"s{i}", *map(str, rng.poisson(0.1, 200))] for i in range(500)]
    (tmp_path / "counts.tsv.gz").write_bytes(gzip.compress("\n".join("\t".join(row) for row in rows).encode()))
    assert read_table(tmp_path / "counts.tsv.gz").shape == (500, 201)
    damaged = (tmp_path / "counts.tsv.gz").read_bytes()[:-2000]
    (tmp_path / "cut.tsv.gz").write_bytes(damaged)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "cut.tsv.gz")


def test_a_parquet_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    one = pa.table({f"c{i}": pa.repeat(pa.scalar(7), 2**20) for i in range(8)})
    with pq.ParquetWriter(path, one.schema, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(one)
    assert path.stat().st_size < 2**20
    for read in (read_table, read_neighbours):
        with little_memory(), pytest.raises(InputError, match="is refused: its"):
            read(path)


def test_weights_that_say_to_be_huge_are_refused(tmp_path: Path) -> None:
    import torch

    for shape, end in (([2**40], 8), ([2**40], 2**42), ([-1], 8)):
        head = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 8)
        with little_memory(), pytest.raises(InputError, match="is not a readable"):
            load_weights(torch.nn.Linear(1, 1), tmp_path / "w.safetensors", "x")
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with little_memory(), pytest.raises(InputError, match="is not a readable"):
        load_weights(torch.nn.Linear(1, 1), tmp_path / "w.safetensors", "x")


def test_an_array_of_names_that_says_to_be_huge_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "genes.npy", np.array(["ERBB2", "CD3E"]))
    data = (tmp_path / "genes.npy").read_bytes()
    (tmp_path / "huge.npy").write_bytes(data.replace(b"(2,), }         ", b"(99999999999,), }"[:16].ljust(16)))
    head = data[:10] + data[10:].replace(b"'shape': (2,), }          ", b"'shape': (99999999999,), }")
    (tmp_path / "huge.npy").write_bytes(head)
    with little_memory(), pytest.raises(InputError, match=r"huge.npy"):
        read_gene_list(tmp_path / "huge.npy")


def test_json_that_is_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "genes.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"genes.json"):
        read_gene_list(tmp_path / "genes.json")
