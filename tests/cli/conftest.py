"""A small simulated cohort, and what the commands make of it."""

from pathlib import Path

import pytest
from commands import ENCODER, FAST, Run, command

from mclstexp.data.synthetic import CohortPaths, SlideSpec, write_cohort


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    spec = SlideSpec(n_genes=80, side_px=1200, pitch_um=80.0)
    return write_cohort(tmp_path_factory.mktemp("world") / "cohort", n_patients=2, slides_per_patient=1, spec=spec)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def mst(cache: Path) -> Run:
    """The command, with a cache of its own."""
    return command(cache)


@pytest.fixture(scope="session")
def built(world: CohortPaths, mst: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a reference and a prediction."""
    folder = tmp_path_factory.mktemp("built")
    mst("train", world.refs, "-o", folder / "model", *ENCODER, *FAST)
    mst("build-index", world.refs, "--model", folder / "model", "-o", folder / "reference", "--device", "cpu")
    mst("query", world.query_image, world.query_coords, "-r", folder / "reference", "-o", folder / "p.h5ad")
    return folder
