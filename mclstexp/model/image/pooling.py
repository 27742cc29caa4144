"""How a stage's feature maps become numbers: mean and deviation, or covariance."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mclstexp.types import FloatArray

MAX_STAGES = 10
"""Stages pooled at most; of a transformer's many blocks as many are taken at equal distances."""

MAX_CHANNELS = 32
"""Channels whose covariance is pooled; 64 and 128 gained nothing (docs/decisions/default-recipe.md)."""

SMALLEST = 1e-12
"""Covariances below this count as none."""


def mean_std(maps: Tensor) -> Tensor:
    """Pool ``(b, c, h, w)`` to mean and standard deviation, ``(b, 2c)``."""
    flat = maps.float().flatten(2)  # (b, c, h*w)
    return torch.cat([flat.mean(dim=2), flat.std(dim=2, unbiased=False)], dim=1)


def covariance(maps: Tensor) -> Tensor:
    """Pool ``(b, c, h, w)`` to how the channels vary together over the patch: ``(b, m * (m + 1) / 2)``.

    The channels are first mixed by a fixed random rotation, down to ``m`` of at most ``MAX_CHANNELS``: it spreads the
    lively channels over every entry, so that entries brought to one scale are not mostly those of the faint ones.
    Entries are signed square roots, on the scale of the channels.
    """
    flat = maps.float().flatten(2)  # (b, c, h*w)
    flat = flat - flat.mean(dim=2, keepdim=True)
    with torch.autocast(flat.device.type, enabled=False):  # products of bfloat16 would lose small covariances
        columns = torch.tensor(mixing(flat.shape[1]), device=flat.device)  # (c, m)
        if flat.shape[1] > 2 * MAX_CHANNELS:
            flat = columns.T @ flat
            joint = flat @ flat.transpose(1, 2) / flat.shape[2]  # (b, m, m)
        else:  # few channels: the same, mixed at the end
            joint = columns.T @ (flat @ flat.transpose(1, 2) / flat.shape[2]) @ columns
    row, col = torch.triu_indices(joint.shape[1], joint.shape[1], device=joint.device)
    upper = joint[:, row, col]
    return upper / (upper.abs() + SMALLEST).sqrt()  # a blank has a gradient too


@cache
def mixing(n_channels: int) -> FloatArray:
    """Return random orthonormal columns ``(n_channels, m)``, from a hash: the same on any machine."""
    shape = (n_channels, min(n_channels, MAX_CHANNELS))
    drawn = np.frombuffer(hashlib.shake_256(b"%d" % n_channels).digest(4 * shape[0] * shape[1]), dtype="<u4")
    columns, triangle = np.linalg.qr(drawn.reshape(shape) / 2.0**31 - 1.0)
    return np.asarray(columns * np.sign(np.diagonal(triangle)), dtype=np.float32)


def evenly_spaced(n_stages: int) -> list[int]:
    """Return the places of at most ``MAX_STAGES`` of the stages, equally far apart, the last among them."""
    return [int(place) for place in np.linspace(0, n_stages - 1, min(n_stages, MAX_STAGES)).round()]
