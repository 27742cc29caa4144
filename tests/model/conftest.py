"""Models of the tiny cohort, one of each space."""

import warnings

import pytest
from worlds import STAINED_LAYOUT, stained_arrays, tiny_config

from mclstexp.config import SharedSpaceConfig
from mclstexp.errors import MclstexpWarning
from mclstexp.model.model import Model
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.slide import Slide
from mclstexp.train import train


@pytest.fixture(scope="session")
def paper_model(cohort: list[Slide]) -> Model:
    """The paper's network after two epochs, on three of the cohort's slides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)  # two epochs stay at guessing
        return train(cohort[:3], recipe=tiny_config("paper"), encoder_weights="random", device="cpu", cache=False)


@pytest.fixture(scope="session")
def model(cohort: list[Slide]) -> Model:
    """The default recipe's shared space, calibrated, on three of the cohort's slides."""
    return train(cohort[:3], recipe=tiny_config("default"), encoder_weights="random", device="cpu", cache=False)


@pytest.fixture(scope="session")
def slides() -> list[SlideArrays]:
    """Three slides of one patient, each with its own stain and level."""
    return [stained_arrays(f"A{i}", "A", seed=i, shift=float(i)) for i in range(3)]


@pytest.fixture(scope="session")
def space(slides: list[SlideArrays]) -> SharedSpace:
    """The shared space of `slides`, with four components."""
    return fit_shared_space(slides, STAINED_LAYOUT, SharedSpaceConfig(components=4))
