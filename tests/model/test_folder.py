"""A model's folder: damage, another format and a full disk are one line each."""

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mclstexp.errors import FormatError, InputError, StorageError
from mclstexp.model.folder import read_model
from mclstexp.model.model import Model

NAMES = ("weights.safetensors", "config.json", "genes.tsv", "history.jsonl", "model-card.md")


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path, match: str = r"damaged|The model lacks") -> str:
    """Return the one line that refuses the folder."""
    with pytest.raises(FormatError, match=match) as refusal:
        Model.load(folder, device="cpu", cache=False)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "genes.tsv"])
@pytest.mark.parametrize("harm", ["cut", "gone", "rubbish"])
def test_a_damaged_model_is_refused(folder: Path, name: str, harm: str) -> None:
    victim = folder / name
    if harm == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-20] if harm == "cut" else b"rubbish")
    refused(folder, "model")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rubbish", [b"\xff\xfe\x00not text\xe9", b"{}\n\xe9"], ids=["bytes", "latin-1"])
def test_bytes_that_are_no_text_are_one_line(folder: Path, name: str, rubbish: bytes) -> None:
    (folder / name).write_bytes(rubbish)
    assert str(folder) in refused(folder, "damaged")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("history.jsonl", "{"),
        ("history.jsonl", "\n"),
        ("config.json", "[]"),
        ("config.json", '{"format": "mclstexp-model", "format_version": 1}'),
        ("config.json", '{"format": "mclstexp-model", "format_version": 1, "sha256": 1, "config": 2, "facts": 3}'),
    ],
)
def test_text_of_another_kind_is_one_line(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    refused(folder, "model")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("config", {"n_genes": 0}),
        ("config", {"surprise": 1}),
        ("config", []),
        ("facts", {}),
        ("facts", {"shared": {}}),
        ("facts", []),
        ("facts", {"shared": {"config": {"surprise": 1}, "report": {}}}),
        ("config", {"space": "network"}),
        ("config", {"encoder": {"name": "test_vit"}}),
        ("sha256", []),
        ("sha256", {}),
        ("sha256", {"weights.safetensors": 1, "genes.tsv": 2}),
        ("sha256", {"weights.safetensors": "0" * 64, "genes.tsv": "0" * 64}),
    ],
)
def test_a_head_that_contradicts_itself_is_one_line(folder: Path, part: str, value: object) -> None:
    head = json.loads((folder / "config.json").read_text())
    head[part] = {**head[part], **value} if part == "config" and isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(head))
    refused(folder)


def test_a_device_that_is_not_there_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="torch sees no GPU"):
        Model.load(folder, device="cuda", cache=False)


def test_another_format_version_is_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"format_version": 1', '"format_version": 99'))
    refused(folder, r"99.*reads 1")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; make one with mst train"):
        read_model(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="does not exist; make one with mst train"):
        read_model(tmp_path / "file")
    with pytest.raises(FormatError, match=r"is not a model folder: it has no config\.json"):
        read_model(tmp_path)


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """The kernel refuses to let a file grow past a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_leaves_what_was_there(model: Model, tmp_path: Path, share: float, before: bool) -> None:
    folder = tmp_path / "model"
    model.save(folder)
    size = (folder / "weights.safetensors").stat().st_size
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    if not before:
        folder = tmp_path / "another"
    with (
        pytest.raises(StorageError, match=f"{folder.name}: .*size limit") as refusal,
        file_size_limit(int(share * size)),
    ):
        model.save(folder, force=True)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == contents
