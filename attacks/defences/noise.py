"""Gaussian noise on what is sent, relative to the root mean square of each tensor: g + s rms(g) N(0, 1).

It has no (epsilon, delta): nothing bounds what one record contributes. With it the attack's curve over the noise is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zkaudit.attacks.defences.defence import Defence, Kind, arguments, number


def noisy(tensors: dict[str, Tensor], generator: torch.Generator, relative: float) -> dict[str, Tensor]:
    """Each tensor plus noise of standard deviation `relative` times its root mean square."""
    return {
        name: value
        + relative * value.square().mean().sqrt() * torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value)
        for name, value in tensors.items()
    }


def _make(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 1, 1)
    relative = number(text, given[0], "noise", 0, float("inf"))
    return Defence(text, lambda tensors, generator: noisy(tensors, generator, relative))


KINDS = (
    Kind(
        "noise",
        "noise:0.01",
        "Gaussian noise on the update, relative to each tensor's root mean square",
        "rounds on the same records average it out; small noise only breaks thresholds, ranking survives",
        _make,
    ),
)
