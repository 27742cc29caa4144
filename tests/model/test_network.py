"""The paper's network: what it computes, that it learns, that it resumes, that a slide's vectors are its own."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mclstexp.config import EncoderSpec, NetworkConfig, OptimConfig, recipe
from mclstexp.errors import FormatError, InputError
from mclstexp.model.folder import load_model, save_model
from mclstexp.model.image import encoder as image_encoder
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.features import FeatureCache, slide_features
from mclstexp.model.image.pooling import MAX_CHANNELS, _mixing, covariance
from mclstexp.model.model import EncoderPair
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
from mclstexp.train import TrainedModel, TrainOptions, train

CPU = torch.device("cpu")
TINY_ENCODER = "test_resnet"
FIRST_ROW = [0.4406, -0.8323, 0.3364]  # of the mixing of three channels: models and their references rely on it
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


def paper_model(cohort: list[Slide], **options: object) -> TrainedModel:
    config = recipe("paper")
    config = dataclasses.replace(
        config,
        encoder=dataclasses.replace(config.encoder, name=TINY_ENCODER),
        patch=dataclasses.replace(config.patch, size_px=64),
        network=SMALL,
        optim=dataclasses.replace(config.optim, epochs=2),
        n_genes=30,
    )
    return train(cohort, config, TrainOptions(weights="random", device="cpu", **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(cohort: list[Slide]) -> TrainedModel:
    return paper_model(cohort[:3])


def test_loss_is_the_mean_of_both_directions() -> None:
    rng = np.random.default_rng(1)
    image, spot = rng.normal(size=(2, 5, 7))
    logits = image @ spot.T / 0.5
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    cols = logits - np.log(np.exp(logits).sum(axis=0, keepdims=True))
    expected = -(np.diag(rows).mean() + np.diag(cols).mean()) / 2
    found = contrastive_loss(torch.tensor(image), torch.tensor(spot), temperature=0.5)
    assert found.item() == pytest.approx(expected)


def test_guessing_is_what_equal_logits_cost() -> None:
    assert contrastive_loss(torch.zeros(9, 4), torch.zeros(9, 4)).item() == pytest.approx(guessing_loss(9))
    assert guessing_loss(128) == pytest.approx(4.852, abs=1e-3)


def test_it_learns_and_says_so() -> None:
    reports = trainer(60, validation_share=0.0).run(None, lambda report: None)
    assert reports[-1].loss < 0.5 * reports[-1].guessing
    assert not stuck_at_guessing(reports)


def test_a_rate_of_zero_stays_at_guessing() -> None:
    assert stuck_at_guessing([EpochReport(1, 4.85, math.log(128), None, 1.0)])
    reports = trainer(1, lr=0.0).run(None, lambda report: None)
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


def test_vectors_depend_on_the_slide_alone(
    model: TrainedModel, cohort: list[Slide], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = model.encoders
    first = [(encoders.encode_patches(s), encoders.encode_spots(s)) for s in cohort]
    monkeypatch.setitem(image_encoder.BATCH, "cpu", 5)
    again = [(encoders.encode_patches(s), encoders.encode_spots(s)) for s in reversed(cohort)][::-1]
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
            np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)


def test_a_patch_does_not_depend_on_its_batch(model: TrainedModel, cohort: list[Slide]) -> None:
    rows = np.array([3, 17])
    alone = model.encoders.features(cohort[0].take(rows))
    assert np.array_equal(alone, model.encoders.features(cohort[0])[rows])


def test_a_saved_model_gives_the_same_vectors(model: TrainedModel, cohort: list[Slide], tmp_path: Path) -> None:
    save_model(tmp_path / "model", model.files)
    files = load_model(tmp_path / "model")
    assert files.digest() == model.files.digest()
    loaded = EncoderPair.from_files(files, device="cpu")
    for method in ("encode_patches", "encode_spots"):
        assert np.array_equal(getattr(loaded, method)(cohort[3]), getattr(model.encoders, method)(cohort[3]))


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "genes.tsv"])
@pytest.mark.parametrize("harm", ["cut", "gone", "rubbish"])
def test_a_damaged_model_is_refused(model: TrainedModel, tmp_path: Path, name: str, harm: str) -> None:
    save_model(tmp_path / "model", model.files)
    victim = tmp_path / "model" / name
    if harm == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-20] if harm == "cut" else b"rubbish")
    with pytest.raises(FormatError, match="model"):
        load_model(tmp_path / "model")


def test_another_format_version_is_refused(model: TrainedModel, tmp_path: Path) -> None:
    save_model(tmp_path / "model", model.files)
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(FormatError, match=r"99.*reads 1"):
        load_model(tmp_path / "model")


def test_features_are_cached_and_a_damaged_cache_is_made_anew(cohort: list[Slide], tmp_path: Path) -> None:
    encoder = ImageEncoder.create(EncoderSpec(TINY_ENCODER), "random")
    patch = dataclasses.replace(recipe("paper").patch, size_px=64)
    cache = FeatureCache(tmp_path)
    first = slide_features(cohort[0], encoder, patch, cache=cache)
    (file,) = tmp_path.rglob("*.npy")
    np.save(file, first + 1)
    assert np.array_equal(slide_features(cohort[0], encoder, patch, cache=cache), first + 1)
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(slide_features(cohort[0], encoder, patch, cache=cache), first)


@pytest.mark.parametrize("name", [TINY_ENCODER, "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("pooling", ["last", "stages", "covariance"])
def test_any_backbone_pools_to_a_vector(name: str, pooling: str) -> None:
    spec = EncoderSpec(name, pooling=pooling, views=2)  # type: ignore[arg-type]
    patches = np.random.default_rng(0).integers(0, 255, (3, 160, 160, 3), dtype=np.uint8)
    features = ImageEncoder.create(spec, "random").features(patches)
    assert features.shape[0] == 3
    assert np.isfinite(features).all()
    assert features.std(axis=0).max() > 0


def test_covariance_is_numpy_s_of_the_mixed_channels() -> None:
    maps = torch.randn(2, 50, 6, 5, generator=torch.Generator().manual_seed(0))
    mixing = _mixing(50)
    np.testing.assert_allclose(mixing.T @ mixing, np.eye(MAX_CHANNELS), atol=1e-6)
    pooled = covariance(maps).numpy()
    for got, one in zip(pooled, maps.numpy(), strict=True):
        joint = np.cov(mixing.T @ one.reshape(50, -1), bias=True)[np.triu_indices(MAX_CHANNELS)]
        np.testing.assert_allclose(got, np.sign(joint) * np.sqrt(np.abs(joint)), atol=1e-3)
    shifted = covariance(maps + torch.randn(1, 50, 1, 1))
    np.testing.assert_allclose(shifted.numpy(), pooled, atol=5e-3)
    assert covariance(maps[:, :3]).shape == (2, 6)


def test_mixing_is_the_same_on_any_machine() -> None:
    np.testing.assert_allclose(_mixing(3)[0], FIRST_ROW, atol=1e-4)


@pytest.mark.parametrize("views", [4, 8])
def test_views_make_features_blind_to_turning(views: int) -> None:
    encoder = ImageEncoder.create(EncoderSpec(TINY_ENCODER, views=views), "random")
    patch = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8)
    turned = np.rot90(patch, axes=(1, 2))
    np.testing.assert_allclose(encoder.features(patch), encoder.features(turned.copy()), atol=1e-4)


def test_unknown_encoders_and_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no_such_model"):
        ImageEncoder.create(EncoderSpec("no_such_model"), "random")
    rubbish = tmp_path / "weights.safetensors"
    rubbish.write_bytes(b"rubbish")
    with pytest.raises(InputError, match="safetensors"):
        ImageEncoder.create(EncoderSpec(TINY_ENCODER), rubbish)
    with pytest.raises(InputError, match="do not exist"):
        ImageEncoder.create(EncoderSpec(TINY_ENCODER), tmp_path / "none")


def test_a_blank_patch_has_a_gradient() -> None:
    maps = torch.zeros(1, 5, 4, 4, requires_grad=True)
    covariance(maps).sum().backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("pooling", ["last", "covariance"])
def test_fine_tuning_changes_the_backbone(cohort: list[Slide], model: TrainedModel, pooling: str) -> None:
    config = dataclasses.replace(model.files.config, optim=dataclasses.replace(model.files.config.optim, finetune=True))
    config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, pooling=pooling))  # type: ignore[arg-type]
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=1))
    tuned = train(cohort[:2], config, TrainOptions(weights="random", device="cpu"))
    assert tuned.encoders.backbone.digest() != model.encoders.backbone.digest()
