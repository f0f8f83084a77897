"""The evidence that an observation holds about tokens: rows of updates whose span is made of candidates' vectors.

One piece for each group of taps that sees single tokens (with or without their position), strongest first. Where clients train
on the same records in every round, the rounds' rows are stacked; otherwise it is the last round that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zkaudit.attacks import taps
from zkaudit.attacks.dager.observed import gradient
from zkaudit.attacks.defences import parse
from zkaudit.attacks.defences.projection import adapted_taps
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import LENGTH, Dependence, activations
from zkaudit.attacks.spans import Subspace
from zkaudit.attacks.taps import Group
from zkaudit.attacks.threat import Observation

BLOCK = 4096  # candidates at a time
SAME = 1e-5  # relative difference of inputs that are the same up to rounding
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


def blocks(model: PublicModel, pieces: Sequence[Evidence], longest: int) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
    """All candidates, some thousand at a time: position (0 if it does not matter), token ids (b,), each piece's view (b, m)."""
    sites = [piece.group.site for piece in pieces]
    for position in range(longest if pieces[0].positional else 1):
        for start in range(0, model.vocabulary, BLOCK):
            ids = torch.arange(start, min(start + BLOCK, model.vocabulary), device=model.device)
            seen = activations(model, sites, ids[:, None], torch.full_like(ids[:, None], position))
            yield position, ids, [piece.view(x[:, 0].double()) for piece, x in zip(pieces, seen, strict=True)]


def distances(
    model: PublicModel, pieces: Sequence[Evidence], spaces: Sequence[Subspace], longest: int
) -> Iterator[tuple[int, list[Tensor]]]:
    """For each position how far all tokens (V,) are from each piece's subspace, on the host, where p-values are computed."""
    far = [torch.ones(model.vocabulary, dtype=torch.float64, device=model.device) for _ in spaces]
    for position, ids, views in blocks(model, pieces, longest):
        for space, view, row in zip(spaces, views, far, strict=True):
            row[ids] = space.distances(view)
        if int(ids[-1]) == model.vocabulary - 1:
            yield position, [row.to("cpu", copy=True) for row in far]


def gather(observation: Observation) -> list[Evidence]:
    """All evidence about single tokens, by decreasing capacity; empty if the updates hold none."""
    single = rows_of(observation, Dependence.TOKEN, Dependence.POSITION)
    return sorted(single, key=lambda piece: -piece.group.capacity * (1 + (piece.group.taps[0].space == "input")))


def rows_of(observation: Observation, *wanted: Dependence) -> list[Evidence]:
    """The evidence of the groups whose inputs depend on just one of these.

    The inputs are those at the last round's start, which the model should hold; rounds whose inputs were others are left out.
    """
    model, federated = observation.model, observation.federated
    rounds = list(observation.rounds) if federated.same_batch else list(observation.rounds[-1:])
    known = adapted_taps(model, parse(observation.defence)) if observation.defence else None
    groups = [group for group in taps.groups(model, known) if group.dependence in wanted]
    told = []
    for one in rounds:
        sent = gradient(one, federated)  # without weight decay, which is public
        with model.holding(one.start):
            rows = [group.rows(sent) if _speaks(group, sent) else None for group in groups]
            told.append((one.start, rows, _inputs(model, groups) if len(rounds) > 1 else []))
    found: list[Evidence] = []
    for place, group in enumerate(groups):
        shown: list[tuple[Mapping[str, Tensor], Tensor]] = []
        for start, rows, inputs in told:
            own = rows[place]
            if own is not None and (len(rounds) == 1 or _alike(inputs[place], told[-1][2][place])):
                shown.append((start, own))
        if shown and group.taps[0].space == "input":  # other views move with the weights
            shown = [(shown[0][0], torch.cat([own for _, own in shown]))]
        found += [Evidence(group, own, partial(_view, group, start)) for start, own in shown]
    return found


def _inputs(model: PublicModel, groups: Sequence[Group]) -> list[Tensor]:
    """What each group's site sees of some tokens with the weights that the model holds."""
    ids = torch.randint(model.vocabulary, (1, LENGTH), generator=torch.Generator().manual_seed(2)).to(model.device)
    return activations(model, [group.site for group in groups], ids) if groups else []


def _alike(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= SAME * b.norm())


def _view(group: Group, start: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return group.view(x, start)


def _speaks(group: Group, sent: Mapping[str, Tensor]) -> bool:
    whole = max(float(value.norm()) for value in sent.values())
    return any(float(tap.rows(sent).norm()) > SILENT * whole for tap in group.taps)
