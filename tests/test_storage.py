"""Files and folders are whole or not there, and what the system refuses is one line."""

import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from mclstexp.errors import ExistsAlreadyError, InputError, StorageError
from mclstexp.storage import (
    _REASONS,
    _TEXTS,
    canonical_json,
    check_output,
    files_below,
    folder_in_place,
    new_file,
    new_folder,
    read_digested,
    sha256_input,
    storage_error,
    storage_errors,
    write_atomic,
    write_digested,
)

FAILURES = [ValueError("no"), KeyboardInterrupt(), SystemExit(1), OSError(errno.ENOSPC, "No space left on device")]


class Interrupted(BaseException):
    """What stops a block."""


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, and what it holds."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(files_below(folder))}


def old_folder(root: Path) -> Path:
    path = root / "out"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "old.txt").write_text("old")
    return path


# Folders.


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as work:
        (work / "a.txt").write_text("a")
        assert not (tmp_path / "out").exists()
    assert tree(tmp_path) == {"out/a.txt": "a"}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_a_new_folder_takes_the_old_one_s_place_only_by_force(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    with pytest.raises(ExistsAlreadyError, match=r"out exists already; give --force"), new_folder(path):
        pytest.fail("nothing is begun")
    with new_folder(path, force=True) as work:
        (work / "a.txt").write_text("a")
        assert tree(path) == {"sub/old.txt": "old"}
    assert tree(tmp_path) == {"out/a.txt": "a"}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("make", [new_folder, folder_in_place])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path, make, before: bool, failure: BaseException) -> None:
    path = old_folder(tmp_path) if before else tmp_path / "out"

    def fails() -> None:
        with make(path, force=True) as work:
            ((work or path) / "half.txt").write_text("half")
            raise failure

    with pytest.raises((type(failure), StorageError)):
        fails()
    assert tree(tmp_path) == ({"out/sub/old.txt": "old"} if before else {})
    assert path.exists() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"] * before


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("stopped", [Interrupted(), OSError(errno.EIO, "Input/output error")], ids=["stop", "disk"])
def test_a_swap_that_fails_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, stopped: BaseException
) -> None:
    """The old folder is moved away, then the new one in: whichever of the two moves fails."""
    path, replace, calls = old_folder(tmp_path), Path.replace, []

    def fails(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing:
            raise stopped
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises((Interrupted, StorageError)), new_folder(path, force=True) as work:
        (work / "a.txt").write_text("a")
    assert len(calls) >= failing
    assert tree(tmp_path) == {"out/sub/old.txt": "old"}


def test_a_folder_in_place_is_made_at_its_own_path(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    with folder_in_place(path, force=True):
        assert tree(path) == {}
        (path / "a.txt").write_text("a")
    assert tree(tmp_path) == {"out/a.txt": "a"}
    with pytest.raises(ExistsAlreadyError), folder_in_place(path):
        pytest.fail("nothing is begun")
    assert tree(tmp_path) == {"out/a.txt": "a"}


def test_a_folder_that_cannot_be_made_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mkdir = old_folder(tmp_path), os.mkdir

    def refuses(target: str, *args: int) -> None:
        if Path(target) == path:
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(target, *args)

    monkeypatch.setattr(os, "mkdir", refuses)
    with pytest.raises(StorageError, match="the disk is full"), folder_in_place(path, force=True):
        pytest.fail("there is no folder")
    assert tree(tmp_path) == {"out/sub/old.txt": "old"}


# Files.


def test_a_new_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with new_file(path) as work:
        work.write_text("new")
        assert not path.exists()
        assert work.parent == tmp_path
    assert tree(tmp_path) == {"out.txt": "new"}
    with pytest.raises(ExistsAlreadyError), new_file(path):
        pytest.fail("nothing is begun")
    with new_file(path, force=True) as work:
        work.write_text("newer")
    assert tree(tmp_path) == {"out.txt": "newer"}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("before", [False, True])
def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path, before: bool, failure: BaseException) -> None:
    path = tmp_path / "out.txt"
    if before:
        path.write_text("old")

    def fails() -> None:
        with new_file(path, force=True) as work:
            work.write_text("half")
            raise failure

    with pytest.raises((type(failure), StorageError)):
        fails()
    assert tree(tmp_path) == ({"out.txt": "old"} if before else {})


def test_a_file_that_was_not_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"out\.txt: a file or folder vanished"), new_file(tmp_path / "out.txt"):
        pass
    assert tree(tmp_path) == {}


