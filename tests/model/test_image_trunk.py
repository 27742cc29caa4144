"""Weights of the first stages alone: only these are computed, pooled and saved."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vgg import VGG
from torch import Tensor, nn
from worlds import tiny_config

from mclstexp.config import EncoderSpec
from mclstexp.errors import InputError
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.model.image.stages import tensors_of_stages
from mclstexp.slide import Slide
from mclstexp.train import train

SIDE = 64
BACKBONES = ["tiny_vgg", "test_resnet", "test_efficientnet", "test_vit"]


@register_model  # type: ignore[untyped-decorator]
def tiny_vgg(pretrained: bool = False, **keywords: Any) -> nn.Module:
    """A VGG of four blocks, a few channels each."""
    model = VGG([8, "M", 12, 12, "M", 16, "M", 20, "M"], num_classes=0, mlp_ratio=0.01)
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return model


def whole(name: str) -> nn.Module:
    torch.manual_seed(7)
    return timm.create_model(name, num_classes=0).eval()  # type: ignore[no-any-return]


def saved(tensors: dict[str, Tensor], folder: Path, name: str = "trunk.safetensors") -> Path:
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / name)
    return folder / name


def first_stages(name: str, n_stages: int) -> dict[str, Tensor]:
    model = whole(name)
    kept = tensors_of_stages(model)[n_stages - 1]
    return {key: tensor for key, tensor in model.state_dict().items() if key in kept}


def patches(side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (3, side, side, 3), dtype=np.uint8)


def side_of(name: str) -> int:
    return 160 if name == "test_vit" else SIDE


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("pooling", ["stages", "covariance"])
def test_a_trunk_s_features_are_those_of_the_whole_backbone_s_stages(tmp_path: Path, name: str, pooling: str) -> None:
    side = side_of(name)
    spec = EncoderSpec(name, pooling=pooling, views=2)  # type: ignore[arg-type]
    complete = ImageEncoder.create(spec, saved(whole(name).state_dict(), tmp_path, "whole.safetensors"))
    trunk = ImageEncoder.create(spec, saved(first_stages(name, 2), tmp_path))
    assert trunk.block_names(side) == (f"{name}.stage0", f"{name}.stage1") == complete.block_names(side)[:2]
    assert trunk.block_sizes(side) == complete.block_sizes(side)[:2]
    features = trunk.features(patches(side))
    np.testing.assert_allclose(features, complete.features(patches(side))[:, : features.shape[1]], atol=1e-6)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_a_trunk_lacks_is_neither_run_nor_kept(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = ImageEncoder.create(EncoderSpec(name, pooling="covariance"), saved(first_stages(name, 2), tmp_path))
    kept = {key.removeprefix("backbone.") for key in trunk.state()}
    assert kept == set(first_stages(name, 2))
    ran: list[nn.Module] = []
    for module in trunk.modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(lambda ran_module, _inputs, _output: ran.append(ran_module))
    trunk.features(patches(side_of(name)))
    trunk_modules = {id(module) for module in trunk.members[0].model.modules()}
    assert {id(module) for module in ran} <= trunk_modules
    assert len(ran) > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_a_trunk_s_last_layer_is_the_mean_of_its_last_map(tmp_path: Path, name: str) -> None:
    file, side = saved(first_stages(name, 2), tmp_path), side_of(name)
    last = ImageEncoder.create(EncoderSpec(name, pooling="last"), file).features(patches(side))
    stages = ImageEncoder.create(EncoderSpec(name, pooling="stages"), file)
    width = stages.block_sizes(side)[1] // 2
    means = stages.features(patches(side))[:, -2 * width : -width]
    np.testing.assert_allclose(last, means, atol=1e-5)
    spec = EncoderSpec(name, pooling="covariance", last_layer=True)
    np.testing.assert_allclose(ImageEncoder.create(spec, file).features(patches(side))[:, -width:], means, atol=1e-5)


def test_one_line_says_which_stages_there_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = saved(first_stages("tiny_vgg", 3), tmp_path)
    with caplog.at_level(logging.INFO, logger="mclstexp"):
        ImageEncoder.create(EncoderSpec("tiny_vgg"), file)
    (line,) = caplog.messages
    assert line == "trunk.safetensors holds the first 3 of 5 stages of tiny_vgg: only these are computed and pooled"


@pytest.mark.parametrize("name", BACKBONES)
def test_a_file_with_a_hole_is_refused(tmp_path: Path, name: str) -> None:
    stages, tensors = tensors_of_stages(whole(name)), whole(name).state_dict()
    of_second = sorted(key for key in stages[1] - stages[0] if not key.endswith("num_batches_tracked"))
    hole = {key: tensor for key, tensor in tensors.items() if key != of_second[0]}
    with pytest.raises(InputError, match=rf"{name!r}: 1 of {len(tensors)} tensors missing"):
        ImageEncoder.create(EncoderSpec(name), saved(hole, tmp_path))
    beginning = min(stages[0])
    headless = {key: tensor for key, tensor in tensors.items() if key != beginning}
    with pytest.raises(InputError, match=r"1 of \d+ tensors missing"):
        ImageEncoder.create(EncoderSpec(name), saved(headless, tmp_path))


def test_a_stage_that_was_begun_is_left_out(tmp_path: Path) -> None:
    begun = {**first_stages("tiny_vgg", 1), "features.3.weight": whole("tiny_vgg").state_dict()["features.3.weight"]}
    encoder = ImageEncoder.create(EncoderSpec("tiny_vgg", pooling="stages"), saved(begun, tmp_path))
    assert encoder.block_sizes(SIDE) == (16,)


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    tensors = first_stages("tiny_vgg", 2)
    tensors["features.0.weight"] = torch.zeros(9, 3, 3, 3)
    with pytest.raises(InputError, match="1 of another shape"):
        ImageEncoder.create(EncoderSpec("tiny_vgg"), saved(tensors, tmp_path))


def test_a_model_keeps_its_trunk(cohort: list[Slide], tmp_path: Path) -> None:
    """Trained beside a whole encoder, saved, loaded: the same features, and nothing of what the trunk lacks."""
    from mclstexp.model.model import Model

    config = tiny_config(encoder__name="test_resnet,tiny_vgg", encoder__input_px=(64, 32), patch__size_px=64)
    file = saved(first_stages("tiny_vgg", 2), tmp_path)
    model = train(cohort[:3], recipe=config, encoder_weights=["random", file], device="cpu", cache=False)
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model", device="cpu", cache=False)
    assert loaded.digest == model.digest
    np.testing.assert_array_equal(loaded.embed_patches(cohort[3]), model.embed_patches(cohort[3]))
    assert not [name for name in loaded.encoder.state() if name.startswith("backbone.1.features.8")]
