"""The evidence that an observation holds about tokens: rows of updates whose span is made of candidates' vectors.

One piece for each group of taps that sees single tokens (with or without their position), strongest first. Where clients train
on the same records in every round, the rounds' rows are stacked; otherwise it is the last round that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks import taps
from zkaudit.attacks.defences import parse
from zkaudit.attacks.defences.projection import adapted_taps
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Dependence, token_activations
from zkaudit.attacks.taps import Group
from zkaudit.attacks.threat import Observation, Round

SILENT = 1e-12  # rows smaller than this, relative to the whole update, hold nothing: A's gradient while B = 0


@dataclass(frozen=True)
class Evidence:
    """`rows` (k, m) lie in the span of `view(x)` over the inputs x (..., d) of the group's site."""

    group: Group
    rows: Tensor
    view: Callable[[Tensor], Tensor]

    @property
    def positional(self) -> bool:
        """Whether a candidate is a token at a position, not a token alone."""
        return self.group.dependence == Dependence.POSITION

    def candidates(self, model: PublicModel, longest: int) -> Iterator[tuple[int, Tensor]]:
        """Position and what every token (V, m) would look like there; a single position 0 if it does not matter."""
        for position in range(longest if self.positional else 1):
            yield position, self.view(token_activations(model, self.group.site, position).double())


def gather(observation: Observation) -> list[Evidence]:
    """All evidence about single tokens, by decreasing capacity; empty if the updates hold none."""
    single = [*rows_of(observation, Dependence.TOKEN), *rows_of(observation, Dependence.POSITION)]
    return sorted(single, key=lambda piece: -piece.group.capacity * (1 + (piece.group.taps[0].space == "input")))


def rows_of(observation: Observation, dependence: Dependence) -> list[Evidence]:
    """The evidence of the groups whose inputs depend on just this."""
    rounds = list(observation.rounds) if observation.federated.same_batch else list(observation.rounds[-1:])
    found: list[Evidence] = []
    known = adapted_taps(observation.model, parse(observation.defence)) if observation.defence else None
    for group in taps.groups(observation.model, known):
        if group.dependence != dependence:
            continue
        told = [one for one in rounds if _speaks(group, one)]
        if not told:
            continue
        if group.taps[0].space == "input":
            rows = torch.cat([group.rows(one.update.tensors) for one in told])
            found.append(Evidence(group, rows, lambda x, group=group, one=told[0]: group.view(x, one.start)))  # type: ignore[misc]
        else:  # the view moves with the weights
            found += [
                Evidence(group, group.rows(one.update.tensors), lambda x, group=group, one=one: group.view(x, one.start))  # type: ignore[misc]
                for one in told
            ]
    return found


def _speaks(group: Group, one: Round) -> bool:
    whole = max(float(value.norm()) for value in one.update.tensors.values())
    return any(float(tap.rows(one.update.tensors).norm()) > SILENT * whole for tap in group.taps)
