"""Make the archive of the current format version; see README.md."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.index.store.store import ReferenceStore

SIM = Simulation(n_genes=24, n_panel=12, dim=8)


def save_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}\n")


def main() -> None:
    target = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "ref"
        first = [SIM.record(0, 12), SIM.record(1, 9, image=False)]
        store = ReferenceStore.create(
            root, SIM.identity(patch={"mpp": 0.5}), first, index="ivf-flat", save_model=save_model, command="mst a"
        )
        store.add([SIM.record(2, 12, genes=slice(4, 24)), SIM.record(3, 12)], command="mst b")
        store.tag("four-slides")
        store.remove(slides=["slide0000"], message="wrong stain")
        store.add([SIM.record(1, 10, variant=1)], replace=True)
        expected = {}
        for version in (1, 2, 3, 4):
            found = retrieve(
                ReferenceStore.open(root, version=version),
                SIM.queries(4),
                RetrievalConfig(k=6),
                genes="all",
                device="cpu",
            )
            expected[str(version)] = {
                "query": SIM.queries(4).tolist(),
                "mean": [[round(float(value), 5) for value in row] for row in found.mean],
                "slides": found.provenance["slide"].to_pylist(),
                "spots": found.provenance["spot_id"].to_pylist(),
            }
        (Path(folder) / "expected.json").write_text(json.dumps(expected))
        (root / ".lock").unlink()
        shutil.make_archive(str(target.with_suffix("")), "zip", folder)


if __name__ == "__main__":
    main()