def test_a_file_cannot_take_a_folder_s_place(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    with pytest.raises(StorageError, match="a folder, and a file is needed"), new_file(path, force=True) as work:
        work.write_text("new")
    assert tree(tmp_path) == {"out/sub/old.txt": "old"}


def test_an_atomic_write_leaves_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def fails(self: Path, data: bytes) -> int:
        raise Interrupted

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(Interrupted):
        write_atomic(path, b"new")
    assert tree(tmp_path) == {"a": "old"}


def test_digested_values_come_back_and_any_other_byte_is_noticed(tmp_path: Path) -> None:
    path, values = tmp_path / "values.json", {"b": [1, 2.5, None], "a": {"x": "ü"}}
    assert read_digested(path) is None
    write_digested(path, values)
    assert read_digested(path) == values
    whole = path.read_bytes()
    for harmed in (whole[:-1], whole + b" ", whole.replace(b"2.5", b"2.6"), b"[1]\n", b"\xff\xfe", b""):
        path.write_bytes(harmed)
        assert read_digested(path) is None, harmed
    path.write_text(json.dumps(values))
    assert read_digested(path) is None


def test_there_is_one_text_of_a_value() -> None:
    assert canonical_json({"b": 1, "a": [True, None]}) == '{"a":[true,null],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


# Outputs, checked before any work.


@pytest.mark.parametrize("make", [new_file, new_folder, folder_in_place, check_output])
def test_an_output_without_a_folder_is_refused(tmp_path: Path, make) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist; make it first") as refusal:
        make(tmp_path / "nowhere" / "out", force=False).__enter__()
    assert "\n" not in str(refusal.value)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("make", [new_file, new_folder, folder_in_place, check_output])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, make) -> None:
    with pytest.raises(StorageError, match="the name is too long"):
        make(tmp_path / ("n" * 300), force=True).__enter__()
    assert tree(tmp_path) == {}


def test_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent cannot be read: No such file or directory\."):
        sha256_input(tmp_path / "absent")
    (tmp_path / "tile").write_bytes(b"one")
    before = sha256_input(tmp_path)
    (tmp_path / "tile").write_bytes(b"two")
    assert sha256_input(tmp_path) != before, "a folder is what its files are"


# The system's refusals.


@pytest.mark.parametrize("code", sorted(_REASONS))
def test_every_refusal_of_the_system_has_its_words(code: int) -> None:
    error = storage_error(OSError(code, os.strerror(code)), "/data/ref")
    assert str(error) == f"/data/ref: {_REASONS[code]}."


@pytest.mark.parametrize(("part", "code"), sorted(_TEXTS.items()))
@pytest.mark.parametrize("kind", [OSError, RuntimeError, ValueError, SafetensorError])
def test_a_library_s_own_words_are_understood(kind: type[Exception], part: str, code: int) -> None:
    with pytest.raises(StorageError) as refusal, storage_errors("/data/ref"):
        raise kind(f"LanceError(IO): Io error: {part} (os error {code})\nat rust/lance.rs:117:5")
    assert str(refusal.value).startswith(f"/data/ref: {_REASONS[code]}")
    assert "\n" not in str(refusal.value)


def test_a_vanished_file_is_named() -> None:
    error = storage_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/ref/values.f16"), "/data")
    assert str(error) == "/data: a file or folder vanished while it was in use (/data/ref/values.f16)."


def test_an_unknown_refusal_is_quoted_in_one_line() -> None:
    assert str(storage_error(OSError(errno.EBUSY, "Device or resource busy"), "/data")) == (
        f"/data: [Errno {errno.EBUSY}] Device or resource busy."
    )
    assert str(storage_error(OSError("first\nsecond"), "/data")) == "/data: first."
    assert str(storage_error(OSError(), "/data")) == "/data: OSError."
    assert len(str(storage_error(OSError("x" * 5000), "/data"))) < 400


def test_errors_that_are_no_refusal_pass() -> None:
    for error in (ValueError("7 is not a length"), RuntimeError("cuda"), InputError("a gene"), KeyError("a")):
        with pytest.raises(type(error)) as passed, storage_errors("/data"):
            raise error
        assert passed.value is error
