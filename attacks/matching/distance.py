"""How far one gradient is from another, as published attacks measure it. Gradients are sequences of tensors in one order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Gradient = Sequence[Tensor]
Distance = Callable[[Gradient, Gradient], Tensor]  # of a candidate's gradient from the observed one; a differentiable scalar
NEGLIGIBLE = 1e-6  # of the largest tensor's norm: below it a gradient is rounding, its direction means nothing


def squared(found: Gradient, observed: Gradient) -> Tensor:
    """Sum of squared differences over all entries (DLG, Zhu et al. 2019, eq. 4)."""
    return torch.stack([(a - b).square().sum() for a, b in zip(found, observed, strict=True)]).sum()


def squared_and_absolute(alpha: float) -> Distance:
    """Squares plus `alpha` times absolute differences (TAG, Deng et al. 2021, eq. 4, one alpha for all layers)."""

    def distance(found: Gradient, observed: Gradient) -> Tensor:
        absolute = torch.stack([(a - b).abs().sum() for a, b in zip(found, observed, strict=True)]).sum()
        return squared(found, observed) + alpha * absolute

    return distance


def cosine(found: Gradient, observed: Gradient) -> Tensor:
    """1 - cosine of the angle, averaged over tensors (LAMP, Balunovic et al. 2022, section 4.1); from 0 to 2.

    Tensors whose observed gradient is nothing but rounding are left out (LoRA A while B = 0, biases of attention keys).
    """
    floor = NEGLIGIBLE * max(float(b.norm()) for b in observed)
    angles = []
    for a, b in zip(found, observed, strict=True):
        size = b.norm()
        if size > floor:
            angles.append((a / a.norm().clamp_min(1e-30) - b / size).square().sum() / 2)  # 1 - cosine, exact near 0
    return torch.stack(angles).mean()
