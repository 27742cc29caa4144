"""The commands as people are told to type them, in a folder that holds ``refs/``, ``slide.tif`` and ``coords.csv``."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import timm
from commands import Run, command, error_of, working_folder
from typer.testing import Result


def downloads_fail(
    name: str, *, pretrained: bool = False, _create: object = timm.create_model, **options: object
) -> object:
    """Stand in for timm on a machine without internet."""
    if pretrained:
        raise OSError("We couldn't connect to 'https://huggingface.co'")
    return _create(name, pretrained=False, **options)  # type: ignore[operator]


class Workshop:
    """A working folder, and what was said there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mst = folder, command()
        self.build, self.query = self.mst("build-index", "refs/"), self.mst("query", "slide.tif", "coords.csv")
        self.spots = ad.read_h5ad("slide.h5ad").obs_names.tolist()

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = working_folder(tmp_path_factory.mktemp("workshop") / "folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(timm, "create_model", downloads_fail)
        patch.setattr("sys.argv", ["mst", "query", "slide.tif", "coords.csv"])
        yield Workshop(folder)


@pytest.fixture
def workshop(built_once: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(built_once.folder)
    return built_once


@pytest.fixture
def mst(workshop: Workshop) -> Run:
    return workshop.mst


def test_without_a_model_one_is_trained_and_kept_and_that_is_said(workshop: Workshop) -> None:
    said, n_spots = workshop.build.stderr, 0
    for path in (workshop.folder / "refs").glob("*.h5ad"):
        n_spots += ad.read_h5ad(path).n_obs
    assert (
        "No model is named (--model, $MST_MODEL) and there is none at ./model: the default recipe is trained first, on "
        f"2 slides and {n_spots} spots, and kept there."
    ) in said
    assert f"encoding {n_spots} spots of 2 slides, 3 passes of test_resnet a spot" in said, "what it costs"
    assert "kept in ./model" in said
    assert (workshop.folder / "model" / "config.json").is_file()
    assert f"Reference('reference', {n_spots} spots, 2 slides, 2 patients, version 1), 60 genes" in said
    assert workshop.build.stdout == "reference\n"


def test_without_internet_a_small_encoder_serves_and_that_is_said(workshop: Workshop) -> None:
    (warning,) = [line for line in workshop.build.stderr.splitlines() if line.startswith("Warning: ")]
    assert "The weights of encoder 'densenet121' could not be downloaded (OSError)" in warning
    assert "--encoder-weights FILE" in warning
    assert "a small encoder with random weights (test_resnet) is used" in warning


def test_an_encoder_that_was_asked_for_is_never_replaced(workshop: Workshop, mst: Run, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refs = workshop.folder / "refs"
    assert "'densenet121' could not be downloaded" in error_of(
        mst("build-index", refs, "--encoder", "densenet121", ok=False)
    )
    assert "could not be downloaded" in error_of(mst("train", refs, ok=False))
    assert list(tmp_path.iterdir()) == []


def test_a_query_writes_the_slides_prediction_here(workshop: Workshop) -> None:
    assert workshop.query.stdout == "slide.h5ad\n"
    assert "reference: ./reference" in workshop.query.stderr.splitlines()
    assert f"Prediction('slide', {len(workshop.spots)} spots, 60 genes" in workshop.query.stderr
    assert "from Reference('reference', " in workshop.query.stderr
    names = {path.name for path in workshop.folder.iterdir()}
    assert names >= {"slide.h5ad", "slide.neighbours.parquet", "model", "reference"}
    prediction = ad.read_h5ad("slide.h5ad")
    assert np.isfinite(prediction.X).all()
    assert prediction.uns["mclstexp"]["command"] == "mst query slide.tif coords.csv"


def test_its_neighbours_are_listed(workshop: Workshop, mst: Run) -> None:
    listed = mst("neighbours", "slide.h5ad", workshop.spots[0])
    lines = listed.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.split()[:3] == ["rank", "similarity", "weight"])
    assert [line.split()[0] for line in lines[head + 1 : head + 21]] == [str(rank) for rank in range(1, 21)]
    assert f"20 of {listed.stderr.split()[2]} neighbours of {workshop.spots[0]}" in listed.stderr
    assert "NOSUCH" in error_of(mst("neighbours", "slide.h5ad", "NOSUCH", ok=False))


def test_a_gene_is_drawn_beside_the_prediction(workshop: Workshop, mst: Run) -> None:
    assert mst("plot", "slide.h5ad", "--gene", "ERBB2").stdout == "slide-ERBB2.png\n"
    assert Path("slide-ERBB2.png").read_bytes().startswith(b"\x89PNG")
    assert "--force" in error_of(mst("plot", "slide.h5ad", "--gene", "ERBB2", ok=False))


def test_nothing_is_overwritten_unasked(workshop: Workshop, mst: Run) -> None:
    before = workshop.files()
    for words in (("train", "refs/"), ("build-index", "refs/"), ("query", "slide.tif", "coords.csv")):
        assert "exists already; give --force" in error_of(mst(*words, ok=False))
    assert workshop.files() == before


@pytest.mark.parametrize("words", [("reference/",), ("-r", "reference/"), ()])
def test_a_reference_is_named_in_three_ways(workshop: Workshop, mst: Run, words: tuple[str, ...]) -> None:
    """As an argument, by -r, or by the habit of the folder, which alone is said."""
    for verb in ("info", "cohorts", "history", "verify"):
        result = mst(verb, *words)
        assert ("reference: ./reference" in result.stderr) == (not words)
        assert result.stdout
    assert mst("tag", "-r", "reference/").stdout.split() == ["tag", "version"]


def taken(info: Result) -> Path:
    """Return the folder that mst info looked at."""
    name, folder = info.stdout.splitlines()[0].split()
    assert name == "reference"
    return Path(folder)


def test_the_environment_names_a_reference_and_what_is_typed_has_the_last_word(
    workshop: Workshop, mst: Run, tmp_path: Path
) -> None:
    shutil.copytree("reference", tmp_path / "named")
    elsewhere = {"MST_REFERENCE": str(tmp_path / "named")}
    nowhere = {"MST_REFERENCE": str(tmp_path / "nowhere")}
    assert taken(mst("info", env=elsewhere)) == tmp_path / "named"
    assert "nowhere" in error_of(mst("info", env=nowhere, ok=False))
    for words in (("reference/",), ("-r", "reference/")):
        assert taken(mst("info", *words, env=nowhere)) == Path("reference")
    done = mst("query", "slide.tif", "coords.csv", "-o", tmp_path / "p.h5ad", env=elsewhere)
    assert f"from Reference('{tmp_path / 'named'}'" in done.stderr


def test_where_there_is_no_reference_the_way_to_one_is_said(
    mst: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("info",), ("query", "slide.tif", "coords.csv"), ("remove", "--slide", "A")):
        said = error_of(mst(*words, ok=False))
        assert said.startswith("There is no reference at reference; name one with -r or $MST_REFERENCE, or build one")
        assert "mst build-index refs/" in said
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_the_named_one_then_the_environments_then_the_folders(
    workshop: Workshop, mst: Run, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    build = ["build-index", "refs/", "-o"]
    habit = mst(*build, tmp_path / "a")
    assert "model: ./model" in habit.stderr.splitlines()
    assert "trained first" not in habit.stderr
    assert str(gone) in error_of(mst(*build, tmp_path / "b", env={"MST_MODEL": str(gone)}, ok=False))
    assert str(gone) in error_of(mst(*build, tmp_path / "c", "--model", gone, env={"MST_MODEL": "model"}, ok=False))
    named = mst(*build, tmp_path / "d", "--model", "model", env={"MST_MODEL": str(gone)})
    assert "model: ./model" not in named.stderr
    models = {
        mst("info", folder).stdout.partition("model ")[2].split()[0] for folder in (tmp_path / "a", tmp_path / "d")
    }
    assert len(models) == 1


def test_a_grown_reference_is_that_of_the_folder(workshop: Workshop, mst: Run, tmp_path: Path) -> None:
    shutil.copytree("reference", tmp_path / "reference")
    added = mst("add", "refs/", tmp_path / "reference")
    assert added.stdout == "version 1: 0 added, 0 replaced, 2 skipped (there already)\n"
    assert mst("remove", tmp_path / "reference", "--slide", "P1_A").stdout.startswith("version 2: 1 slide removed")
    assert mst("restore", "1", tmp_path / "reference").stdout.startswith("version 3 is version 1 again: 2 slides")
    assert mst("tag", "paper", tmp_path / "reference").stdout == "paper is version 3\n"


def test_what_was_said_is_no_traceback_and_no_other_programs_warning(workshop: Workshop) -> None:
    said: list[Result] = [workshop.build, workshop.query]
    for result in said:
        assert "Traceback" not in result.stderr
        assert "Warning:" not in result.stderr.replace("Warning: The weights", "")
        assert "site-packages" not in result.stderr
