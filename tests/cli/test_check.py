"""``mst check``: what is there, what is wrong, and the exit that says so."""

import json
import re
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import typer
from commands import command, error_of
from layouts import save_bins
from PIL import Image
from scipy import sparse
from typer.testing import CliRunner

from mclstexp.cli.check import _HEADER, _grouped, check
from mclstexp.data.readers import SlideReport
from mclstexp.data.readers.discover import LAYOUTS
from mclstexp.errors import InputError

app = typer.Typer()
app.command()(check)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def make(folder, name, *, image=True, **uns):
    folder.mkdir(parents=True, exist_ok=True)
    row, col = np.divmod(np.arange(16), 4)
    obs = pd.DataFrame({"array_row": row, "array_col": col}, index=[f"s{i}" for i in range(16)])
    xy = np.stack([60 + 40 * col, 50 + 40 * row], axis=1).astype(float)
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(3, (16, 5)), dtype=np.float32)
    adata = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=list("ABCDE")), obsm={"spatial": xy}, uns=uns)
    adata.write_h5ad(folder / f"{name}.h5ad")
    if image:
        Image.new("RGB", (300, 240), (190, 90, 160)).save(folder / f"{name}.png")


def test_good_slides_are_listed_and_exit_0(tmp_path):
    make(tmp_path, "S1", patient="P1", cohort="C", pitch_um=200.0)
    make(tmp_path, "S2", patient="P2", cohort="C", pitch_um=200.0, image=False)
    result = run(tmp_path)
    assert result.exit_code == 0
    header, first, second = result.stdout.strip().splitlines()
    assert header.split() == list(_HEADER)
    assert first.split() == ["S1", "h5ad", "P1", "C", "16", "5", "300x240", "5.0000", "pitch", "0"]
    assert second.split() == ["S2", "h5ad", "P2", "C", "16", "5", "-", "5.0000", "pitch", "0"]
    assert "slide S2: no image" in result.stderr


def test_unknown_patient_warns_and_does_not_fail(tmp_path):
    make(tmp_path, "S1", pitch_um=200.0)
    make(tmp_path, "S2", pitch_um=200.0)
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "warning: 2 slides (S1, S2): patient unknown" in result.stderr
    assert "slides.csv" in result.stderr


def test_what_differs_in_numbers_alone_is_said_once(tmp_path):
    for name, n_off in (("S1", 1), ("S2", 3), ("S3", 3), ("S4", 8)):
        make(tmp_path, name, patient="P", cohort="C", pitch_um=200.0)
        adata = anndata.read_h5ad(tmp_path / f"{name}.h5ad")
        adata.obs["in_tissue"] = [0] * n_off + [1] * (16 - n_off)
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    lines = run(tmp_path).stderr.splitlines()
    assert lines == [
        "warning: 4 slides (S1, S2, S3, S4): 1 to 8 of 16 spots are off the tissue and were dropped.",
        "warning: slide S3: the very same counts as S2: probably one section under two names; leave one out.",
    ]


def test_numbers_that_are_parts_of_names_keep_warnings_apart():
    reports = [
        SlideReport("a", "h5ad", None, warnings=("2 symbols name several genes (for example MATR3); summed.",)),
        SlideReport("b", "h5ad", None, warnings=("11 symbols name several genes (for example MATR3); summed.",)),
        SlideReport("c", "h5ad", None, warnings=("2 symbols name several genes (for example TBCE4); summed.",)),
        SlideReport("d", "h5ad", None, warnings=("Slide d: spot '10x14' at 0.5 um is odd.",)),
        SlideReport("e", "h5ad", None, warnings=("Slide e: spot '10x14' at 0.25 um is odd.",)),
    ]
    assert _grouped(reports, "warnings") == [
        "2 slides (a, b): 2 to 11 symbols name several genes (for example MATR3); summed.",
        "slide c: 2 symbols name several genes (for example TBCE4); summed.",
        "2 slides (d, e): spot '10x14' at 0.25 to 0.5 um is odd.",
    ]


def test_problems_are_said_and_fail(tmp_path):
    make(tmp_path, "S1", patient="P1", cohort="C", pitch_um=200.0)
    make(tmp_path, "S2", patient="P1", cohort="C")
    (tmp_path / "S3.h5ad").write_bytes(b"broken")
    result = run(tmp_path)
    assert isinstance(result.exception, InputError)  # main() turns it into one line and exit 1
    assert str(result.exception) == "2 of 3 slides have problems: S2, S3."
    assert len(result.stdout.strip().splitlines()) == 4
    assert "problem: slide S2: no pixel size" in result.stderr
    assert "S3.h5ad is damaged" in result.stderr
    assert run(tmp_path, "--mpp", "0.5").stdout.count("given") == 2


def test_json_has_everything(tmp_path):
    make(tmp_path, "S1", patient="P1", cohort="C", pitch_um=200.0)
    (tmp_path / "S3.h5ad").write_bytes(b"broken")
    result = run(tmp_path, "--json")
    one, three = json.loads(result.stdout)
    assert (one["slide"], one["spots"], one["image_px"], one["mpp"], one["mpp_source"]) == (
        "S1", 16, [300, 240], pytest.approx(5.0), "pitch",
    )  # fmt: skip
    assert one["problems"] == []
    assert (three["spots"], three["mpp"]) == (None, None)
    assert len(three["problems"]) == 1


def test_nothing_there(tmp_path):
    for refs in (tmp_path, tmp_path / "none"):
        result = run(refs)
        assert isinstance(result.exception, InputError)
        assert result.stdout == ""


@pytest.mark.parametrize("module", ["numpy", "torch", "scanpy", "anndata", "pandas", "timm", "faiss", "lancedb"])
def test_importing_the_command_is_light(module):
    code = f"import sys, mclstexp.cli.check; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_lists_every_layout():
    text = command()("check", "--help").output
    for layout in LAYOUTS:
        assert re.search(rf"^\s*{layout.NAME}\s+\S", text, re.MULTILINE), layout.NAME


def test_options_of_layouts_reach_the_readers(tmp_path):
    save_bins(tmp_path / "HD", 8)
    save_bins(tmp_path / "HD", 16)
    (record,) = json.loads(command()("check", tmp_path, "--bin-um", 8, "--json").stdout)
    assert (record["layout"], record["pitch_um"]) == ("visium_hd", 8)
    (record,) = json.loads(command()("check", tmp_path, "--pool-um", 40, "--json").stdout)
    assert record["pitch_um"] == 40
    assert "--bin-um is 3" in error_of(command()("check", tmp_path, "--bin-um", 3, ok=False))
