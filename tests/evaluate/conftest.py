"""The worlds that the tests of evaluation share, and one evaluation of all kinds of methods."""

import pytest
import torch
from worlds import Told, World, noise, oracle, stub_slide, tiny_slides

from mclstexp.config import Normalisation
from mclstexp.evaluate.baselines import baseline_methods
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.retrieval import Resources
from mclstexp.evaluate.run import run_evaluation


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stubs():
    return [
        stub_slide("A1", "A", "x"),
        stub_slide("A2", "A", "x"),
        stub_slide("B1", "B", "x"),
        stub_slide("B2", "B", "x", image=False),
        stub_slide("C1", "C", "y"),
        stub_slide("C2", "C", "y", image=False),
        stub_slide("D1", "D", "y", image=False),
    ]


@pytest.fixture(scope="session")
def world():
    return World(noise=0.3)


@pytest.fixture(scope="session")
def result(world):
    methods = [
        *baseline_methods(world.read, Normalisation(), k=10),
        Told(oracle(world), "perfect"),
        Told(noise, "noise", deterministic=False),
    ]
    protocol = EvaluationProtocol(seeds=(0, 1, 2), n_genes=60, markers={"few": ("G1", "G2", "absent")})
    return run_evaluation(world.slides, methods, protocol)


@pytest.fixture(scope="session")
def slides(tmp_path_factory):
    return tiny_slides(tmp_path_factory.mktemp("tuned"), n=4, n_spots=36, n_genes=30, per_patient=2)


@pytest.fixture(scope="session")
def resources(tmp_path_factory):
    return Resources(encoder_weights="random", device="cpu", cache=tmp_path_factory.mktemp("features"))
