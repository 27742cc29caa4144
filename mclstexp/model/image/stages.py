"""A backbone's stages: their feature maps, the tensors that each needs, and a backbone cut after some of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import Tensor, nn


def feature_maps(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the model's last features, and the map ``(b, c, h, w)`` of every stage: the stem, each group of blocks."""
    backbone: Any = model
    groups = _block_groups(model)
    if not groups:
        last, maps = backbone.forward_intermediates(x)
        return last, maps
    with _recorded(groups) as maps:
        last = backbone.forward_features(x)
    return last, maps


def trunk_maps(model: nn.Module, n_stages: int, x: Tensor) -> list[Tensor]:
    """Return the maps ``(b, c, h, w)`` of the stages of a model that was `cut`; nothing beyond them is run."""
    if _block_groups(model):
        return feature_maps(model, x)[1]
    backbone: Any = model
    maps: list[Tensor] = backbone.forward_intermediates(
        x, indices=list(range(n_stages)), stop_early=True, intermediates_only=True
    )
    return maps


def tensors_of_stages(model: nn.Module) -> list[frozenset[str]]:
    """Return the names of the tensors that the first stage needs, the first two, and so on.

    Empty where the model cannot be cut: timm's have ``prune_intermediate_layers``, one of your own may lack it.
    """
    prune = getattr(model, "prune_intermediate_layers", None)
    if prune is None or (_block_groups(model) and "extra_blocks" not in signature(prune).parameters):
        return []
    needed = []
    for n_stages in range(1, _count_stages(model) + 1):
        part = _twin(model)
        cut(part, n_stages)
        needed.append(frozenset(part.state_dict()))
    return needed


def cut(model: nn.Module, n_stages: int) -> None:
    """Leave only the first stages of a model; the rest is neither computed nor saved from then on."""
    backbone: Any = model
    keywords = {"extra_blocks": True} if _block_groups(model) else {}
    backbone.prune_intermediate_layers([n_stages - 1], prune_norm=True, prune_head=True, **keywords)


def _count_stages(model: nn.Module) -> int:
    groups = _block_groups(model)
    if groups:
        return len(groups)
    twin: Any = _twin(model)
    (last,) = twin.prune_intermediate_layers(1)  # the last one: its place, counted from 0
    return int(last) + 1


def _twin(model: nn.Module) -> nn.Module:
    """Return a copy of a model's structure that shares its tensors."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _block_groups(model: nn.Module) -> list[nn.Module]:
    """Stem and groups of blocks of an EfficientNet-like backbone; empty for the others.

    timm lists five of EfficientNet's stages only, and the early ones it leaves out carry texture.
    """
    blocks = getattr(model, "blocks", None)
    stem = getattr(model, "bn1", None)
    if stem is None or not isinstance(blocks, nn.Sequential):
        return []
    return [stem, *blocks] if all(isinstance(block, nn.Sequential) for block in blocks) else []


@contextmanager
def _recorded(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of modules, in the order in which they run."""
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
