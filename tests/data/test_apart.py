"""HDF5 files from outside, tried in another process first."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from layouts import make_slides_csv, save_h5ad

from mclstexp.data.apart import worker
from mclstexp.data.readers import inspect_slides


def made(path: Path, fill: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (lambda f: f.create_dataset("x", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000), compression="gzip"),
         "says to hold 4,000,000,000,000 bytes, of which 0 are there"),
        (lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/hostname", "/a")), "link into another file"),
        (lambda f: f.create_dataset("x", shape=(10,), dtype="u1", external=[("/etc/passwd", 0, 10)]),
         "takes its values from other files"),
    ],
    ids=["bomb", "link", "values elsewhere"],
)  # fmt: skip
def test_what_leads_elsewhere_or_says_too_much_is_refused(
    tmp_path: Path, fill: Callable[[h5py.File], object], says: str
) -> None:
    with pytest.raises(OSError, match=says):
        worker.try_hdf5(made(tmp_path / "bad.h5", fill))


@pytest.mark.parametrize(
    "fill",
    [
        lambda f: f.create_group("a/b").__setitem__("c", f["a"]),
        lambda f: f.__setitem__("x", h5py.SoftLink("/nowhere")),
        lambda f: f.create_dataset("x", data=["spot"] * 500, dtype=h5py.string_dtype()),
        lambda f: f.create_dataset("x", data=np.zeros((1000, 1000)), chunks=(100, 100), compression="gzip"),
        lambda f: f.create_dataset("x", data=h5py.Empty("f4")),
        lambda f: f.create_dataset("x", data=3),
    ],
    ids=["cycle", "dangling", "strings", "packed", "empty", "scalar"],
)
def test_what_is_whole_is_let_pass(tmp_path: Path, fill: Callable[[h5py.File], object]) -> None:
    worker.try_hdf5(made(tmp_path / "whole.h5", fill))


def test_a_process_that_somebody_ends_is_replaced(tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", lambda f: f.create_dataset("x", data=[1]))
    worker.try_hdf5(path)
    running = worker._running
    assert running is not None
    os.kill(running.process.pid, signal.SIGKILL)
    other = made(tmp_path / "b.h5", lambda f: f.create_dataset("x", data=[2]))
    worker.try_hdf5(other)
    assert worker._running is not running


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes the HDF5 library (SIGSEGV)"),
        ("import os; os.abort()", "crashes the HDF5 library (SIGABRT)"),
        ("while True: pass", "takes more than"),
    ],
    ids=["crash", "abort", "endless"],
)
def test_a_crash_is_one_line_of_one_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    """The library is stood in for by what it did: of many slides the others are read."""
    script = tmp_path / "script.py"
    crash = f"if 'S1' in path: exec({code!r})"
    script.write_text(worker.SCRIPT.read_text().replace("    import h5py\n", f"    {crash}\n    import h5py\n", 1))
    monkeypatch.setattr(worker, "SCRIPT", script)
    monkeypatch.setattr(worker, "SECONDS", 1.0)
    monkeypatch.setattr(worker, "_running", None)
    monkeypatch.setattr(worker, "_passed", set())
    refs = tmp_path / "refs"
    for name in ("S1", "S2"):
        save_h5ad(refs / f"{name}.h5ad")
    started = time.monotonic()
    first, second = inspect_slides(refs)
    assert time.monotonic() - started < 60
    (problem,) = first.problems
    assert says in problem
    assert "S1.h5ad" in problem
    assert "\n" not in problem
    assert second.slide is not None
    if worker._running is not None:
        worker._running.end()


def test_each_file_is_tried_once_unless_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(worker, "_ask", lambda path, seconds: asked.append(path) or "")
    path = made(tmp_path / "a.h5", lambda f: f.create_dataset("x", data=[1]))
    worker.try_hdf5(path)
    worker.try_hdf5(path)
    assert len(asked) == 1
    made(path, lambda f: f.create_dataset("x", data=[1, 2]))
    worker.try_hdf5(path)
    assert len(asked) == 2


def test_every_reader_of_hdf5_goes_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cohort in every layout, no .h5 or .h5ad is opened that was not tried."""
    tried: set[str] = set()
    monkeypatch.setattr(worker, "_ask", lambda path, seconds: tried.add(path) or "")
    opened: set[str] = set()
    open_file = h5py.File.__init__

    def watched(self: h5py.File, name: object, *arguments: object, **options: object) -> None:
        if isinstance(name, str | os.PathLike):  # h5py also opens what is open already
            assert os.path.realpath(name) in tried
            opened.add(os.path.realpath(name))
        open_file(self, name, *arguments, **options)

    make_slides_csv(tmp_path)
    monkeypatch.setattr(h5py.File, "__init__", watched)
    assert not [report for report in inspect_slides(tmp_path) if report.problems]
    assert len(opened) >= 2
