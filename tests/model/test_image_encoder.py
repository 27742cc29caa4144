"""The image encoder: any backbone, any pooling, views, and weights that are refused."""

import dataclasses
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mclstexp.config import EncoderSpec
from mclstexp.errors import InputError
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.pooling import MAX_CHANNELS, covariance, mixing
from mclstexp.model.image.weights import weights_for
from mclstexp.types import EncoderWeights

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


def patches_of(side: int, n: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (n, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("pooling", ["last", "stages", "covariance"])
def test_an_ensemble_is_its_members_side_by_side(pooling: str) -> None:
    names, patches = ("test_resnet", "test_efficientnet"), patches_of(64)
    spec = EncoderSpec(",".join(names), pooling=pooling, views=2, last_layer=True)  # type: ignore[arg-type]
    together = ImageEncoder.create(spec, "random", seed=3)
    alone = [
        ImageEncoder.create(dataclasses.replace(spec, name=name), "random", seed=3 + place)
        for place, name in enumerate(names)
    ]
    np.testing.assert_array_equal(
        together.features(patches), np.concatenate([one.features(patches) for one in alone], axis=1)
    )
    for part in (ImageEncoder.block_sizes, ImageEncoder.block_names):
        assert part(together, 64) == part(alone[0], 64) + part(alone[1], 64)
    assert together.digest() not in {one.digest() for one in alone}
    with torch.inference_mode():
        assert together(torch.from_numpy(patches)).shape == (3, together.n_features_per_scale(64))


def test_an_ensemble_s_state_makes_it_again() -> None:
    spec, patches = EncoderSpec("test_resnet, test_resnet,test_vit", views=1), patches_of(160, n=2)
    encoder, other = (ImageEncoder.create(spec, "random", seed=seed) for seed in (1, 2))
    assert not np.array_equal(encoder.features(patches), other.features(patches))
    other.load_state({**encoder.state(), "space.else": np.zeros(3)})
    np.testing.assert_array_equal(encoder.features(patches), other.features(patches))
    assert encoder.digest() == other.digest()
    assert encoder.block_names(160) == ("test_resnet#1.last", "test_resnet#2.last", "test_vit.last")
    n_each = encoder.block_sizes(160)[0]
    first, second = encoder.features(patches)[:, :n_each], encoder.features(patches)[:, n_each : 2 * n_each]
    assert not np.array_equal(first, second), "the same random weights twice tell nothing new"


@pytest.mark.parametrize(
    ("given", "n", "numbers"),
    [
        ("a.safetensors", 2, r"2 encoder.*weights of 1 "),
        (Path("a.safetensors"), 2, r"2 encoder.*weights of 1 "),
        ("a,b,c", 2, r"2 encoder.*weights of 3 "),
        (["a", "b"], 1, r"1 encoder.*weights of 2 "),
        ("a,", 2, r"2 encoder.*weights of 2 "),
        ([], 1, r"1 encoder.*weights of 0 "),
    ],
)
def test_as_many_weights_as_encoders(given: EncoderWeights, n: int, numbers: str) -> None:
    with pytest.raises(InputError, match=numbers):
        weights_for(given, n)


def test_weights_are_named_in_many_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights_for("random", 3) == ("random",) * 3
    assert weights_for(["pretrained"], 2) == ("pretrained",) * 2
    assert weights_for("random, b.safetensors", 2) == ("random", Path("b.safetensors"))
    assert weights_for((Path("a"), "b"), 2) == (Path("a"), Path("b"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").touch()
    assert weights_for("a,b", 1) == (Path("a,b"),)


@pytest.mark.parametrize("name", [TINY_ENCODER, "test_vit", "test_efficientnet"])
def test_the_last_layer_follows_the_covariances(name: str) -> None:
    patches = patches_of(160, n=2)
    plain = EncoderSpec(name, pooling="covariance", views=2)
    made = [
        ImageEncoder.create(spec, "random")
        for spec in (plain, dataclasses.replace(plain, last_layer=True), dataclasses.replace(plain, pooling="last"))
    ]
    before, after, last = (encoder.features(patches) for encoder in made)
    np.testing.assert_array_equal(after, np.concatenate([before, last], axis=1))
    names = made[1].block_names(160)
    assert names == (*made[0].block_names(160), f"{name}.last")
    assert names[0] == f"{name}.stage0"
    assert sum(made[1].block_sizes(160)) == after.shape[1]


def test_a_patch_is_averaged_down() -> None:
    small = patches_of(32)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    spec = EncoderSpec(TINY_ENCODER, pooling="covariance", views=2)
    seen_small = ImageEncoder.create(dataclasses.replace(spec, input_px=(32,)), "random")
    as_it_is = ImageEncoder.create(spec, "random")
    np.testing.assert_allclose(seen_small.features(large), as_it_is.features(small), atol=1e-5)
    assert np.abs(as_it_is.features(large) - as_it_is.features(small)).max() > 1e-2
    both = dataclasses.replace(spec, name=f"{TINY_ENCODER},{TINY_ENCODER}", input_px=(64, 32))
    assert [member.spec.input_px for member in ImageEncoder.create(both, "random").members] == [(64,), (32,)]


def test_covariance_is_numpy_s_of_the_mixed_channels() -> None:
    maps = torch.randn(2, 50, 6, 5, generator=torch.Generator().manual_seed(0))
    columns = mixing(50)
    np.testing.assert_allclose(columns.T @ columns, np.eye(MAX_CHANNELS), atol=1e-6)
    pooled = covariance(maps).numpy()
    for got, one in zip(pooled, maps.numpy(), strict=True):
        joint = np.cov(columns.T @ one.reshape(50, -1), bias=True)[np.triu_indices(MAX_CHANNELS)]
        np.testing.assert_allclose(got, np.sign(joint) * np.sqrt(np.abs(joint)), atol=1e-3)
    shifted = covariance(maps + torch.randn(1, 50, 1, 1))
    np.testing.assert_allclose(shifted.numpy(), pooled, atol=5e-3)
    assert covariance(maps[:, :3]).shape == (2, 6)


def testmixing_is_the_same_on_any_machine() -> None:
    np.testing.assert_allclose(mixing(3)[0], FIRST_ROW, atol=1e-4)


def test_a_blank_patch_has_a_gradient() -> None:
    maps = torch.zeros(1, 5, 4, 4, requires_grad=True)
    covariance(maps).sum().backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


@pytest.mark.skipif(sys.platform != "linux", reason="malloc's thresholds are glibc's")
def test_encoding_keeps_freed_memory() -> None:
    encoder = ImageEncoder.create(EncoderSpec("tf_efficientnet_lite0"), "random")
    patches = np.zeros((8, 224, 224, 3), dtype=np.uint8)

    def new_pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        encoder.features(patches)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    new_pages()
    # Given back, the two batches' maps are over 20,000 pages; kept, they are those of the call before.
    assert min(new_pages() for _ in range(3)) < 5_000
