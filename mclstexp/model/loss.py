"""The symmetric contrastive loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image: Tensor, spot: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the symmetric cross-entropy of matching each patch with its own spot.

    Equation 6 of the paper (arXiv 2407.08216), CLIP's loss: rows and columns of the logits are classified, the
    diagonal is right. Embeddings are taken as they are (the paper's are layer-normalised, not unit).

    Parameters
    ----------
    image, spot
        ``(b, d)`` embeddings, row i of one belonging to row i of the other.
    temperature
        Divides the logits.
    """
    logits = image @ spot.T / temperature  # (b, b)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def guessing_loss(batch_size: int) -> float:
    """Return the loss of a model that has learnt nothing: ln(batch size)."""
    return math.log(batch_size)
