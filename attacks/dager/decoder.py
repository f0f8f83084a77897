"""The sentence stage for causal models: grow sequences from the left, keep those whose next input lies in the span.

A position's input depends on the tokens up to it, so a kept sequence is extended by every candidate and only the new position
is tested. Extensions of one sequence share a forward pass: all candidates follow it side by side and a mask hides them from
each other. The search keeps at most `beam` sequences, so it cannot explode; the published one is unbounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress
from zkaudit.attacks.dager.options import DagerOptions
from zkaudit.attacks.dager.search import Found, Result
from zkaudit.attacks.dager.stages import Stage
from zkaudit.attacks.dager.tokens import CONSISTENT, FLOOR, given
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import activations

USUAL = 0.3  # measured: logarithm of a true input's distance over the one that noise explains
TAIL = 2.0  # nats lost for each nat beyond
SIBLING = 2.0  # nats: an extension that much less likely than another of the same sequence is dropped unless it is sure
WIDTH = 8  # kept sequences for each record, at least
DECOYS = 16  # random tokens that show what distance a wrong extension has


@dataclass
class Kept:
    """Sequences (S, T) with distance and gain (`likelihood`) at each position, and whether all passed."""

    ids: Tensor
    distances: Tensor
    gains: Tensor
    passed: Tensor

    def take(self, index: Tensor) -> Kept:
        return Kept(self.ids[index], self.distances[index], self.gains[index], self.passed[index])

    def joined(self, other: Kept) -> Kept:
        return Kept(
            torch.cat([self.ids, other.ids]),
            torch.cat([self.distances, other.distances]),
            torch.cat([self.gains, other.gains]),
            torch.cat([self.passed, other.passed]),
        )

    def found(self) -> list[Found]:
        columns = (self.ids, self.distances.mean(1), self.gains.sum(1), self.passed)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Found(tuple(ids), distance, gain, passed) for ids, distance, gain, passed in rows]


def search(
    model: PublicModel,
    stage: Stage,
    at: Callable[[int], Sequence[int]],
    records: int,
    longest: int,
    threshold: float,
    options: DagerOptions,
    progress: Progress,
) -> Result:
    """Grow sequences from the candidates `at` each position; complete are those none of whose extensions passes.

    Published: an input passes if its distance is below `threshold`. Calibrated: if noise explains its distance, up to
    CONSISTENT times, and chance has twice of it; what is usual for the sequence so far counts as noise too.
    The `records` best failures of each length are followed as well.
    """
    end = model.tokenizer.eos_token_id
    nothing = torch.zeros(1, 0)
    kept = Kept(nothing.long(), nothing.double(), nothing.double(), torch.ones(1).bool())
    complete: list[Found] = []
    failed: list[Found] = []
    passing = []
    bounded = False
    for position in range(longest):
        tokens = torch.tensor([token for token in at(position) if not (options.published and token == end)])
        if len(tokens) == 0:
            break
        new, accepted = _extend(model, stage, kept, tokens.to(torch.long), threshold, options)
        if position > int(options.published):
            done = kept.passed & ~accepted.any(1)
            complete += kept.take(done.nonzero()[:, 0]).found()
        passing.append(int(accepted.sum()))
        good = new.take(accepted.flatten().nonzero()[:, 0])
        bad = new.take((~accepted.flatten()).nonzero()[:, 0])
        width = max(options.beam, WIDTH * records)
        if len(good.ids) > width:
            bounded = True
            good = good.take(_diverse(good, width, 2 * records, options))
        bad = bad.take(_spread(bad, records, options))
        failed += bad.found()
        ended = good.ids[:, -1] == (-1 if end is None else end)
        complete += good.take(ended.nonzero()[:, 0]).found()
        good = good.take((~ended).nonzero()[:, 0])
        progress("ordering tokens", (position + 1) / longest)
        if len(good.ids) == 0 and (options.published or complete):
            kept = good
            break
        kept = good.joined(bad)
    if kept.ids.shape[1]:
        complete += [found for found in kept.found() if found.passed]
    return Result(complete, failed, {"passing": passing}, bounded)


def _extend(
    model: PublicModel, stage: Stage, kept: Kept, tokens: Tensor, threshold: float, options: DagerOptions
) -> tuple[Kept, Tensor]:
    """Every sequence by every token, in the order of a product, and which passed, (S, C)."""
    count, choices = len(kept.ids), len(tokens)
    decoys = torch.randint(model.vocabulary, (DECOYS,), generator=torch.Generator().manual_seed(options.seed))
    offered = tokens if options.published else torch.cat([tokens, decoys])
    found = extensions(model, stage, kept.ids, offered, options.block).double()
    distances = found[:, :choices, 0]
    gains = torch.zeros_like(distances)
    if options.published:
        below = distances < threshold
    else:
        chance = found[:, choices:, 0].median(1, keepdim=True).values
        explained = found[:, :choices, 1].clamp_min(FLOOR / CONSISTENT)
        typical = explained
        if kept.distances.shape[1]:
            typical = torch.maximum(explained, kept.distances.clamp_min(1e-7).log().mean(1, keepdim=True).exp())
        below = (distances <= CONSISTENT * typical) & (distances <= chance / 2)
        gains = likelihood(distances, explained, chance)
        if kept.ids.shape[1]:  # a token repeated from the start may be seen as itself alone, so repeating it shows nothing
            repeats = (kept.ids == kept.ids[:, :1]).all(1)[:, None] & (tokens == kept.ids[:, :1])
            gains = gains.masked_fill(repeats, 0.0)
        sure = distances <= (2 * explained).clamp_min(FLOOR)
        below &= sure | (gains >= gains.max(1, keepdim=True).values - SIBLING)
    accepted = below & kept.passed[:, None]
    rows = torch.arange(count).repeat_interleave(choices)
    new = Kept(
        torch.cat([kept.ids[rows], tokens.repeat(count)[:, None]], 1),
        torch.cat([kept.distances[rows], distances.reshape(-1, 1)], 1),
        torch.cat([kept.gains[rows], gains.reshape(-1, 1)], 1),
        accepted.flatten(),
    )
    return new, accepted


def likelihood(distances: Tensor, explained: Tensor, chance: Tensor) -> Tensor:
    """How much likelier a distance is in the batch than by chance, in nats up to a constant.

    In the batch a distance is about what noise explains, with a heavy tail (what the noise hid of the span is missing in it);
    where noise explains none of them, its scale is taken from the nearest.
    """
    ratio = (distances.clamp_min(1e-9) / explained).log()
    strange = (ratio - ratio.min().clamp_min(USUAL)).clamp_min(0)
    return (chance / 2 / torch.maximum(distances, explained)).log() - TAIL * strange


def _spread(bad: Kept, count: int, options: DagerOptions) -> Tensor:
    """Indices of the `count` best that are no versions of each other."""
    score = bad.distances.mean(1) if options.published else -bad.gains.sum(1)
    score = score.clone()
    chosen = []
    for _ in range(min(count, len(score))):
        index = int(score.argmin())
        if not torch.isfinite(score[index]):
            break
        chosen.append(index)
        agree = (bad.ids == bad.ids[index]).sum(1) >= options.distinct * bad.ids.shape[1]
        score[agree] = torch.inf
    return torch.tensor(chosen, dtype=torch.long)


def _diverse(good: Kept, width: int, clusters: int, options: DagerOptions) -> Tensor:
    """Indices of `width` with the best gains, at most an even share of versions of each of the `clusters` best."""
    score = -good.gains.sum(1)
    if options.published:
        return good.distances.mean(1).argsort()[:width]
    left = torch.ones(len(score)).bool()
    chosen = []
    for leader in _spread(good, clusters, options).tolist():
        agree = (good.ids == good.ids[leader]).sum(1) >= options.distinct * good.ids.shape[1]
        members = (agree & left).nonzero()[:, 0]
        left[members] = False
        chosen.append(members[score[members].argsort()[: max(1, width // clusters)]])
    rest = left.nonzero()[:, 0]
    return torch.cat([*chosen, rest[score[rest].argsort()]])[:width]


def extensions(model: PublicModel, stage: Stage, prefixes: Tensor, tokens: Tensor, block: int) -> Tensor:
    """For prefixes (S, T), each followed by each of `tokens` (C,): distance and the distance expected of a true one, (S, C, 2).

    Candidates share a pass if the model takes a mask of four dimensions and agrees with a plain pass on it.
    """
    packed = len(tokens) > 1 and prefixes.shape[1] > 0 and _packs(model, stage, prefixes[:1], tokens[:2])
    parts = []
    per = max(1, block * 16 // max(1, prefixes.shape[1])) if packed else block
    for some in torch.split(tokens, per):
        rows = max(1, block * 16 // (prefixes.shape[1] + len(some))) if packed else max(1, block // len(some))
        parts.append(
            torch.cat([(_packed if packed else _plain)(model, stage, few, some) for few in torch.split(prefixes, rows)])
        )
    return torch.cat(parts, 1)


def _measured(stage: Stage, inputs: Tensor) -> Tensor:
    return torch.stack(stage.measured(inputs), -1).cpu()


def _plain(model: PublicModel, stage: Stage, prefixes: Tensor, tokens: Tensor) -> Tensor:
    count, choices = len(prefixes), len(tokens)
    ids = torch.cat([prefixes.repeat_interleave(choices, 0), tokens.repeat(count)[:, None]], 1).to(model.device)
    (seen,) = activations(model, [stage.group.site], ids)
    return _measured(stage, seen[:, -1].view(count, choices, -1))


def _packed(model: PublicModel, stage: Stage, prefixes: Tensor, tokens: Tensor) -> Tensor:
    count, length, choices = len(prefixes), prefixes.shape[1], len(tokens)
    ids = torch.cat([prefixes, tokens.expand(count, -1)], 1).to(model.device)
    positions = torch.cat([torch.arange(length), torch.full((choices,), length)]).expand(count, -1).to(model.device)
    sees = torch.ones(length + choices, length + choices).tril().bool()
    sees[length:, length:] = torch.eye(choices).bool()
    number = model.embedding.weight.dtype  # attention reads a mask of another type wrongly, without an error
    mask = torch.zeros(sees.shape, dtype=number).masked_fill(~sees, torch.finfo(number).min)
    with given(model, attention_mask=mask.expand(count, 1, -1, -1).to(model.device)):
        (seen,) = activations(model, [stage.group.site], ids, positions)
    return _measured(stage, seen[:, length:])


def _packs(model: PublicModel, stage: Stage, prefix: Tensor, tokens: Tensor) -> bool:
    try:
        packed = _packed(model, stage, prefix, tokens)
    except (RuntimeError, ValueError, TypeError, IndexError):  # a model that takes no such mask
        return False
    return bool((packed - _plain(model, stage, prefix, tokens)).abs().max() < 1e-5)
