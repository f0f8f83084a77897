"""The token filter: which tokens can stand at which position, from first-layer evidence or another attack's ranking.

Exact regime (the rows have a rank below their capacity, so n <= K): candidates whose distance from the observed span is no more
than rounding, and has a calibrated p-value with fewer than `false_hits` expected among all. With learned positions the span of
(token a, place p), (a, q) and (b, p) holds (b, q) too, up to the norm: such candidates are left for the pairing to tell.

Soft regime (n > K): at each position the `keep` candidates a record that lie nearest to the span, that is, ranked by cos^2.

(ReCIT filters too; where and by which threshold could not be read. `false_hits`, `slack`, `keep` and `exact` vary it.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.evidence import Evidence, distances, gather
from zkaudit.attacks.spans import Subspace, fisher, subspace
from zkaudit.attacks.threat import Observation


@dataclass(frozen=True)
class FilterOptions:
    """`slack`: how far from the span, against the largest singular value left out over the smallest kept, rounding may lie.

    `keep` candidates a record and position in the soft regime; `exact` False ranks always, which survives noise.
    """

    false_hits: float = 0.05
    slack: float = 30.0
    keep: int = 8
    exact: bool = True

    def __post_init__(self) -> None:
        if self.false_hits <= 0 or self.keep < 1:
            raise AuditError("a filter keeps at least one candidate and allows a positive number of false hits")


@dataclass(frozen=True)
class Candidates:
    """`places[p]` are token ids that may stand at position p, likeliest first; with `positional` False there is one place for
    all positions, a bag. `ranking` is over the whole vocabulary."""

    places: Sequence[Sequence[int]]
    positional: bool
    regime: str
    ranking: Ranking
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def at(self, position: int) -> Sequence[int]:
        """What may stand at a position; nothing behind the last place."""
        if not self.positional:
            return self.places[0]
        return self.places[position] if position < len(self.places) else ()

    @property
    def count(self) -> int:
        """Candidates altogether."""
        return sum(map(len, self.places))


def span_filter(
    observation: Observation,
    options: FilterOptions = FilterOptions(),
    progress: Progress = silent,
) -> Candidates:
    """Candidates by distance from first-layer spans. AuditError if no trained tensor sees single tokens."""
    with observation.model.holding(observation.last.start):
        return _filtered(observation, options, progress)


def _filtered(observation: Observation, options: FilterOptions, progress: Progress) -> Candidates:
    pieces = gather(observation)
    if not pieces:
        raise AuditError(
            "the token filter needs a trained tensor that sees single tokens (a first-layer module); there is none"
        )
    pieces = [piece for piece in pieces if piece.positional == pieces[0].positional]
    spans = [subspace(piece.rows) for piece in pieces]
    chosen = [i for i, span in enumerate(spans) if _exact(pieces[i], span)] if options.exact else []
    regime = "exact" if chosen else "soft"
    chosen = chosen or [i for i, span in enumerate(spans) if 0 < span.rank < span.dimension] or [0]
    pieces, spans = [pieces[i] for i in chosen], [spans[i] for i in chosen]

    model, longest = observation.model, observation.federated.longest
    positions = longest if pieces[0].positional else 1
    records = observation.federated.records * observation.federated.cohort
    limit = math.log(options.false_hits / (model.vocabulary * positions))
    most = min(options.keep * records, model.vocabulary)
    best = torch.full((model.vocabulary,), -1.0, dtype=torch.float64)
    places: list[list[int]] = []
    claimed: set[int] = set()
    for place, rows in distances(model, pieces, spans, longest):
        far = torch.stack(rows)
        cosines = 1 - far.square().mean(0)
        best = torch.maximum(best, cosines)
        order = cosines.argsort(descending=True, stable=True)
        if regime == "exact":
            order = order[_inside(spans, far, options.slack, limit)[order]]
            claimed.update(order.tolist())
        else:
            order = order[:most]
        places.append(order.tolist())
        progress("filtering tokens", (place + 1) / positions)
    while places and not places[-1]:
        places.pop()
    best[list(claimed)] += 1  # they come first, whatever the mean over spans says
    ids = best.argsort(descending=True, stable=True)
    evidence = {"rank": spans[0].rank, "dimension": spans[0].dimension, "capacity": pieces[0].group.capacity}
    ranking = Ranking(ids.tolist(), best[ids].tolist(), len(claimed))
    return Candidates(places or [[]], pieces[0].positional, regime, ranking, evidence)


def ranked_filter(recovery: Recovery, observation: Observation, keep: int | None = None) -> Candidates:
    """Candidates from another attack: its picks (token, position) if its evidence lists them, else its claimed tokens as a bag.

    AuditError if it ranked no tokens.
    """
    if recovery.tokens is None:
        raise AuditError(f"the attack {recovery.attack} ranks no tokens, so it cannot be the filter of another")
    ranking = recovery.tokens
    picks = list(recovery.evidence.get("picks", ()))[:keep]
    evidence = {"filter": recovery.attack, "rank": recovery.evidence.get("rank")}
    if picks and all(position >= 0 for _, position in picks):
        places: list[list[int]] = [[] for _ in range(1 + max(position for _, position in picks))]
        for token, position in picks:
            places[position].append(token)
        return Candidates(places, True, "ranked", ranking, evidence)
    bag = list(ranking.ids[: keep or ranking.claimed or observation.most_tokens])
    return Candidates([bag], False, "ranked", ranking, evidence)


def _exact(piece: Evidence, span: Subspace) -> bool:
    """Whether the rows show a rank of their own, below what their number and the view's dimension force on them."""
    return 0 < span.rank < min(len(piece.rows), piece.group.capacity, span.dimension)


def _inside(spans: Sequence[Subspace], distances: Tensor, slack: float, limit: float) -> Tensor:
    """Which candidates lie in all spans, (V,), from their distances (spans, V); `limit` is that of the log of the p-value."""
    near = torch.ones(distances.shape[1], dtype=torch.bool)
    for span, distance in zip(spans, distances, strict=True):
        near &= distance < rounding(span, slack)
    log_p = [span.p_values(distance).clamp_min(1e-300).log() for span, distance in zip(spans, distances, strict=True)]
    return near & (fisher(log_p) < limit)


def rounding(span: Subspace, slack: float) -> float:
    """How far rounding may turn a vector out of its span: `slack` largest singular value left out / smallest kept."""
    left_out = max(float(span.singular[span.rank]), 1e-9 * float(span.singular[0]))
    return slack * left_out / float(span.singular[span.rank - 1])
