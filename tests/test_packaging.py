"""What is installed is what is here, and the command starts fast."""

import doctest
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import working_folder

import mclstexp
from mclstexp.train import train

ROOT = Path(__file__).parents[1]
FOLDERS = {"mclstexp": "mclstexp", "index": "mclstexp.index", "cli": "mclstexp.cli"}
HEAVY = ("torch", "timm", "faiss", "lancedb", "lance", "anndata", "scanpy", "numpy", "pandas", "matplotlib")


def sources() -> dict[str, str]:
    """Every module by its name in Python, and its text; packages end in ``.__init__``."""
    texts = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                texts[".".join((package, *path.relative_to(ROOT / folder).with_suffix("").parts))] = path.read_text()
    return texts


def test_every_package_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.removesuffix(".__init__") for name in sources() if name.endswith(".__init__")}
    assert packages == set(project["tool"]["setuptools"]["packages"])


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, mclstexp.cli.app; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_lock_file_pins_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names = {_name(line) for line in wanted}
    pinned = {_name(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert names <= pinned


def test_every_pin_has_the_hashes_of_its_files() -> None:
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(pins) > 100
    for line in pins:
        name, *hashes = line.split("--hash=")
        assert re.fullmatch(r"[\w.-]+==[\w.+!-]+( ; .*)?", name.strip()), line
        assert hashes, f"{name} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes), line
    assert "--require-hashes --no-deps -r requirements.lock" in (ROOT / "Makefile").read_text()


def test_every_command_is_documented() -> None:
    from mclstexp.cli.app import app

    readme = (ROOT / "README.md").read_text()
    names = {command.name for command in app.registered_commands if command.name}
    assert {name for name in names if f"mst {name}" not in readme} == set()


def test_public_names_import() -> None:
    for name in mclstexp.__all__:
        assert getattr(mclstexp, name) is not None


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that examples name, made by the public calls themselves, with a toy encoder."""
    folder = working_folder(tmp_path_factory.mktemp("examples") / "folder")
    slides = mclstexp.read_slides(folder / "refs")
    model = train_quickly(slides)
    model.save(folder / "model")
    reference = mclstexp.Reference.build(folder / "reference", slides, model)
    slide = mclstexp.read_query(folder / "slide.tif", folder / "coords.csv")
    reference.query(slide, k=10).save(folder / "slide.h5ad")
    return folder


def train_quickly(slides: list[mclstexp.Slide], **options: Any) -> mclstexp.Model:
    """Stand in for `train` where its weights cannot be downloaded."""
    small = {"encoder.views": 1, "patch.size_px": 64, **options.pop("settings", {})}
    return train(
        slides, encoder="test_resnet", encoder_weights="random", settings=small, cache=False, device="cpu", **options
    )


@pytest.mark.parametrize("name", [name for name, text in sources().items() if ">>>" in text])
@pytest.mark.filterwarnings("ignore::mclstexp.errors.MclstexpWarning")
def test_examples_in_docstrings_run(name: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(workshop, tmp_path / "folder")
    if name == "mclstexp.train":
        shutil.rmtree(tmp_path / "folder" / "model")  # the example saves one
        monkeypatch.setattr(mclstexp, "train", train_quickly, raising=False)
    monkeypatch.chdir(tmp_path / "folder")
    results = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert results.attempted > 0
    assert results.failed == 0


def test_every_public_class_and_function_has_an_example() -> None:
    errors = {"MclstexpError", "MclstexpWarning"}
    for name in sorted(set(mclstexp.__all__) - errors - {"__version__"}):
        assert ">>>" in (inspect.getdoc(getattr(mclstexp, name)) or ""), f"{name} has no example"


def test_no_example_is_skipped() -> None:
    assert [name for name, text in sources().items() if "+SKIP" in text] == []


def test_train_stays_the_function_once_the_module_of_its_name_is_imported() -> None:
    module = importlib.import_module("mclstexp.train")
    assert mclstexp.train is mclstexp.train is module.train
    mclstexp.train = module  # what importing it does
    assert mclstexp.train is module.train


def _name(requirement: str) -> str:
    head = requirement.split(";")[0]
    for mark in "=<>~[ ":
        head = head.split(mark)[0]
    return head.strip().lower().replace("_", "-")
