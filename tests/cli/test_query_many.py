"""``mst query`` without coordinates, of several slides, and what it says before it costs."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from commands import ENCODER, FAST, Run, error_of, usage_of
from PIL import Image

from mclstexp.cli._queries import finished_request
from mclstexp.data.positions.query import read_query
from mclstexp.data.synthetic import CohortPaths
from mclstexp.model.image import features as image_features
from mclstexp.model.image.backbone import Backbone
from mclstexp.predict.prediction import Prediction


@pytest.fixture
def query(mst: Run, built: Path):
    def run(*words: object, ok: bool = True):
        return mst("query", *words, "-r", built / "reference", "--device", "cpu", ok=ok)

    return run


@pytest.fixture(scope="module")
def slides(world: CohortPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three slides: one with coordinates, one without, and one that is cut off."""
    folder = tmp_path_factory.mktemp("three") / "slides"
    folder.mkdir()
    shutil.copy(world.query_image, folder / "a.tif")
    shutil.copy(world.query_coords, folder / "a.csv")
    shutil.copy(world.query_image, folder / "c.tif")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_slide_without_coordinates_gets_a_grid_a_mask_and_a_picture(query, world, tmp_path) -> None:
    out = tmp_path / "p.h5ad"
    done = query(world.query_image, "--grid", "100um", "--grid-shape", "hex", "-o", out)
    assert done.stdout == f"{out}\n"
    found = ad.read_h5ad(out)
    expected = read_query(world.query_image, grid="100um", grid_shape="hex")
    assert found.obs_names.tolist() == expected.spots.spot_ids.tolist()
    np.testing.assert_allclose(found.obsm["spatial"], expected.spots.xy_px)
    assert np.isfinite(found.X).all()
    np.testing.assert_array_equal(found.uns["mclstexp"]["tissue"].astype(bool), expected.tissue)
    np.testing.assert_array_equal(Prediction.load(out).tissue, expected.tissue)
    assert (tmp_path / "p.tissue.png").read_bytes().startswith(b"\x89PNG")
    assert f"{len(expected)} points of a hexagonal grid of 100 um on" in done.stderr
    assert "spots of 1 slide, 3 passes of test_resnet a spot" in done.stderr


def test_the_grid_is_by_default_the_references(query, world, tmp_path) -> None:
    said = query(world.query_image, "--dry-run").stdout
    assert "hexagonal grid of 80 um" in said, "that of the simulated cohort"
    assert "square grid of 80 um" in query(world.query_image, "--grid-shape", "square", "--dry-run").stdout


