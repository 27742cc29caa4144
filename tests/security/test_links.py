"""Links in a reference that somebody sent: nothing is written or removed where they lead."""

import os
import shutil
from pathlib import Path

import pytest
from references import Library

from mclstexp.errors import FormatError
from mclstexp.index.reference import Reference
from mclstexp.index.store.place import DERIVED, GENES, HASHES, MODELS, TABLE_FOLDER, Place


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's that has nothing to do with any reference."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    return folder


@pytest.mark.parametrize("name", [HASHES, GENES, DERIVED, MODELS, TABLE_FOLDER, f"{TABLE_FOLDER}/_versions"])
def test_a_folder_that_is_a_link_is_refused(library: Library, tmp_path: Path, mine: Path, name: str) -> None:
    copy = tmp_path / "reference"
    shutil.copytree(library.folder, copy)
    place = copy / name
    if place.is_dir():
        shutil.copytree(place, mine / "content")
        shutil.rmtree(place)
    place.symlink_to(mine / "content" if (mine / "content").is_dir() else mine)
    before = sorted(mine.rglob("*"))
    for action in (Reference.open, lambda path: Reference.verify(path, repair=True)):
        with pytest.raises(FormatError, match=f"{os.path.basename(name)} is a link to"):  # noqa: PTH119
            action(copy)
    assert sorted(mine.rglob("*")) == before


def test_a_repair_removes_nothing_behind_a_link(library: Library, tmp_path: Path, mine: Path) -> None:
    copy = tmp_path / "reference"
    shutil.copytree(library.folder, copy)
    deep = next(path for path in (copy / MODELS).rglob("*") if path.is_dir())
    (deep / "more").symlink_to(mine)
    (copy / HASHES / ".tmp-link").symlink_to(mine / "thesis.tex")
    assert not any("thesis" in name for name in Place(copy).names())
    Reference.verify(copy, repair=True)
    assert (mine / "thesis.tex").read_text() == "years of work"


def test_a_reference_may_itself_be_a_link(library: Library, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(library.folder)
    assert len(Reference.open(tmp_path / "linked")) == len(Reference.open(library.folder))
