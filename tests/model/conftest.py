"""Models of the tiny cohort, one of each space."""

import warnings

import pytest
from worlds import tiny_config

from mclstexp.errors import MclstexpWarning
from mclstexp.model.model import Model
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
