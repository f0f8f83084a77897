"""The sentence stage for encoders: every input depends on the whole sequence, so whole sequences are tried.

Published: for each end, all combinations of the tokens found at each position, or random ones beyond a limit, by the mean
distance of the next block's inputs. Calibrated: the same where combinations are few; otherwise a beam that changes one
position at a time, since a sequence with fewer strange tokens lies nearer to the span, and again with the tokens that are left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress
from zkaudit.attacks.dager.decoder import DECOYS
from zkaudit.attacks.dager.options import DagerOptions
from zkaudit.attacks.dager.search import Found, Result, similar
from zkaudit.attacks.dager.stages import Stage
from zkaudit.attacks.dager.tokens import CONSISTENT, FLOOR, Candidates, given
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import activations

MOST = {"published": 10**7, "calibrated": 70_000}  # combinations tried at one length: four tokens at each of eight positions
CLIMB = 5_000  # sequences tried by the beam at one length
WIDTH = 4  # sequences in the beam that changes one position at a time


def search(
    model: PublicModel,
    stage: Stage,
    tokens: Candidates,
    records: int,
    threshold: float,
    options: DagerOptions,
    progress: Progress,
) -> Result:
    """The best `records` sequences of each possible end; those that passed have a mean distance below the threshold.

    Calibrated: a mean distance that noise explains, and nearer to that than to chance.
    """
    pools = [list(tokens.at(position)) for position in range(len(tokens.survivors))]
    pools = pools[: next((i for i, pool in enumerate(pools) if not pool), len(pools))]
    generator = torch.Generator().manual_seed(options.seed)
    complete: list[Found] = []
    failed: list[Found] = []
    tried, bounded = [], False
    possible = ends(model, tokens, pools, options)
    separator = model.tokenizer.sep_token_id
    if options.published:
        pools = [pool[:records] for pool in pools]  # as their script for BERT has it
    else:
        possible.reverse()  # the longest first: what they use up makes the others few
    for number, (length, segment) in enumerate(possible):
        score = _Score(model, stage, segment, options)
        while True:
            left = _without(pools[:length], [found.ids for found in complete])
            if separator in tokens.at(length - 1):
                left[-1] = [separator]
            combinations = math.prod(map(len, left))
            limit = options.combinations or MOST[options.setting]
            bounded |= combinations > limit
            climbs = combinations > limit and not options.published
            offered = (
                iter([_climb(score, left, min(limit, CLIMB), generator)])
                if climbs
                else _products(left, limit, options.block, generator)
            )
            top: list[Found] = []
            for ids in offered:
                top = _merge(top, score.found(ids, threshold), records, options.distinct)
            new = [found for found in top if found.passed and found not in complete]
            complete += new
            failed += [found for found in top if not found.passed]
            if not (climbs and new) or len(complete) >= records:  # fewer tokens are left: once more
                break
        tried.append(score.seen)
        progress("ordering tokens", (number + 1) / len(possible))
        if len(complete) >= records and not options.published:
            break
    complete = list({found.ids: found for found in sorted(complete, key=lambda found: -found.gain)}.values())
    return Result(complete, failed, {"sequences tried": tried, "ends": [length for length, _ in possible]}, bounded)


def ends(
    model: PublicModel, tokens: Candidates, pools: Sequence[Sequence[int]], options: DagerOptions
) -> list[tuple[int, int]]:
    """Possible lengths with the kind of segment there: where the separator survives; without one, where tokens grow fewer."""
    separator = model.tokenizer.sep_token_id
    found = []
    for position, pool in enumerate(pools):
        if separator is not None and separator in pool:
            found.append((position + 1, tokens.kinds[position][list(pool).index(separator)]))
    if found:
        return found
    sizes = [*map(len, pools), 0]
    for length in range(1, len(sizes)):
        if sizes[length] < sizes[length - 1] or (not options.published and sizes[length] > sizes[length - 1]):
            found.append((length, tokens.kinds[length - 1][0]))
    return found


def _without(pools: Sequence[list[int]], sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Pools less the tokens of accepted sequences, but for the last of a pool."""
    left = [list(pool) for pool in pools]
    for ids in sequences:
        for pool, token in zip(left, ids, strict=False):
            if token in pool and len(pool) > 1:
                pool.remove(token)
    return left


