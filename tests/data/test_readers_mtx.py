"""MatrixMarket files: what SciPy would read, and nothing that ends the process."""

import gzip
import subprocess
import sys

import numpy as np
import pytest
from layouts import GENES, N, fails, save_10x, save_positions
from scipy import io as scipy_io
from scipy import sparse

from mclstexp.data.readers.mtx import read_mtx
from mclstexp.errors import InputError

BANNER = "%%MatrixMarket matrix coordinate integer general\n"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("field", ["integer", "real"])
def test_it_reads_what_scipy_reads(tmp_path, field, packed):
    counts = sparse.random(30, 20, density=0.2, random_state=np.random.default_rng(0), format="csc")
    counts.data = np.ceil(counts.data * 50)
    values = counts.astype(np.int64) if field == "integer" else counts
    scipy_io.mmwrite(tmp_path / "matrix.mtx", values, field=field, comment="made by a test\n two lines")
    path = tmp_path / "matrix.mtx"
    if packed:
        path = tmp_path / "matrix.mtx.gz"
        path.write_bytes(gzip.compress((tmp_path / "matrix.mtx").read_bytes()))
    matrix = read_mtx(path, (30, 20))
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix.toarray(), scipy_io.mmread(tmp_path / "matrix.mtx").toarray())


def test_a_matrix_without_entries_is_a_matrix(tmp_path):
    (tmp_path / "m.mtx").write_text(BANNER + "3 2 0\n")
    assert read_mtx(tmp_path / "m.mtx", (3, 2)).nnz == 0


MARKET = "%%MatrixMarket matrix"
BROKEN = {
    "empty": ("", "no MatrixMarket file"),
    "no banner": ("3 2 1\n1 1 5\n", "no MatrixMarket file"),
    "dense": (f"{MARKET} array integer general\n3 2\n", "not that of a sparse matrix"),
    "symmetric": (f"{MARKET} coordinate integer symmetric\n2 2 1\n1 1 1\n", "not that of a sparse matrix"),
    "complex": (f"{MARKET} coordinate complex general\n3 2 1\n1 1 5 0\n", "complex values; counts are needed"),
    "no size": (BANNER, "no line of rows"),
    "size of words": (BANNER + "three 2 1\n1 1 5\n", "no line of rows"),
    "negative size": (BANNER + "-3 2 1\n1 1 5\n", "no line of rows"),
    "absurd size": (BANNER + "99999999999 99999999999 99999999999\n1 1 1\n", "but 3 features and 2 barcodes"),
    "endless size": (BANNER + "9" * 400 + " 2 1\n1 1 1\n", "no line of rows"),
    "endless line": (BANNER + "%" * 100_000, "damaged"),
    "other size": (BANNER + "2 3 1\n1 1 5\n", r"matrix of \(2, 3\), but 3 features"),
    "more entries than cells": (BANNER + "3 2 7\n1 1 1\n", "7 entries in a matrix of 3 x 2"),
    "fewer entries": (BANNER + "3 2 3\n1 1 5\n", "says 3 entries, and it has 1"),
    "more entries": (BANNER + "3 2 1\n1 1 5\n2 1 5\n", "says 1 entries, and it has 2"),
    "row 0": (BANNER + "3 2 1\n0 1 5\n", "outside its 3 x 2"),
    "row too far": (BANNER + "3 2 1\n4 1 5\n", "outside its 3 x 2"),
    "huge row": (BANNER + "3 2 1\n99999999999999999999999 1 5\n", "damaged"),
    "half a row": (BANNER + "3 2 1\n1.5 1 5\n", "damaged"),
    "no value": (BANNER + "3 2 2\n1 1\n2 2 6\n", "not every line"),
    "four cells": (BANNER + "3 2 1\n1 1 5 5\n", "not every line"),
    "words": (BANNER + "3 2 1\n1 1 five\n", "damaged"),
    "quotes": (BANNER + '3 2 1\n"1 1 5\n', "damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line(tmp_path, name):
    text, match = BROKEN[name]
    path = tmp_path / "m.mtx"
    path.write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        read_mtx(path, (3, 2))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


RUBBISH = r"""
import gzip, sys
from pathlib import Path
import numpy as np
from mclstexp.data.readers import inspect_slides

refs, (path,) = Path(sys.argv[1]), Path(sys.argv[1]).rglob("matrix.mtx.gz")
whole = gzip.decompress(path.read_bytes())
head = whole[: whole.index(b"\n") + 1]
named = 0
for seed in range(8):
    rng = np.random.default_rng(seed)
    noise = rng.bytes(5000)
    flipped = bytearray(whole)
    for place in rng.integers(0, len(whole), 5):
        flipped[place] ^= int(rng.integers(1, 256))
    absurd = head + b"99999999999 99999999999 99999999999\n" + noise
    for content in (noise, *(gzip.compress(data) for data in (noise, head + noise, absurd, bytes(flipped)))):
        path.write_bytes(content)
        (report,) = inspect_slides(refs)
        assert report.slide is not None or report.problems, seed
        assert not any("\n" in text for text in report.problems), report.problems
        named += any("matrix.mtx.gz" in text for text in report.problems)
print(named)
"""


def test_random_bytes_never_end_the_process(tmp_path):
    save_10x(tmp_path / "V1", mex=True)
    save_positions(tmp_path / "V1")
    command = [sys.executable, "-c", RUBBISH, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 32  # all but some of the 8 files with flipped bytes, which may still be counts


def test_a_slide_with_such_a_matrix_is_named(tmp_path):
    save_10x(tmp_path / "V1", mex=True)
    save_positions(tmp_path / "V1")
    (path,) = tmp_path.rglob("matrix.mtx.gz")
    path.write_bytes(gzip.compress((BANNER + "99999999999 99999999999 99999999999\n").encode()))
    fails(tmp_path, rf"matrix\.mtx\.gz holds a matrix of .*, but {len(GENES)} features and {N} barcodes")
