"""The notebook runs from top to bottom on simulated slides, and its committed outputs are small."""

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tutorials" / "paper_analyses.ipynb"


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a kernel of its own, with the command beside this Python on the path; a cell that fails is an error."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel are of the group dev: make setup")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.delenv("MST_HER2ST", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    tables = [text for cell in notebook.cells for text in texts(cell)]
    for said in ("a reference of", "gene-gene correlation", "ARI", "in the best tenth", "linear probe"):
        assert any(said in text for text in tables), said
    assert sum("image/png" in data for cell in notebook.cells for data in outputs(cell)) == 3


def test_the_committed_notebook_has_its_outputs_and_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 1_000_000
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(cell["outputs"]) for cell in cells) >= len(cells) - 1
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])


def outputs(cell: dict) -> list[dict]:
    return [output.get("data", {}) for output in cell.get("outputs", [])]


def texts(cell: dict) -> list[str]:
    streams = [output.get("text", "") for output in cell.get("outputs", [])]
    return [*streams, *(data.get("text/plain", "") for data in outputs(cell))]
