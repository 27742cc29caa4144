"""``mst query`` of a slide, or of a patient, that the reference or its model has seen."""

from pathlib import Path

import anndata as ad
import pandas as pd
import pyarrow.parquet as pq
from commands import Run

from mclstexp.data.synthetic import CohortPaths


def test_a_slide_of_the_reference_is_noticed(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    slide = world.slides[0]
    spots = ad.read_h5ad(world.refs / f"{slide}.h5ad")
    frame = pd.DataFrame(spots.obsm["spatial"], columns=["x", "y"], index=pd.Index(spots.obs_names, name="id"))
    frame.to_csv(tmp_path / "coords.csv")
    done = mst("query", world.refs / f"{slide}.tif", tmp_path / "coords.csv", "-r", built / "reference",
               "-o", tmp_path / "p.h5ad")  # fmt: skip
    assert f"--exclude-slide {slide}" in done.stderr
    assert f"the model was trained on slide {slide}:" in done.stderr
    warnings = leakage(tmp_path / "p.h5ad")
    assert len(warnings) == 2
    assert all(text in done.stderr for text in warnings)
    left_out = mst("query", world.refs / f"{slide}.tif", tmp_path / "coords.csv", "-r", built / "reference",
                   "-o", tmp_path / "q.h5ad", "--exclude-slide", slide)  # fmt: skip
    assert "of the reference: the prediction finds" not in left_out.stderr
    assert leakage(tmp_path / "q.h5ad") == warnings[1:]  # the model has still seen it
    assert slide not in set(pq.read_table(tmp_path / "q.neighbours.parquet").to_pandas().slide)


def test_another_slide_of_a_known_patient_is_noticed_when_the_patient_is_said(
    built: Path, world: CohortPaths, mst: Run, tmp_path: Path
) -> None:
    query = ["query", world.query_image, world.query_coords, "-r", built / "reference"]
    assert leakage(built / "p.h5ad") == []
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
