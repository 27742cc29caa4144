"""Shared fixtures: small simulated slides, and the real data where it is at hand."""

import os

# Small tensors: threads cost more than they give. Numba, which scanpy starts, would raise torch's number again.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from pathlib import Path

import pytest

from mclstexp.slide import Slide


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, or a skip that says so."""
    folder = Path(os.environ.get("MST_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "her2st").is_dir():
        pytest.skip(f"the real data is not here ({folder}); set MST_SHARED")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[Slide]:
    """Four slides of four patients, image and counts."""
    from worlds import tiny_slides

    return tiny_slides(tmp_path_factory.mktemp("cohort"), n=4)
