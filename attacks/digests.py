"""SHA-256 digests of what an audit looked at, so that a report can be tied to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from zkaudit.attacks.model import PublicModel


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Over names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def of_model(model: PublicModel) -> str:
    """Of all weights of the model."""
    return of_tensors(model.module.state_dict())
