"""The command from slides to neighbours, and what it says to bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from mclstexp.cli.app import app
from mclstexp.data.synthetic.cohort import CohortPaths, write_cohort
from mclstexp.data.synthetic.histology import SlideSpec
from mclstexp.errors import MclstexpError

ENCODER = ["--encoder", "test_resnet", "--encoder-weights", "random", "--device", "cpu"]
FAST = ["--set", "patch.size_px=64", "--set", "encoder.views=1", "--n-genes", "40"]

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    spec = SlideSpec(n_genes=80, side_px=1200, pitch_um=80.0)
    return write_cohort(tmp_path_factory.mktemp("world") / "cohort", n_patients=2, slides_per_patient=1, spec=spec)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def mst(cache: Path) -> Run:
    def run(*arguments: object, ok: bool = True) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"MST_CACHE": str(cache)})
        if ok and result.exit_code != 0:
            raise AssertionError(f"{arguments}: {result.output} {result.exception!r}") from result.exception
        return result

    return run


@pytest.fixture(scope="module")
def made(world: CohortPaths, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a reference and a prediction."""
    folder = tmp_path_factory.mktemp("made")
    runner, env = CliRunner(), {"MST_CACHE": str(cache)}
    steps = [
        ["train", world.refs, "-o", folder / "model", *ENCODER, *FAST],
        ["build-index", world.refs, "--model", folder / "model", "-o", folder / "reference", "--device", "cpu"],
        ["query", world.query_image, world.query_coords, "-r", folder / "reference", "-o", folder / "p.h5ad"],
    ]
    for step in steps:
        result = runner.invoke(app, [str(part) for part in step], env=env)
        assert result.exit_code == 0, (step, result.output, result.exception)
    return folder


