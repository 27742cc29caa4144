"""The commands that read a prediction, `mst plot` foremost: what they write, and what they load."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from commands import Run
from PIL import Image
from scipy import sparse
from typer import Typer
from typer.testing import CliRunner, Result

from mclstexp.cli.plot import plot
from mclstexp.config import Normalisation
from mclstexp.errors import ExistsAlreadyError
from mclstexp.outputs.maps import embedding
from mclstexp.panel import GenePanel
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import to_dict

SIDE = 6
SPOTS = [f"s{i}" for i in range(SIDE * SIDE)]


def save_prediction(path: Path) -> None:
    row, col = np.divmod(np.arange(SIDE * SIDE), SIDE)
    mean = np.stack([col, row], axis=1).astype(np.float32)
    Prediction(
        slide_id="S1",
        spot_ids=SPOTS,
        xy_px=np.stack([200.0 + 300 * col, 200.0 + 300 * row], axis=1),
        genes=GenePanel(("ERBB2", "CD3E")),
        mean=mean,
        sd=mean,
        settings={"normalisation": to_dict(Normalisation())},
        spot_diameter_px=160.0,
    ).save(path)


def run(*arguments: object) -> Result:
    app = Typer()
    app.command()(plot)
    return CliRunner().invoke(app, [*(str(argument) for argument in arguments), "--dpi", "50"])


def truth_of(path: Path, spots: list[str]) -> Path:
    adata = ad.AnnData(sparse.csr_matrix(np.ones((len(spots), 2), dtype=np.float32)))
    adata.obs_names, adata.var_names = spots, ["ERBB2", "CD3E"]
    adata.obsm["spatial"] = Prediction.load(path).xy_px
    adata.write_h5ad(path.parent / "truth.h5ad")
    return path.parent / "truth.h5ad"


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_prediction(tmp_path / "p.h5ad")
    return tmp_path / "p.h5ad"


def test_genes_beside_what_was_measured(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    done = run(source, "--gene", "ERBB2", "-o", out)
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    narrow = size(out)
    assert isinstance(run(source, "-g", "ERBB2", "-o", out).exception, ExistsAlreadyError)
    truth = truth_of(source, SPOTS)
    assert run(source, "-g", "ERBB2", "-o", out, "--truth", truth, "--force").exit_code == 0
    assert size(out)[0] > narrow[0]
    assert run(source, "-g", "ERBB2", "-g", "CD3E", "-o", out, "--force").exit_code == 0
    assert size(out)[1] > 1.8 * narrow[1]
    other = truth_of(source, [*SPOTS[1:], SPOTS[0]])
    refused = run(source, "-g", "ERBB2", "--truth", other, "-o", tmp_path / "no.png")
    assert "is not of slide S1" in str(refused.exception)
    assert not (tmp_path / "no.png").exists()


def test_pictures_are_named_after_what_they_show(source: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(source, "-g", "CD3E").stdout == "p-CD3E.png\n"
    assert run(source, "-g", "CD3E", "--what", "uncertainty").stdout == "p-CD3E-uncertainty.png\n"
    assert run(source, *["-g", "CD3E"] * 5).stdout == "p-CD3E-CD3E-CD3E-2-more.png\n"


def test_options_that_would_do_nothing_are_refused(source: Path, tmp_path: Path) -> None:
    for arguments, says in (
        ([], "name one"),
        (["--what", "uncertainty"], "name one"),
        (["--what", "cohorts", "-g", "CD3E"], "draws no gene"),
        (["--what", "familiarity", "--truth", source], "nothing that was measured"),
        (["-g", "CD3E", "--by", "patient"], "goes with --what cohorts"),
    ):
        refused = run(source, *arguments)
        assert refused.exit_code == 2
        assert says in " ".join(refused.output.split())
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_prediction_comes_from(built: Path, mst: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(embedding, "umap", lambda points, seed: points[:, :2])
    for what in ("familiarity", "cohorts", "embedding"):
        path = tmp_path / f"{what}.png"
        assert mst("plot", built / "p.h5ad", "--what", what, "-o", path, "--dpi", 50).stdout == f"{path}\n"
        assert min(size(path)) > 50


def test_importing_the_commands_loads_nothing_heavy() -> None:
    program = "import sys, mclstexp.cli.plot, mclstexp.cli.neighbours; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "anndata", "matplotlib", "pyarrow", "scanpy"} & set(loaded)
