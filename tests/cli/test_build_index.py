"""``mst train``, ``build-index`` and ``add``: models and references from slides."""

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
from commands import ENCODER, FAST, Run, error_of

from mclstexp.data.synthetic import CohortPaths


def test_training_again_gives_the_same_model(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    mst("train", world.refs, "-o", tmp_path / "model", *ENCODER, *FAST)
    digests = [json.loads((folder / "model" / "config.json").read_text())["digest"] for folder in (built, tmp_path)]
    assert digests[0] == digests[1]


def test_no_gene_in_common_is_said(world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("NOT_A_GENE\nNOR_THIS\n")
    refused = mst("train", world.refs, "-o", tmp_path / "m", "--genes", tmp_path / "genes.txt", *ENCODER, ok=False)
    assert "gene" in error_of(refused)
    assert not (tmp_path / "m").exists()


def test_add_grows_to_what_a_build_at_once_gives(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    one, two = world.slides
    mst("build-index", world.refs, "--slides", one, "--model", built / "model", "-o", tmp_path / "grown")
    mst("add", world.refs, "--slides", two, "--reference", tmp_path / "grown")
    again = mst("add", world.refs, "--slides", two, "--reference", tmp_path / "grown")
    assert "1 skipped" in again.stdout
    answers = []
    for reference in (built / "reference", tmp_path / "grown"):
        out = tmp_path / f"{reference.parent.name}.h5ad"
        mst("query", world.query_image, world.query_coords, "-r", reference, "-o", out)
        answers.append(ad.read_h5ad(out).X)
    assert np.array_equal(answers[0], answers[1])


def test_another_models_reference_is_refused(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    mst("train", world.refs, "-o", tmp_path / "other", *ENCODER, *FAST, "--seed", 1)
    refused = mst("query", world.query_image, world.query_coords, "-r", built / "reference", "--model",
                  tmp_path / "other", "-o", tmp_path / "p.h5ad", ok=False)  # fmt: skip
    message = error_of(refused)
    assert "model" in message
    assert "build-index" in message


def test_a_damaged_reference_is_refused(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    shutil.copytree(built / "reference", tmp_path / "reference")
    (version,) = (tmp_path / "reference" / "spots.lance" / "_versions").glob("*.manifest")
    version.write_bytes(version.read_bytes()[:-30])
    result = mst("query", world.query_image, world.query_coords, "-r", tmp_path / "reference", "-o",
                 tmp_path / "p.h5ad", ok=False)  # fmt: skip
    assert "verify" in error_of(result) or "damaged" in error_of(result)
