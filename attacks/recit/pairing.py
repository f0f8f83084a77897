"""Token pairing: candidates at positions put together into the records of the batch.

A sequence grows by the token b that maximises log p(b | prefix) - weight * dist(prefix, b), where dist is the distance of the
activation behind the first attention, which depends on the whole prefix, from the span that the update shows there. A beam
finds one record after the other; candidates that a record has used cost more for those that come later, so that the tokens of
different records do not mix. (ReCIT pairs tokens; how it scores pairs could not be read, so language, distance and exclusivity
can each be switched off.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.evidence import Evidence, rows_of
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.recit.decoding import next_log_probabilities
from zkaudit.attacks.recit.filter import Candidates, rounding
from zkaudit.attacks.sites import Dependence, activations
from zkaudit.attacks.spans import Subspace, subspace
from zkaudit.attacks.threat import Observation


@dataclass(frozen=True)
class PairingOptions:
    """Costs in nats: `weight` for a distance of 1, `reuse` for a candidate another record has, `end` for stopping short.

    A sequence is extended only by tokens that cost less than `end`. `shortlist` candidates a step, likeliest by the language
    model, have their distance computed; `sites` is how many places behind the first attention are averaged. `exact` False takes
    distances as they are even where they could be told from 0; `slack` is the filter's.
    """

    language: bool = True
    distance: bool = True
    exclusive: bool = True
    weight: float = 40.0
    reuse: float = 3.0
    end: float = 16.0
    beam: int = 8
    shortlist: int = 64
    sites: int = 1
    exact: bool = True
    slack: float = 30.0

    def __post_init__(self) -> None:
        if self.beam < 1 or self.shortlist < 1 or self.sites < 1:
            raise AuditError("pairing needs a beam, a shortlist and a number of sites of at least 1")


@dataclass(frozen=True)
class Paired:
    """A sequence of token ids, its score in nats above stopping at once, and its mean distance (0 without distances)."""

    ids: tuple[int, ...]
    score: float
    distance: float


@dataclass(frozen=True)
class Behind:
    """What the update shows of inputs that depend on the prefix; a distance above `tolerance` counts as 1.

    The tolerance is rounding's where the rows have a rank of their own (n <= K): an activation is in the span or it is not.
    """

    piece: Evidence
    span: Subspace
    tolerance: float = 1.0

    def distances(self, model: PublicModel, ids: Tensor) -> Tensor:
        """Of the last token of each sequence (N, T) in its context, (N,), on the host."""
        (seen,) = activations(model, [self.piece.group.site], ids.to(model.device))
        distances = self.span.distances(self.piece.view(seen[:, -1].double())).cpu()
        return torch.where(distances > self.tolerance, 1.0, distances)


def behind(observation: Observation, options: PairingOptions) -> list[Behind]:
    """Up to `options.sites` groups of taps behind the first attention that tell something, most rank to spare first."""
    found: list[tuple[bool, float, int, Behind]] = []
    for piece in rows_of(observation, Dependence.PREFIX):
        span = subspace(piece.rows)
        if 0 < span.rank < span.dimension:
            exact = span.rank < min(len(piece.rows), piece.group.capacity)
            tolerance = rounding(span, options.slack) if exact and options.exact else 1.0
            found.append((not exact, span.rank / span.dimension, len(found), Behind(piece, span, tolerance)))
    return [entry[3] for entry in sorted(found, key=lambda entry: entry[:3])[: options.sites]]


@dataclass(frozen=True)
class _Path:
    ids: tuple[int, ...]
    score: float
    distance: float  # summed


def pair(
    observation: Observation,
    candidates: Candidates,
    options: PairingOptions = PairingOptions(),
    progress: Progress = silent,
) -> list[Paired]:
    """As many different sequences as there are records behind an update, or fewer where candidates run out."""
    records = observation.federated.records * observation.federated.cohort
    with observation.model.holding(observation.last.start):
        evidence = behind(observation, options) if options.distance else []
        found: list[Paired] = []
        used: set[tuple[int, int]] = set()
        for number in range(records):
            best = _search(observation, candidates, evidence, used, {one.ids for one in found}, options)
            if best is None:
                break
            found.append(Paired(best.ids, best.score, best.distance / len(best.ids)))
            if options.exclusive:
                used.update(_places(candidates, best.ids))
            progress("pairing tokens", (number + 1) / records)
    return found


def _search(
    observation: Observation,
    candidates: Candidates,
    evidence: Sequence[Behind],
    used: set[tuple[int, int]],
    taken: set[tuple[int, ...]],
    options: PairingOptions,
) -> _Path | None:
    """The best sequence that is not `taken` yet nor the beginning of one that is."""
    begun = {ids[:length] for ids in taken for length in range(1, len(ids) + 1)}
    paths = [_Path((), 0.0, 0.0)]
    best: _Path | None = None
    for position in range(observation.federated.longest):
        grown = _extend(observation, candidates, evidence, used, paths, position, options)
        paths = sorted(grown, key=lambda path: -path.score)[: options.beam]
        for path in paths:
            if path.ids not in begun and (best is None or path.score > best.score):
                best = path
        if not paths:
            break
    return best


def _extend(
    observation: Observation,
    candidates: Candidates,
    evidence: Sequence[Behind],
    used: set[tuple[int, int]],
    paths: Sequence[_Path],
    position: int,
    options: PairingOptions,
) -> list[_Path]:
    """All paths by one token, but for those that cost `end` or more."""
    tokens = torch.tensor(list(candidates.at(position)), dtype=torch.long)
    if len(tokens) == 0:
        return []
    model = observation.model
    place = position if candidates.positional else -1
    reused = torch.tensor([options.reuse * ((place, int(token)) in used) for token in tokens], dtype=torch.float64)
    steps = -reused.expand(len(paths), -1).clone()
    if options.language:
        before = [path.ids or (model.tokenizer.eos_token_id,) for path in paths]
        steps += next_log_probabilities(model, before)[:, tokens].double()
    order = steps.topk(min(options.shortlist, len(tokens)), dim=1).indices if evidence else None
    pairs = [
        (row, int(column))
        for row in range(len(paths))
        for column in (range(len(tokens)) if order is None else order[row].tolist())
        if candidates.positional or position == 0 or set(paths[row].ids) != {int(tokens[column])}
    ]
    if not pairs:
        return []
    distances = torch.zeros(len(pairs), dtype=torch.float64)
    if evidence:
        ids = torch.tensor([[*paths[row].ids, int(tokens[column])] for row, column in pairs])
        distances = torch.stack([one.distances(model, ids) for one in evidence]).mean(0)
    grown = []
    for (row, column), distance in zip(pairs, distances.tolist(), strict=True):
        path, step = paths[row], float(steps[row, column]) - options.weight * distance + options.end
        if step > 0:
            grown.append(_Path((*path.ids, int(tokens[column])), path.score + step, path.distance + distance))
    return grown


def _places(candidates: Candidates, ids: Sequence[int]) -> set[tuple[int, int]]:
    return {(position if candidates.positional else -1, token) for position, token in enumerate(ids)}
