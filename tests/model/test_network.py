"""The paper's network: what it computes, that it learns, that it resumes."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds import tiny_config

from mclstexp.config import NetworkConfig, OptimConfig
from mclstexp.errors import MclstexpWarning
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.model import Model
from mclstexp.model.network.layers import ContrastiveNetwork, contexts
from mclstexp.model.network.trainer import (
    EpochReport,
    NetworkTrainer,
    TrainingSlide,
    contrastive_loss,
    guessing_loss,
    stuck_at_guessing,
)
from mclstexp.slide import Slide
from mclstexp.train import train

CPU = torch.device("cpu")
SMALL = NetworkConfig(embed_dim=16, heads=2, head_dim=8)


def toy_slides(n: int = 3, spots: int = 20) -> list[TrainingSlide]:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(12, 10)).astype(np.float32)
    slides = []
    for _ in range(n):
        expression = rng.normal(size=(spots, 12)).astype(np.float32)
        features = expression @ seen
        slides.append(TrainingSlide(features, expression, np.arange(spots) % 5, np.arange(spots) // 5))
    return slides


def toy_network(seed: int = 0) -> ContrastiveNetwork:
    torch.manual_seed(seed)
    return ContrastiveNetwork(10, 12, (8, 8), SMALL)


def trainer(epochs: int, **changes: object) -> NetworkTrainer:
    config = dataclasses.replace(OptimConfig(lr=1e-3, batch_size=16, epochs=epochs), **changes)  # type: ignore[arg-type]
    return NetworkTrainer(toy_network(), None, toy_slides(), config, seed=3, device=CPU)


def test_loss_is_the_mean_of_both_directions() -> None:
    rng = np.random.default_rng(1)
    image, spot = rng.normal(size=(2, 5, 7))
    logits = image @ spot.T / 0.5
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    cols = logits - np.log(np.exp(logits).sum(axis=0, keepdims=True))
    expected = -(np.diag(rows).mean() + np.diag(cols).mean()) / 2
    loss = contrastive_loss(torch.tensor(image), torch.tensor(spot), temperature=0.5)
    assert loss.item() == pytest.approx(expected)


def test_guessing_is_what_equal_logits_cost() -> None:
    assert contrastive_loss(torch.zeros(9, 4), torch.zeros(9, 4)).item() == pytest.approx(guessing_loss(9))
    assert guessing_loss(128) == pytest.approx(4.852, abs=1e-3)


def test_it_learns_and_says_so() -> None:
    reports = trainer(60, validation_share=0.0).run(None, lambda report: None)
    assert reports[-1].loss < 0.5 * reports[-1].guessing
    assert not stuck_at_guessing(reports)


def test_a_rate_of_almost_zero_stays_at_guessing() -> None:
    assert stuck_at_guessing([EpochReport(1, 4.85, math.log(128), None, 1.0)])
    reports = trainer(1, lr=1e-12).run(None, lambda report: None)
    assert reports[-1].loss > 0.9 * reports[-1].guessing


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        run = trainer(3)
        run.run(None, lambda report: None)
        states.append(run.network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mclstexp.model.network.trainer.SAVE_SECONDS", 0.0)
    whole = trainer(6)
    whole.run(None, lambda report: None)

    def stop(report: EpochReport) -> None:
        if report.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(6).run(tmp_path / "state", stop)
    seen: list[int] = []
    resumed = trainer(6)
    resumed.run(tmp_path / "state", lambda report: seen.append(report.epoch))
    assert seen == [4, 5, 6]
    for name, tensor in whole.network.state_dict().items():
        assert torch.allclose(tensor, resumed.network.state_dict()[name], atol=1e-6), name


def test_a_state_of_another_run_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mclstexp.model.network.trainer.SAVE_SECONDS", 0.0)
    trainer(2).run(tmp_path, lambda report: None)
    seen: list[int] = []
    trainer(2, lr=5e-4).run(tmp_path, lambda report: seen.append(report.epoch))
    assert seen == [1, 2]


@pytest.mark.parametrize("limit", [1, 7, 50, 1000])
def test_contexts_share_out_every_spot(limit: int) -> None:
    rng = np.random.default_rng(2)
    row, col = torch.from_numpy(rng.integers(0, 40, (2, 300)))
    parts = contexts(row, col, limit)
    assert max(map(len, parts)) <= limit
    assert sorted(torch.cat(parts).tolist()) == list(range(300))


def test_attention_stays_within_its_context() -> None:
    torch.manual_seed(0)
    network = ContrastiveNetwork(4, 12, (64, 64), dataclasses.replace(SMALL, context_spots=50)).eval()
    expression = np.random.default_rng(3).random((100, 12)).astype(np.float32)
    row, col = np.arange(100) // 2, np.arange(100) % 2
    before = network.embed_spots(expression, row, col)
    changed = expression.copy()
    changed[0] += 1
    after = network.embed_spots(changed, row, col)
    assert np.abs(after[:50] - before[:50]).max() > 1e-4
    assert np.array_equal(after[50:], before[50:])


@pytest.mark.parametrize("limit", [4, 30, 1000])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_batchs_rows_are_those_of_the_whole_slide_and_so_are_their_gradients(limit: int, blocks: int) -> None:
    torch.manual_seed(1)
    config = dataclasses.replace(SMALL, context_spots=limit, blocks=blocks)
    encoder = ContrastiveNetwork(4, 12, (8, 8), config).spot_encoder
    expression = torch.rand(60, 12)
    row, col = torch.arange(60) // 8, torch.arange(60) % 8
    rows = torch.from_numpy(np.random.default_rng(4).permutation(60)[:9])
    found = []
    for out in (encoder(expression, row, col)[rows], encoder(expression, row, col, rows)):
        encoder.zero_grad()
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        found.append((out.detach(), {name: p.grad.clone() for name, p in encoder.named_parameters()}))  # type: ignore[union-attr]
    (whole, gradients), (part, partial) = found
    torch.testing.assert_close(part, whole)
    for name, gradient in gradients.items():
        torch.testing.assert_close(partial[name], gradient, msg=name, rtol=1e-4, atol=1e-5)


def test_a_context_that_nobody_asks_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ContrastiveNetwork(4, 12, (64, 64), dataclasses.replace(SMALL, context_spots=50)).spot_encoder
    seen: list[int] = []
    first = encoder.blocks[0]
    monkeypatch.setattr(first, "forward", lambda x, rows=None: seen.append(len(x)) or x)
    row, col = torch.arange(200) // 2, torch.arange(200) % 2
    assert encoder(torch.rand(200, 12), row, col, torch.tensor([3, 1])).shape == (2, 12)
    assert seen == [50]


def test_an_ensemble_is_fine_tuned_whole(cohort: list[Slide], tmp_path: Path) -> None:
    names = "test_resnet,test_efficientnet"
    config = tiny_config("paper", optim__finetune=True, optim__epochs=1, encoder__name=names)
    with pytest.warns(MclstexpWarning, match="stayed at guessing"):
        tuned = train(cohort[:2], recipe=config, encoder_weights="random", device="cpu", cache=False)
    before = ImageEncoder.create(config.encoder, "random", seed=config.seed)
    for member, untuned in zip(tuned.encoder.members, before.members, strict=True):
        assert member.digest() != untuned.digest()
    tuned.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model", device="cpu", cache=False)
    np.testing.assert_array_equal(loaded.embed_patches(cohort[2]), tuned.embed_patches(cohort[2]))


@pytest.mark.parametrize("pooling", ["last", "covariance"])
def test_fine_tuning_changes_the_backbone(cohort: list[Slide], paper_model: Model, pooling: str) -> None:
    config = tiny_config("paper", optim__finetune=True, optim__epochs=1, encoder__pooling=pooling)
    with pytest.warns(MclstexpWarning, match="stayed at guessing"):  # one epoch teaches nothing
        tuned = train(cohort[:2], recipe=config, encoder_weights="random", device="cpu", cache=False)
    assert tuned.encoder.digest() != paper_model.encoder.digest()


def test_a_network_that_stays_at_guessing_is_said(cohort: list[Slide]) -> None:
    config = tiny_config("paper", optim__epochs=1, optim__lr=1e-12)
    with pytest.warns(MclstexpWarning, match=r"the loss stayed at guessing \(.*--recipe default may help"):
        train(cohort[:2], recipe=config, encoder_weights="random", device="cpu", cache=False)
