"""The image encoder: any backbone, any pooling, views, and weights that are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mclstexp.config import EncoderSpec
from mclstexp.errors import InputError
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.pooling import MAX_CHANNELS, _mixing, covariance

TINY_ENCODER = "test_resnet"
FIRST_ROW = [0.4406, -0.8323, 0.3364]  # of the mixing of three channels: models and their references rely on it


@pytest.mark.parametrize("name", [TINY_ENCODER, "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("pooling", ["last", "stages", "covariance"])
def test_any_backbone_pools_to_a_vector(name: str, pooling: str) -> None:
    spec = EncoderSpec(name, pooling=pooling, views=2)  # type: ignore[arg-type]
    patches = np.random.default_rng(0).integers(0, 255, (3, 160, 160, 3), dtype=np.uint8)
    features = ImageEncoder.create(spec, "random").features(patches)
    assert features.shape[0] == 3
    assert np.isfinite(features).all()
    assert features.std(axis=0).max() > 0


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


def test_a_blank_patch_has_a_gradient() -> None:
    maps = torch.zeros(1, 5, 4, 4, requires_grad=True)
    covariance(maps).sum().backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()
