"""Nothing is ever unpickled: not by what the code calls, and not when a pickle comes under any name."""

import ast
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from commands import command
from references import Library
from test_packaging import sources

from mclstexp.errors import MclstexpError
from mclstexp.index.reference import Reference
from mclstexp.model.model import Model

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__"}


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def calls_of(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_module_calls_what_unpickles_or_runs_text() -> None:
    for name, text in sources().items():
        tree = ast.parse(text)
        imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import)
                    for alias in node.names}  # fmt: skip
        imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & MODULES, f"{name} imports {imported & MODULES}"
        for called, call in calls_of(tree):
            assert called not in CALLS, f"{name} calls {called}"
            assert called not in ("torch.load", "pd.read_pickle", "yaml.load", "os.system"), f"{name} calls {called}"
            if called in ("np.load", "numpy.load"):
                allowed = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert allowed.get("allow_pickle") == "False", f"{name}: np.load without allow_pickle=False"
            assert "shell" not in {keyword.arg for keyword in call.keywords} or "subprocess" not in called, name


@pytest.mark.parametrize("name", ["genes.npy", "genes.txt", "genes.json", "genes.csv", "genes.pkl"])
def test_a_pickle_as_a_gene_list_runs_nothing(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "sprung"
    if name.endswith("npy"):
        np.save(tmp_path / name, np.array([Trap(trap)], dtype=object), allow_pickle=True)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(Trap(trap)))
    from mclstexp.data.genes.lists import read_gene_list

    with pytest.raises(MclstexpError):
        read_gene_list(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize(
    "kind", ["weights.safetensors", "slide.h5ad", "tiles.h5", "spots.parquet", "coords.csv", "slide.tif"]
)
def test_a_pickle_under_any_name_runs_nothing(library: Library, tmp_path: Path, kind: str) -> None:
    trap = tmp_path / "sprung"
    path = tmp_path / kind
    if kind == "weights.safetensors":
        torch.save({"w": Trap(trap)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(trap)))
    words = {
        "weights.safetensors": ["train", tmp_path, "--encoder", "test_resnet", "--encoder-weights", path],
        "slide.h5ad": ["check", path],
        "tiles.h5": ["query", library.slides[0].image.path, "--features", path, "-r", library.folder, "--mpp", "1"],
        "spots.parquet": ["query", library.slides[0].image.path, path, "-r", library.folder, "--mpp", "1"],
        "coords.csv": ["query", library.slides[0].image.path, path, "-r", library.folder, "--mpp", "1"],
        "slide.tif": ["query", path, tmp_path / "none.csv", "-r", library.folder, "--mpp", "1"],
    }
    result = command(tmp_path / "cache")(*words[kind], *(["-o", tmp_path / "o.h5ad"] if "query" in words[kind] else []),
                                         ok=False)  # fmt: skip
    assert isinstance(result.exception, MclstexpError)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "genes.tsv", "history.jsonl"])
def test_a_pickle_inside_a_model_or_reference_runs_nothing(library: Library, tmp_path: Path, name: str) -> None:
    import shutil

    trap = tmp_path / "sprung"
    shutil.copytree(library.folder, tmp_path / "reference")
    (model,) = (tmp_path / "reference" / "models").iterdir()
    (model / name).write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(MclstexpError):
        Model.load(model, device="cpu")
    with pytest.raises(MclstexpError):
        _ = Reference.open(tmp_path / "reference", device="cpu").model
    assert not trap.exists()


def test_a_pickled_object_in_hdf5_stays_bytes(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["X"] = np.void(pickle.dumps(Trap(trap)))
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
    result = command()("check", tmp_path / "a.h5ad", ok=False)
    assert isinstance(result.exception, MclstexpError)
    assert not trap.exists()
