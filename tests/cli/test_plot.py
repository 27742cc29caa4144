"""The commands that read a prediction, `mst plot` foremost: what they write, and what they load."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
from PIL import Image
from scipy import sparse
from typer import Typer
from typer.testing import CliRunner

from mclstexp.config import Normalisation
from mclstexp.errors import ExistsAlreadyError
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


def width(path: Path) -> int:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.width


def test_plot_command(tmp_path: Path, monkeypatch) -> None:
    from mclstexp.cli.plot import plot

    app = Typer()
    app.command()(plot)
    source, out = tmp_path / "p.h5ad", tmp_path / "map.png"
    save_prediction(source)
    truth = tmp_path / "truth.h5ad"
    adata = ad.AnnData(sparse.csr_matrix(np.ones((SIDE * SIDE, 2), dtype=np.float32)))
    adata.obs_names, adata.var_names = SPOTS, ["ERBB2", "CD3E"]
    adata.write_h5ad(truth)
    done = CliRunner().invoke(app, [str(source), "--gene", "ERBB2", "-o", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    narrow = width(out)
    again = [str(source), "-g", "ERBB2", "-o", str(out)]
    assert isinstance(CliRunner().invoke(app, again).exception, ExistsAlreadyError)
    assert CliRunner().invoke(app, [*again, "--truth", str(truth), "--force"]).exit_code == 0
    assert width(out) == 2 * narrow
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, [str(source), "-g", "CD3E"]).stdout == "p-CD3E.png\n"
    assert width(tmp_path / "p-CD3E.png") == narrow


def test_importing_the_commands_loads_nothing_heavy() -> None:
    program = "import sys, mclstexp.cli.plot, mclstexp.cli.neighbours; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "anndata", "matplotlib", "pyarrow", "scanpy"} & set(loaded)
