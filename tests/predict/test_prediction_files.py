"""A prediction's two files: written wholly or not at all, and damage is told."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worlds import neighbour_table, tiny_prediction

from mclstexp.data.anndata_file import read_anndata
from mclstexp.errors import ExistsAlreadyError, InputError, StorageError
from mclstexp.predict.evidence import neighbours_path
from mclstexp.predict.prediction import Prediction


def test_an_existing_output_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "p.h5ad"
    neighbours_path(path).write_text("mine")
    with pytest.raises(ExistsAlreadyError, match="--force"):
        tiny_prediction().save(path)
    assert neighbours_path(path).read_text() == "mine"
    assert not path.exists()
    tiny_prediction().save(path, force=True)
    before = path.read_bytes()
    with pytest.raises(ExistsAlreadyError, match="--force"):
        tiny_prediction(slide_id="S2").save(path)
    assert path.read_bytes() == before
    tiny_prediction(slide_id="S2").save(path, force=True)
    assert Prediction.load(path).slide_id == "S2"


@pytest.mark.parametrize(("name", "says"), [("no/p.h5ad", "does not exist"), ("p.txt", "is an .h5ad file")])
def test_a_bad_output_name(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tiny_prediction().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from worlds import tiny_prediction
from mclstexp.data.anndata_file import read_anndata
from mclstexp.errors import StorageError
prediction, folder = tiny_prediction(), Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (500, 3_000, 60_000, 400_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        prediction.save(folder / "p.h5ad")
    except StorageError as error:
        left = [path.name for path in folder.iterdir()]
        sys.stdout.write(f"{error} {left}\\n")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits need a POSIX system")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses to write past a size: in each of the two files, and at several places.

    In a process of its own, because HDF5 is known to end it when a write fails as the file is closed.
    """
    command = [sys.executable, "-c", FULL_DISK, str(Path(__file__).parents[1]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    refusal = f"{tmp_path / 'p.h5ad'}: a file would grow past the size limit (ulimit -f, or the file system's). []"
    assert done.stdout.splitlines() == [refusal] * 4, done.stderr


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_prediction().save(tmp_path / "p.h5ad")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "p.h5ad"
    tiny_prediction().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(InputError, match=r"not a readable \.h5ad"):
        Prediction.load(path)


def test_damage_inside_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.h5ad"
    tiny_prediction().save(path)
    beside = neighbours_path(path)
    table = beside.read_bytes()
    beside.write_bytes(table[:-9])
    with pytest.raises(InputError, match="not a readable Parquet"):
        Prediction.load(path)
    beside.unlink()
    with pytest.raises(InputError, match="is missing"):
        Prediction.load(path)
    pq.write_table(pa.table({"a": [1]}), beside)
    with pytest.raises(InputError, match="not a table of neighbours"):
        Prediction.load(path)
    pq.write_table(neighbour_table(["0x0"]), beside)
    with pytest.raises(InputError, match="not of the same run"):
        Prediction.load(path)


def test_other_h5ad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.h5ad"
    tiny_prediction().save(path)
    ad.AnnData(np.zeros((2, 2), dtype=np.float32)).write_h5ad(path)
    with pytest.raises(InputError, match="not a prediction"):
        Prediction.load(path)
    adata = tiny_prediction().to_anndata()
    adata.uns["mclstexp"]["format_version"] = 99
    adata.write_h5ad(path)
    with pytest.raises(InputError, match="format version 99, this program reads 1"):
        Prediction.load(path)
    with pytest.raises(InputError, match="does not exist"):
        Prediction.load(tmp_path / "absent.h5ad")
    (tmp_path / "text.h5ad").write_text("spot,gene\n")
    with pytest.raises(InputError, match=r"not a readable \.h5ad"):
        read_anndata(tmp_path / "text.h5ad")


@pytest.mark.parametrize("length", [240, 300])
def test_storage_error_names_the_file(tmp_path: Path, length: int) -> None:
    """A name that the file system cannot hold."""
    with pytest.raises(StorageError, match=r"n\.(h5ad|neighbours\.parquet): the name is too long"):
        tiny_prediction().save(tmp_path / f"{'n' * length}.h5ad")
    assert list(tmp_path.iterdir()) == []