def _products(pools: Sequence[Sequence[int]], limit: int, block: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All combinations, or `limit` random ones, in blocks (block, T)."""
    sizes = torch.tensor([len(pool) for pool in pools])
    total = math.prod(sizes.tolist())
    table = torch.tensor([list(pool) + [0] * (int(sizes.max()) - len(pool)) for pool in pools])
    columns = torch.arange(len(pools))
    for start in range(0, min(total, limit), block):
        count = min(block, min(total, limit) - start)
        if total > limit:
            choice = (torch.rand(count, len(pools), generator=generator) * sizes).long()
        else:
            number = torch.arange(start, start + count)
            digits = []
            for size in reversed(sizes.tolist()):
                digits.append(number % size)
                number = number // size
            choice = torch.stack(digits[::-1], 1)
        yield table[columns, choice]


class _Score:
    """Mean distances of sequences of one length, and what chance and noise would give."""

    def __init__(self, model: PublicModel, stage: Stage, segment: int, options: DagerOptions) -> None:
        self.model, self.stage, self.options = model, stage, options
        self.more = {"token_type_ids": torch.tensor([[segment]], device=model.device)} if segment else {}
        self.seen = 0

    def measure(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Mean distance, and mean expected distance of a sequence of the batch; (S,) each."""
        self.seen += len(ids)
        distances, expected = [], []
        for part in torch.split(ids, self.options.block):
            more = {name: value.expand(part.shape) for name, value in self.more.items()}
            with given(self.model, **more):
                (seen,) = activations(self.model, [self.stage.group.site], part.to(self.model.device))
            distance, explained = self.stage.measured(seen)
            distances.append(distance.mean(1).double().cpu())
            expected.append(explained.mean(1).double().cpu())
        return torch.cat(distances), torch.cat(expected)

    def found(self, ids: Tensor, threshold: float) -> list[Found]:
        """Sequences (S, T) with their scores."""
        distances, expected = self.measure(ids)
        generator = torch.Generator().manual_seed(self.options.seed)
        decoys = torch.randint(self.model.vocabulary, (DECOYS, ids.shape[1]), generator=generator)
        chance = float(self.measure(decoys)[0].median())
        if self.options.published:
            passed = distances < threshold
        else:
            expected = expected.clamp_min(FLOOR / CONSISTENT)
            passed = (distances <= CONSISTENT * expected) & (distances <= (chance * expected).sqrt())
        gains = (chance / 2 / distances.clamp_min(1e-7)).log() * ids.shape[1]
        keep = distances.argsort()[: self.options.block]
        return [Found(tuple(ids[i].tolist()), float(distances[i]), float(gains[i]), bool(passed[i])) for i in keep.tolist()]


def _merge(top: list[Found], new: list[Found], count: int, distinct: float) -> list[Found]:
    """The `count` nearest of both that are no versions of a nearer one."""
    chosen: list[Found] = []
    for found in sorted([*top, *new], key=lambda found: found.distance):
        if len(chosen) >= count:
            break
        if not any(similar(found.ids, known.ids, distinct) for known in chosen):
            chosen.append(found)
    return chosen


def _climb(score: _Score, pools: Sequence[Sequence[int]], limit: int, generator: torch.Generator) -> Tensor:
    """Sequences (S, T) at which no change of one position lowers the mean distance, from random beams, within `limit` tries."""
    results: list[Tensor] = []
    limit += score.seen
    while score.seen < limit or not results:
        beam = torch.cat(list(_sampled(pools, WIDTH, generator)))
        distances, _ = score.measure(beam)
        while score.seen < limit:
            changed = _changes(beam, pools)
            if len(changed) == 0:
                break
            after, _ = score.measure(changed)
            everything, values = torch.cat([beam, changed]), torch.cat([distances, after])
            order = values.argsort()[:WIDTH]
            if float(values[order[0]]) >= float(distances.min()) * (1 - 1e-6):
                break
            beam, distances = everything[order], values[order]
        results.append(beam)
    tried: Tensor = torch.unique(torch.cat(results), dim=0)
    return tried


def _sampled(pools: Sequence[Sequence[int]], count: int, generator: torch.Generator) -> Iterator[Tensor]:
    return _products([[*pool] for pool in pools], count, count, generator)


def _changes(beam: Tensor, pools: Sequence[Sequence[int]]) -> Tensor:
    """All sequences that differ from one of the beam in one position."""
    rows = []
    for position, pool in enumerate(pools):
        for token in pool:
            changed = beam[beam[:, position] != token].clone()
            changed[:, position] = token
            rows.append(changed)
    if not rows:
        return beam[:0]
    changes: Tensor = torch.unique(torch.cat(rows), dim=0)
    return changes