def test_a_dry_run_writes_nothing_and_encodes_one_batch(
    query, slides, world, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    batches, measured = [], Backbone.seconds_per_patch

    def counted(self: Backbone, size_px: int) -> float:
        batches.append(size_px)
        return measured(self, size_px)

    monkeypatch.setattr(Backbone, "seconds_per_patch", counted)
    monkeypatch.setattr(image_features, "read_patch", None)  # whoever reads a slide's patches fails
    before = files_in(slides)
    done = query(slides, "--grid", "93um", "-o", "out", "--dry-run", ok=False)
    assert len(batches) == 1
    assert list(tmp_path.iterdir()) == []
    assert files_in(slides) == before
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["slide", "spots", "at", "um", "a", "pixel", "state", "output"]
    assert [line.split()[0] for line in lines[1:]] == ["a", "b", "c"]
    assert "square grid of 93 um" in lines[3]
    assert "3 slides: 2 to predict, 1 cannot be read" in done.stderr
    n_spots = len(read_query(slides / "c.tif", grid="93um"))
    assert f"{3 * n_spots:,} in all, " in done.stderr or "in all: about" in done.stderr
    assert "1 of 3 slides failed: b: " in error_of(done), "it would fail, so it does now"


def test_one_bad_slide_stops_no_other_and_a_second_run_does_what_is_left(query, slides, built, tmp_path) -> None:
    out = tmp_path / "out"
    first = query(slides, "-o", out, ok=False)
    assert error_of(first).startswith("1 of 3 slides failed: b: Image ")
    assert first.stdout.split() == [str(out / "a.h5ad"), str(out / "c.h5ad")]
    assert sorted(path.name for path in out.iterdir()) == [
        "a.h5ad", "a.neighbours.parquet", "c.h5ad", "c.neighbours.parquet", "c.tissue.png",
    ]  # fmt: skip
    before = files_in(out)
    (out / "c.tissue.png").unlink()
    (out / "c.h5ad").unlink()  # as a run that was killed leaves it: the neighbours alone
    again = query(slides, "-o", out, ok=False)
    assert "3 slides: 1 to predict, 1 there already, from the same inputs, 1 cannot be read" in again.stderr
    assert again.stdout.split() == [str(out / "c.h5ad")]
    changed = {name for name, content in files_in(out).items() if content != before[name]}
    assert changed <= {"c.h5ad"}, "the command is recorded"
    np.testing.assert_array_equal(ad.read_h5ad(out / "c.h5ad").X, Prediction.load(out / "c.h5ad").mean)


def test_other_inputs_are_no_reason_to_skip_and_force_makes_all_anew(query, slides, tmp_path) -> None:
    out, listed = tmp_path / "out", tmp_path / "slides.csv"
    listed.write_text(f"slide,image,coords\na,{slides / 'a.tif'},{slides / 'a.csv'}\n")
    query(listed, "-o", out)
    request = finished_request(out / "a.h5ad")
    assert query(listed, "-o", out).stdout == ""
    other = error_of(query(listed, "-o", out, "-k", 7, ok=False))
    assert "1 of 1 slide failed: a: " in other
    assert "was not made from the same slide, reference and options; give --force" in other
    assert finished_request(out / "a.h5ad") == request
    assert query(listed, "-o", out, "-k", 7, "--force").stdout == f"{out / 'a.h5ad'}\n"
    assert finished_request(out / "a.h5ad") not in (None, request)
    (out / "a.neighbours.parquet").write_bytes(b"PAR1 of another run")
    assert finished_request(out / "a.h5ad") is None


def test_a_list_says_names_patients_and_pixel_sizes(query, slides, tmp_path) -> None:
    listed = tmp_path / "slides.csv"
    listed.write_text(f"slide,image,coords,patient\nS1,{slides / 'a.tif'},{slides / 'a.csv'},P1\n")
    done = query(listed, "-o", tmp_path)
    assert done.stdout == f"{tmp_path / 'S1.h5ad'}\n"
    assert "slides of patient 'P1'" in done.stderr or "same patient" in done.stderr


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("a.tif", "a.csv", "-o", "out.csv"), "A prediction is written as .h5ad, not as 'out.csv'; give -o out.h5ad"),
        (("a.tif", "c.tif", "-o", "out.h5ad"), "out.h5ad is one file for 2 slides; give a folder"),
        (("a.tif", "c.tif", "-o", "no/such/out"), "The folder"),
        (("a.tif", "a.csv", "-o", "no/p.h5ad"), "The folder"),
        (("nowhere.tif", "a.csv"), "Image nowhere.tif does not exist"),
        (("a.tif", "nowhere.csv"), "Coordinates nowhere.csv do not exist"),
        (("a.tif", "--regions", "no.geojson"), "Regions no.geojson do not exist"),
        (("a.tif", "--grid", "wide"), "The grid 'wide' is no distance"),
        (("a.tif", "a.csv", "--genes", "NOSUCH"), "Gene 'NOSUCH' was measured by no slide"),
        (("a.tif", "a.csv", "--exclude-patient", "NOSUCH"), "has no patient 'NOSUCH'"),
        (("a.tif", "a.csv", "--where", "nosuch > 1"), "nosuch"),
        (("c.csv",), "c.csv do"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_encoded(
    query, slides, tmp_path, monkeypatch: pytest.MonkeyPatch, words, match
) -> None:
    for name in ("a.tif", "a.csv", "c.tif"):
        (tmp_path / name).symlink_to(slides / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Backbone, "features", None)  # whoever encodes fails
    said = error_of(query(*words, ok=False))
    assert match in said
    assert not [path for path in tmp_path.iterdir() if not path.is_symlink()]


def test_options_that_would_do_nothing_are_refused(query, slides) -> None:
    image, coords = slides / "a.tif", slides / "a.csv"
    assert "every slide has coordinates" in usage_of(query(image, coords, "--grid", "50um", ok=False))
    assert "options of a coordinates file" in usage_of(query(image, "--units", "um", ok=False))
    assert "the tiles of one slide" in usage_of(query(image, slides / "c.tif", "--features", "t.h5", ok=False))


def test_a_killed_run_is_resumed(built: Path, slides: Path, cache: Path, tmp_path: Path) -> None:
    """SIGKILL between two slides: the first stays whole, nothing of the second; the next run makes the second alone."""
    code = (
        "import sys, mclstexp.cli._queries as q\n"
        "from mclstexp.cli.app import main\n"
        "plain = q.Queries.predict\n"
        "def one(self, job, show):\n"
        "    if job.input.name == 'c':\n"
        "        print('waiting', flush=True); import time; time.sleep(60)\n"
        "    plain(self, job, show)\n"
        "q.Queries.predict = one\n"
        "main()\n"
    )
    words = [slides / "a.tif", slides / "a.csv", slides / "c.tif", "-o", tmp_path / "out", "--device", "cpu"]
    words += ["-r", built / "reference", "--cache", cache]
    child = subprocess.Popen(
        [sys.executable, "-c", code, "query", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    said = [child.stdout.readline(), child.stdout.readline()]
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert b"waiting\n" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.h5ad", "a.neighbours.parquet"]
    from commands import command

    done = command(cache)("query", *words)
    assert done.stdout.split() == [str(tmp_path / "out" / "c.h5ad")]
    assert "2 slides: 1 to predict, 1 there already" in done.stderr


def test_dry_runs_of_train_build_and_add(mst: Run, world: CohortPaths, built: Path, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = mst("train", world.refs, *ENCODER, *FAST, "--set", "patch.size_px=48", "--dry-run").stdout
    assert "spots of 2 slides, 3 passes of test_resnet a spot, " in said
    assert "in all: about " in said
    built_for = mst("build-index", world.refs, "--model", built / "model", "--dry-run", "--device", "cpu").stdout
    assert "all are cached" in built_for
    added = mst("add", world.refs, built / "reference", "--dry-run", "--device", "cpu").stdout
    assert added.startswith("0 of 2 slides to add, 2 there already; ")
    assert list(tmp_path.iterdir()) == []


def test_a_pixel_size_that_nobody_knows_is_asked_for_before_anything_is_encoded(
    query, slides, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "seconds_per_patch", None)  # whoever measures an encoder's pace fails
    image = tmp_path / "plain.png"
    Image.fromarray(np.full((90, 120, 3), 200, dtype=np.uint8)).save(image)
    coords = tmp_path / "plain.csv"
    coords.write_text("id,x,y\na,40,40\nb,80,40\nc,40,60\n")
    for words in ((), ("--dry-run",)):
        refused = query(image, coords, "--no-tissue-check", "-o", tmp_path / "p.h5ad", *words, ok=False)
        assert "the pixel size is unknown" in error_of(refused)
        assert "--mpp" in error_of(refused)
