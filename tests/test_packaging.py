"""What is installed is what is here, and the command starts fast."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"mclstexp": "mclstexp", "index": "mclstexp.index", "cli": "mclstexp.cli"}
HEAVY = ("torch", "timm", "faiss", "lancedb", "lance", "anndata", "scanpy", "numpy", "pandas", "matplotlib")


def packages_on_disk() -> set[str]:
    found = set()
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            if not any(parent.is_symlink() for parent in init.parents):
                found.add(".".join((package, *init.parent.relative_to(ROOT / folder).parts)))
    return found


def test_every_package_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert packages_on_disk() == set(project["tool"]["setuptools"]["packages"])


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


def test_every_command_is_documented() -> None:
    from mclstexp.cli.app import app

    readme = (ROOT / "README.md").read_text()
    names = {command.name for command in app.registered_commands if command.name}
    assert {name for name in names if f"mst {name}" not in readme} == set()


def test_public_names_import() -> None:
    import mclstexp

    for name in mclstexp.__all__:
        assert getattr(mclstexp, name) is not None


def test_train_stays_the_function_whatever_is_imported() -> None:
    code = "import mclstexp; {}; assert mclstexp.train is mclstexp.train and callable(mclstexp.train)"
    for first in ("mclstexp.train", "from mclstexp.train import training_panel", "import mclstexp.evaluate.retrieval"):
        subprocess.run([sys.executable, "-c", code.format(first)], check=True)


def _name(requirement: str) -> str:
    head = requirement.split(";")[0]
    for mark in "=<>~[ ":
        head = head.split(mark)[0]
    return head.strip().lower().replace("_", "-")
