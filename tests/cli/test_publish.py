"""A reference for others, and a lab that starts from it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import Run, error_of, usage_of
from loopback import Folder, Site, serving

from mclstexp.data.synthetic import CohortPaths
from mclstexp.predict.prediction import Prediction


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(scope="module")
def shared_folder(mst: Run, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "shared"
    done = mst("publish", built / "reference", folder, "--licence", "cc-by-4.0", "--rename-patients")
    assert done.stdout.strip() == str(folder)
    assert "written, 0 there already" in done.stderr
    return folder


@pytest.fixture
def site(shared_folder: Path) -> Iterator[Site]:
    files = {path.relative_to(shared_folder).as_posix(): path.read_bytes()
             for path in shared_folder.rglob("*") if path.is_file()}  # fmt: skip
    with serving(Site(files), Folder) as running:
        yield running


def test_a_lab_with_one_slide_starts_from_it(
    mst: Run, built: Path, world: CohortPaths, site: Site, tmp_path: Path
) -> None:
    where = ("-r", site.endpoint, "--storage-option", "allow_http=true")
    asked = mst("query", world.query_image, world.query_coords, *where, "-o", tmp_path / "p.h5ad", "--device", "cpu")
    assert "are fetched, once, into" in asked.stderr
    ours, theirs = Prediction.load(tmp_path / "p.h5ad"), Prediction.load(built / "p.h5ad")
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    spot, gene = ours.spot_ids[0], ours.genes.symbols[0]
    told = json.loads(mst("neighbours", tmp_path / "p.h5ad", spot, "-g", gene, *where, "--json").stdout)
    assert {row["patient"] for row in told["neighbours"]} <= {"patient-001", "patient-002"}
    page = mst("report", tmp_path / "p.h5ad", "-o", tmp_path / "p.html", *where)
    assert "no patches of neighbours" not in " ".join(page.stderr.split())
    (cohort,) = json.loads(mst("cohorts", *where, "--json").stdout)
    assert [patient["patient"] for patient in cohort["patients"]] == ["patient-001", "patient-002"]
    assert json.loads(mst("info", *where, "--json").stdout)["published"]["patients_renamed"] is True
    assert "version 1" in mst("verify", *where).stdout
    assert "is published and only read" in error_of(mst("remove", *where, "--patient", "patient-001", ok=False))
    assert "is not encrypted" in error_of(mst("info", site.endpoint, ok=False))
    kept = mst("cache", "--clear-references")
    assert "of published references" in kept.stderr
    (tmp_path / "own").mkdir()
    assert "exists already" in error_of(mst("fetch", "reference", site.endpoint, *where[2:], "-o", tmp_path / "own",
                                            ok=False))  # fmt: skip


def test_a_copy_of_ones_own(mst: Run, shared_folder: Path, tmp_path: Path) -> None:
    assert mst("fetch", "reference", shared_folder, "-o", tmp_path / "own").stdout.strip() == str(tmp_path / "own")
    assert mst("remove", tmp_path / "own", "--patient", "patient-001").stdout.startswith("version 2: 1 slide removed")
    assert "There is no folder" in error_of(mst("fetch", "reference", tmp_path / "no", "-o", tmp_path / "x", ok=False))


def test_copies_are_listed(mst: Run, site: Site) -> None:
    mst("info", site.endpoint, "--storage-option", "allow_http=true")
    assert site.endpoint in mst("cache").stdout
    (row,) = json.loads(mst("cache", "--json").stdout)["references"]
    assert row["reference"] == site.endpoint
    assert row["bytes"] > 100_000


def test_a_dry_run_prints_the_card(mst: Run, built: Path, tmp_path: Path) -> None:
    done = mst("publish", built / "reference", tmp_path / "x", "--dry-run", "--title", "Two", "--without-counts")
    assert "# Two" in done.stdout
    assert "No licence is given" in done.stderr
    assert not (tmp_path / "x").exists()
    assert "is a folder; leave it out" in usage_of(
        mst("publish", built / "reference", tmp_path / "x", "--storage-option", "a=b", ok=False)
    )
