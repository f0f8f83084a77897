"""Token recovery by joint sparse pursuit (sparse.py), from all evidence about single tokens, far beyond an update's rank.

Candidates are the vocabulary, at each position where the model embeds positions. A first look at all, some thousand at a time,
keeps those that score best and a random sample, which stands for the others when nulls are fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.evidence import BLOCK, Evidence, blocks, gather
from zkaudit.attacks.spans import gap_rank
from zkaudit.attacks.sparse import EXPLAINED, SAMPLE, Part, Picks, PursuitOptions, compressed, log_p_values, pursue
from zkaudit.attacks.threat import Capability, Observation


class Pursuit:
    """Token recovery by joint sparse pursuit, exact and soft regimes alike. Evidence: order, expected false hits, positions."""

    name = "pursuit"
    needs = Capability.UPDATE

    def __init__(self, options: PursuitOptions | None = None) -> None:
        self.options = options or PursuitOptions()

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """AuditError if no trained tensor sees single tokens."""
        with observation.model.holding(observation.last.start):
            return self._pursued(observation, progress)

    def _pursued(self, observation: Observation, progress: Progress) -> Recovery:
        pieces = gather(observation)
        if not pieces:
            raise AuditError("pursuit needs a trained tensor that sees single tokens (a first-layer module); there is none")
        pieces = [piece for piece in pieces if piece.positional == pieces[0].positional]
        rows = [compressed(piece.rows) for piece in pieces]
        informative = [i for i, y in enumerate(rows) if len(y) < y.shape[1]] or [0]
        pieces, rows = [pieces[i] for i in informative], [rows[i] for i in informative]
        most = self.options.most or observation.most_tokens
        records = observation.federated.records * observation.federated.cohort
        found: tuple[_Pool, Picks] | None = None
        deficient = any(gap_rank(torch.linalg.svdvals(piece.rows.double())) < min(piece.rows.shape) for piece in pieces)
        for floor in (self.options.floor, *((self.options.low_floor,) if deficient else ())):
            options = replace(self.options, floor=floor)
            pool = _pool(observation, pieces, rows, options, progress)
            parts = list(zip(pool.atoms, rows, strict=True))
            picks = pursue(parts, pool.positions, most, records, pool.sample, pool.total, options, progress)
            if found is None or picks.claimed > 2 * found[1].claimed + 2:  # clearly more, not by a chance hit
                found = pool, picks
            if picks.left < EXPLAINED and picks.claimed == len(picks.order):
                break
        assert found is not None
        return _recovery(self.name, *found, rows)


@dataclass(frozen=True)
class _Pool:
    """Candidates that are pursued: N of `total`, those at `sample` drawn at random."""

    atoms: list[Tensor]  # one (N, m) a piece, of unit norm
    tokens: list[int]  # N
    positions: Tensor  # (N,), -1 where positions do not matter
    sample: Tensor
    total: int  # candidates there are
    first: Tensor  # (V,) how well each token looks at first sight, at its best position: the sum of -log p; on the host


def _pool(
    observation: Observation, pieces: Sequence[Evidence], rows: Sequence[Tensor], options: PursuitOptions, progress: Progress
) -> _Pool:
    """The candidates that look best at first sight, and a random sample of all."""
    model, longest = observation.model, observation.federated.longest
    generator = torch.Generator().manual_seed(0)
    positions = longest if pieces[0].positional else 1
    best = torch.full((model.vocabulary,), -1.0)
    parts = positions * -(-model.vocabulary // BLOCK)
    kept: list[tuple[Tensor, Tensor, Tensor, list[Tensor]]] = []  # score, token, position, atoms
    sampled: list[tuple[Tensor, Tensor, list[Tensor]]] = []
    for number, (position, ids, views) in enumerate(blocks(model, pieces, longest)):
        atoms = [_unit(view).float() for view in views]
        looks = [Part(a, y, options.floor).scores() for a, y in zip(atoms, rows, strict=True)]
        score = torch.stack([each for each, _ in looks]).mean(0)
        log_p = [log_p_values(each, rank, each, a.shape[1]) for (each, rank), a in zip(looks, atoms, strict=True)]
        own = ids.cpu()
        # The sum, not the p-value that follows from it: that is 1 for all once tokens outnumber the dimensions.
        best[own] = torch.maximum(best[own], -torch.stack(log_p).sum(0).float())
        top = score.topk(min(len(score), max(2 * options.pool // parts, 256))).indices
        place = position if pieces[0].positional else -1
        kept.append((score[top], ids[top], torch.full_like(top, place), [a[top] for a in atoms]))
        drawn = torch.randperm(len(score), generator=generator)[: -(-SAMPLE // parts)].to(ids.device)
        sampled.append((ids[drawn], torch.full_like(drawn, place), [a[drawn] for a in atoms]))
        progress("looking at candidates", (number + 1) / parts)
    count = sum(len(part[0]) for part in kept)
    tokens = torch.cat([part[1] for part in kept] + [part[0] for part in sampled])
    place_of = torch.cat([part[2] for part in kept] + [part[1] for part in sampled])
    atoms = [torch.cat([part[3][i] for part in kept] + [part[2][i] for part in sampled]) for i in range(len(pieces))]
    sample = torch.arange(count, len(tokens), device=tokens.device)
    return _Pool(atoms, tokens.tolist(), place_of, sample, model.vocabulary * positions, best)


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    return unit


def _recovery(name: str, pool: _Pool, picks: Picks, rows: Sequence[Tensor]) -> Recovery:
    """Claimed tokens first, then other picks if together they explain the rows, then all others by their first score."""
    claimed = len({pool.tokens[i] for i in picks.order[: picks.claimed]})
    ahead = picks.order if picks.left < EXPLAINED else picks.order[: picks.claimed]
    picked = list(dict.fromkeys(pool.tokens[i] for i in ahead))
    rest = pool.first.clone()
    rest[picked] = -math.inf
    others = rest.argsort(descending=True, stable=True)[: len(rest) - len(picked)]
    top, positions = float(pool.first.max()), pool.positions.tolist()
    scores = [top + len(picked) - i for i in range(len(picked))] + pool.first[others].tolist()
    evidence = {
        "singular_values": torch.linalg.svdvals(rows[0].double())[:256].tolist(),
        "rank": len(rows[0]),
        "dimension": rows[0].shape[1],
        "picks": [(pool.tokens[i], positions[i]) for i in picks.order],
        "claimed_picks": picks.claimed,
        "false_hits": picks.false_hits,
        "unexplained": picks.left,
    }
    return Recovery(name, Ranking(picked + others.tolist(), scores, claimed), evidence=evidence)
