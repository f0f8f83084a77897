"""A tap, and a group of taps that can be stacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.sites import Dependence, Site

State = Mapping[str, Tensor]


def as_it_is(x: Tensor, _start: State) -> Tensor:
    """The view of a tap that shows the input itself."""
    return x


@dataclass(frozen=True)
class Tap:
    """`rows(update)` is (k, m); the rows lie in the span of `view(x, start)`, (..., d) -> (..., m), over the site's inputs x.

    `start` holds the trainable tensors at the start of the round; taps whose view is the input itself have space "input".
    Where rows, too, need values of the start (AdaLoRA), they are those that the model holds when they are read.
    """

    kind: str
    parameters: tuple[str, ...]
    site: Site
    capacity: int  # the largest rank that `rows` can have
    rows: Callable[[State], Tensor]
    view: Callable[[Tensor, State], Tensor] = as_it_is
    space: str = "input"
    explanation: str = ""


@dataclass(frozen=True)
class Group:
    """Taps that show the same inputs through the same view, so that their rows can be stacked."""

    taps: tuple[Tap, ...]
    dependence: Dependence
    dimension: int = 0  # m, of what the view shows

    @property
    def site(self) -> Site:
        return self.taps[0].site

    @property
    def capacity(self) -> int:
        """The usable rank K: how many different inputs can be told apart exactly."""
        return sum(tap.capacity for tap in self.taps)

    def rows(self, update: State) -> Tensor:
        """All rows, each tap's scaled to the same norm so that none drowns the others in noise; (k, m)."""
        parts = [tap.rows(update).double() for tap in self.taps]
        return torch.cat([part / part.norm().clamp_min(1e-300) for part in parts])

    def view(self, x: Tensor, start: State) -> Tensor:
        """What the taps can see of inputs."""
        return self.taps[0].view(x, start)