def error_of(result: Result) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, MclstexpError), repr(result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_the_prediction_is_what_scanpy_users_expect(made: Path, world: CohortPaths) -> None:
    found = ad.read_h5ad(made / "p.h5ad")
    coords = pd.read_csv(world.query_coords)
    assert found.obs_names.tolist() == coords["id"].tolist()
    np.testing.assert_allclose(found.obsm["spatial"], coords[["x", "y"]])
    assert found.shape == (len(coords), 40)
    assert np.isfinite(found.X).all()
    assert found.X.std(axis=0).max() > 0.01
    assert (found.layers["sd"] >= 0).all()
    assert {"similarity", "n_effective", "familiarity"} <= set(found.obs)
    assert found.uns["mclstexp"]["reference_version"] == 1


def test_the_weights_give_the_mean(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    """Ten lines from the paper: the prediction is the neighbours' normalised counts, weighted."""
    mst("query", world.query_image, world.query_coords, "-r", made / "reference", "-o", tmp_path / "p.h5ad", "-k", 7,
        "--weights", "inverse_square")  # fmt: skip
    found = ad.read_h5ad(tmp_path / "p.h5ad")
    table = pq.read_table(tmp_path / "p.neighbours.parquet").to_pandas()
    panel = found.var_names.tolist()
    for spot in found.obs_names[:5]:
        rows = table[table.query_spot == spot]
        expected = np.zeros(len(panel))
        for row in rows.itertuples():
            counts = ad.read_h5ad(world.refs / f"{row.slide}.h5ad")[row.spot_id].to_df()[panel].to_numpy()[0]
            expected += row.weight * np.log1p(counts / counts.sum() * 1e4)
        assert len(rows) == 7
        assert rows.weight.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(found[spot].layers["retrieved"][0], expected, atol=5e-3)


def test_the_same_query_gives_the_same_bytes(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    command = ["query", world.query_image, world.query_coords, "-r", made / "reference", "-o", tmp_path / "p.h5ad"]
    files = ["p.h5ad", "p.neighbours.parquet"]
    mst(*command)
    first = [(tmp_path / name).read_bytes() for name in files]
    mst(*command, "--force")
    assert first == [(tmp_path / name).read_bytes() for name in files]


def test_training_again_gives_the_same_model(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    mst("train", world.refs, "-o", tmp_path / "model", *ENCODER, *FAST)
    digests = [json.loads((folder / "model" / "config.json").read_text())["digest"] for folder in (made, tmp_path)]
    assert digests[0] == digests[1]


def test_genes_outside_the_panel_can_be_asked_for(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    common = ["query", world.query_image, world.query_coords, "-r", made / "reference", "--device", "cpu", "-o"]
    mst(*common, tmp_path / "all.h5ad", "--genes", "all")
    mst(*common, tmp_path / "two.h5ad", "--genes", "ERBB2,CD3E")
    every, two = ad.read_h5ad(tmp_path / "all.h5ad"), ad.read_h5ad(tmp_path / "two.h5ad")
    assert every.n_vars == 80
    assert two.var_names.tolist() == ["ERBB2", "CD3E"]
    np.testing.assert_allclose(every[:, ["ERBB2", "CD3E"]].X, two.X, atol=1e-5)
    assert "NOSUCHGENE" in error_of(mst(*common, tmp_path / "none.h5ad", "--genes", "NOSUCHGENE", ok=False))
    assert not (tmp_path / "none.h5ad").exists()


def test_a_patient_left_out_is_no_neighbour(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    mst("query", world.query_image, world.query_coords, "-r", made / "reference", "-o", tmp_path / "p.h5ad",
        "--exclude-patient", "P1", "-k", 5)  # fmt: skip
    table = pq.read_table(tmp_path / "p.neighbours.parquet").to_pandas()
    assert set(table.patient) == {"P2"}
    assert (table.groupby("query_spot").size() == 5).all()


def test_a_slide_of_the_reference_is_noticed(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    slide = world.slides[0]
    spots = ad.read_h5ad(world.refs / f"{slide}.h5ad")
    frame = pd.DataFrame(spots.obsm["spatial"], columns=["x", "y"], index=pd.Index(spots.obs_names, name="id"))
    frame.to_csv(tmp_path / "coords.csv")
    done = mst("query", world.refs / f"{slide}.tif", tmp_path / "coords.csv", "-r", made / "reference",
               "-o", tmp_path / "p.h5ad")  # fmt: skip
    assert f"--exclude-slide {slide}" in done.stderr
    assert f"the model was trained on slide {slide}:" in done.stderr
    warnings = leakage(tmp_path / "p.h5ad")
    assert len(warnings) == 2
    assert all(text in done.stderr for text in warnings)
    left_out = mst("query", world.refs / f"{slide}.tif", tmp_path / "coords.csv", "-r", made / "reference",
                   "-o", tmp_path / "q.h5ad", "--exclude-slide", slide)  # fmt: skip
    assert "of the reference: the prediction finds" not in left_out.stderr
    assert leakage(tmp_path / "q.h5ad") == warnings[1:]  # the model has still seen it
    assert slide not in set(pq.read_table(tmp_path / "q.neighbours.parquet").to_pandas().slide)


def test_another_slide_of_a_known_patient_is_noticed_when_the_patient_is_said(
    made: Path, world: CohortPaths, mst: Run, tmp_path: Path
) -> None:
    query = ["query", world.query_image, world.query_coords, "-r", made / "reference"]
    assert leakage(made / "p.h5ad") == []
    done = mst(*query, "-o", tmp_path / "p.h5ad", "--patient", "P1")
    one, two = leakage(tmp_path / "p.h5ad")
    assert "1 other slides of patient 'P1' (P1_A)" in one
    assert "--exclude-patient P1" in one
    assert "trained on slides of the same patient (P1_A)" in two
    assert one in done.stderr
    mst(*query, "-o", tmp_path / "q.h5ad", "--patient", "P1", "--exclude-patient", "P1")
    assert leakage(tmp_path / "q.h5ad") == [two]


def leakage(prediction: Path) -> list[str]:
    """What the prediction's own file says of it."""
    return str(ad.read_h5ad(prediction).uns["mclstexp"]["leakage"]).splitlines()


def test_neighbours_and_plot(made: Path, mst: Run, tmp_path: Path) -> None:
    spot = ad.read_h5ad(made / "p.h5ad").obs_names[0]
    listed = json.loads(mst("neighbours", made / "p.h5ad", spot, "--top", 3, "--json").stdout)
    assert len(listed) == 3
    mst("plot", made / "p.h5ad", "--gene", "ERBB2", "-o", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_add_grows_to_what_a_build_at_once_gives(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    one, two = world.slides
    mst("build-index", world.refs, "--slides", one, "--model", made / "model", "-o", tmp_path / "grown")
    mst("add", world.refs, "--slides", two, "--reference", tmp_path / "grown")
    again = mst("add", world.refs, "--slides", two, "--reference", tmp_path / "grown")
    assert "1 skipped" in again.stdout
    answers = []
    for reference in (made / "reference", tmp_path / "grown"):
        out = tmp_path / f"{reference.parent.name}.h5ad"
        mst("query", world.query_image, world.query_coords, "-r", reference, "-o", out)
        answers.append(ad.read_h5ad(out).X)
    assert np.array_equal(answers[0], answers[1])


def test_another_models_reference_is_refused(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    mst("train", world.refs, "-o", tmp_path / "other", *ENCODER, *FAST, "--seed", 1)
    refused = mst("query", world.query_image, world.query_coords, "-r", made / "reference", "--model",
                  tmp_path / "other", "-o", tmp_path / "p.h5ad", ok=False)  # fmt: skip
    message = error_of(refused)
    assert "model" in message
    assert "build-index" in message


def test_outputs_are_not_overwritten_unasked(made: Path, world: CohortPaths, mst: Run) -> None:
    before = (made / "p.h5ad").read_bytes()
    commands = [
        ["train", world.refs, "-o", made / "model"],
        ["build-index", world.refs, "--model", made / "model", "-o", made / "reference"],
        ["query", world.query_image, world.query_coords, "-r", made / "reference", "-o", made / "p.h5ad"],
    ]
    for command in commands:
        assert "--force" in error_of(mst(*command, ok=False))
    assert (made / "p.h5ad").read_bytes() == before


@pytest.mark.parametrize("what", ["model", "reference", "image", "coords"])
def test_what_is_missing_is_named(made: Path, world: CohortPaths, mst: Run, tmp_path: Path, what: str) -> None:
    gone = tmp_path / "gone"
    if what == "model":
        result = mst("build-index", world.refs, "--model", gone, "-o", tmp_path / "r", ok=False)
    else:
        image = gone if what == "image" else world.query_image
        coords = gone if what == "coords" else world.query_coords
        reference = gone if what == "reference" else made / "reference"
        result = mst("query", image, coords, "-r", reference, "-o", tmp_path / "p.h5ad", ok=False)
    assert "gone" in error_of(result)
    assert not any(tmp_path.iterdir())


def test_no_gene_in_common_is_said(world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("NOT_A_GENE\nNOR_THIS\n")
    refused = mst("train", world.refs, "-o", tmp_path / "m", "--genes", tmp_path / "genes.txt", *ENCODER, ok=False)
    assert "gene" in error_of(refused)
    assert not (tmp_path / "m").exists()


def test_unknown_settings_and_devices_are_refused(world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    assert "encoder.nam" in error_of(mst("train", world.refs, "-o", tmp_path / "m", "--set", "encoder.nam=x", ok=False))
    assert mst("train", world.refs, "-o", tmp_path / "m", "--device", "tpu", ok=False).exit_code == 2


def test_a_full_disk_leaves_nothing(made: Path, world: CohortPaths, tmp_path: Path) -> None:
    """A process that may not write files of more than 8 kB fails as one whose disk is full."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); "
        "sys.argv = ['mst', *sys.argv[1:]]; from mclstexp.cli.app import main; main()"
    )
    command = ["query", world.query_image, world.query_coords, "-r", made / "reference", "-o", tmp_path / "p.h5ad"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "MST_CACHE": str(tmp_path / "nowhere" / "cache")},
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("mst: error:")
    assert not (tmp_path / "p.h5ad").exists()
    assert not list(tmp_path.glob("*.parquet"))


def test_ctrl_c_leaves_nothing(world: CohortPaths, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from mclstexp.cli.app import main; main()", "train", str(world.refs)]
    options = ["-o", str(tmp_path / "model"), *ENCODER, "--recipe", "paper", "--n-genes", "40", "--epochs", "100000"]
    process = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, env={**os.environ, "MST_CACHE": str(tmp_path / "c")}
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert "interrupted" in rest
    assert not (tmp_path / "model").exists()


def test_the_demo_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the demo opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    result = CliRunner().invoke(app, ["demo", "--patients", "2", "-o", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "demo" / "ERBB2.png").is_file()
    assert "all genes" in result.stdout


def test_a_damaged_reference_is_refused(made: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    shutil.copytree(made / "reference", tmp_path / "reference")
    manifest = tmp_path / "reference" / "manifest.json"
    manifest.write_text(manifest.read_text()[:-30])
    result = mst("query", world.query_image, world.query_coords, "-r", tmp_path / "reference", "-o",
                 tmp_path / "p.h5ad", ok=False)  # fmt: skip
    assert "verify" in error_of(result) or "damaged" in error_of(result)
