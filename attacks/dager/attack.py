"""DAGER: which tokens lie in the span of the first layer's gradient, then which sequences in that of the next.

Source: Petrov, Dimitrov, Baader, Mueller and Vechev, "DAGER: Exact gradient inversion for large language models" (2024).
The gradient of a linear layer is a sum of d_i x_i^T, so its rows lie in the span of the inputs x_i; with fewer positions than
the rank that it can have, other inputs do not. Exact then; best effort, and said to be degraded, beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.dager import decoder, encoder
from zkaudit.attacks.dager.options import DagerOptions, PublishedRules
from zkaudit.attacks.dager.search import Found, Result, best
from zkaudit.attacks.dager.stages import Stage, calibrated_stages, published_stages
from zkaudit.attacks.dager.tokens import Candidates, candidates
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Dependence
from zkaudit.attacks.taps import groups
from zkaudit.attacks.threat import Capability, Observation, Round

SPECTRUM = 64  # singular values in the evidence
WIDER = 2  # where degraded: candidates per record and position


class Dager:
    """Token ids and sequences from spans alone; no prior over text is used."""

    def __init__(self, options: DagerOptions | None = None) -> None:
        self.options = options or DagerOptions()

    @property
    def name(self) -> str:
        return "DAGER, published" if self.options.published else "DAGER"

    @property
    def needs(self) -> Capability:
        return Capability.UPDATE

    @torch.no_grad()
    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """Attack. AuditError if nothing that is trained shows inputs, or (encoders) nothing shows single tokens."""
        observation.require(self.needs)
        if not observation.rounds:
            raise AuditError("there is no update to attack")
        same = observation.federated.same_batch and not self.options.published
        views: list[Sequence[Round]] = [observation.rounds] if same else [[seen] for seen in observation.rounds]
        parts = [self._view(observation, rounds, progress) for rounds in views]
        return parts[0] if len(parts) == 1 else merged(self.name, parts)

    def _view(self, observation: Observation, rounds: Sequence[Round], progress: Progress) -> Recovery:
        with observation.model.holding(rounds[0].start):
            return self._attack(observation, rounds, progress)

    def _attack(self, observation: Observation, rounds: Sequence[Round], progress: Progress) -> Recovery:
        model, federated, options = observation.model, observation.federated, self.options
        progress("reading spans", 0.0)
        shown = groups(model)
        rules = PublishedRules(0.0, 0.0, 0.0)
        token_stage: Stage | None
        sentence_stage: Stage | None
        if options.published:
            token_stage, sentence_stage, rules, rank = published_stages(observation, rounds, shown, options)
            degraded = rank >= sentence_stage.space.dimension - options.cutoff
        else:
            token_stage, sentence_stage = calibrated_stages(observation, rounds, shown, options)
            degraded = token_stage is None or token_stage.blind
            if token_stage is None and sentence_stage is None:
                raise AuditError("the update shows the input of no module, so there is no span to test")
        records, longest = federated.records * federated.cohort, min(federated.longest, positions(model))
        found = None
        if token_stage is not None:
            found = candidates(model, token_stage, options, longest, rules.tokens, progress)
            degraded |= not found.sure
        result = Result([], [])
        if sentence_stage is not None:
            result = order(observation, sentence_stage, found, degraded, rules.sentences, options, progress)
        chosen = best(result, records, options.distinct, options.published)
        return Recovery(
            self.name,
            spelled(chosen) if found is None else found.ranking(options.ranked, not options.published),
            [list(sequence.ids) for sequence in chosen],
            evidence=evidence(token_stage, sentence_stage, found, result, chosen, degraded),
        )


def order(
    observation: Observation,
    stage: Stage,
    found: Candidates | None,
    degraded: bool,
    threshold: float,
    options: DagerOptions,
    progress: Progress,
) -> Result:
    """The sentence stage, by the model's kind. Where degraded, the nearest tokens are candidates even if they may be chance."""
    model, federated = observation.model, observation.federated
    records, longest = federated.records * federated.cohort, min(federated.longest, positions(model))
    if stage.dependence is Dependence.SEQUENCE:
        if found is None:
            raise AuditError("nothing that is trained shows single tokens; an encoder's sequences cannot be searched without")
        if degraded and not options.published:
            found = widened(found, WIDER * records, longest)
        return encoder.search(model, stage, found, records, threshold, options, progress)
    if found is None:
        everything = range(model.vocabulary)
        return decoder.search(model, stage, lambda _position: everything, records, longest, threshold, options, progress)
    if degraded and not options.published:
        found = widened(found, WIDER * records * (1 if found.positional else longest), longest)
    return decoder.search(model, stage, found.at, records, longest, threshold, options, progress)


def widened(found: Candidates, count: int, longest: int) -> Candidates:
    """Survivors, and the nearest tokens up to `count` at each position."""
    survivors, kinds = [], []
    for position in range(longest if found.positional else 1):
        own = found.at(position)
        nearest = found.distances[position].argsort()[:count].tolist()
        survivors.append(list(dict.fromkeys([*own, *nearest]))[: max(count, len(own))])
        kinds.append([0] * len(survivors[-1]))
    return Candidates(found.distances, found.log_p, survivors, kinds, found.positional)


def positions(model: PublicModel) -> int:
    """The most positions that the model has."""
    config = model.config
    return int(getattr(config, "n_positions", None) or getattr(config, "max_position_embeddings", None) or 512)


def evidence(
    token: Stage | None,
    sentence: Stage | None,
    found: Candidates | None,
    result: Result,
    chosen: Sequence[Found],
    degraded: bool,
) -> dict[str, Any]:
    """Numbers for the report: spectra, ranks, distances, counts; no text."""
    pages: dict[str, Any] = {
        "degraded": degraded,
        "bounded": result.bounded,
        "sentence stage": None if sentence is None else spectrum(sentence),
        "counts": {name: list(values) for name, values in result.counts.items()},
        "complete": len(result.complete),
        "distances of sequences": [sequence.distance for sequence in chosen],
        "passed": [sequence.passed for sequence in chosen],
    }
    if token is not None and found is not None:
        pages["token stage"] = spectrum(token)
        pages["distances of tokens"] = found.histogram()
        pages["counts"]["survivors"] = [len(row) for row in found.survivors]
    return pages


def spelled(chosen: Sequence[Found]) -> Ranking:
    """Tokens of the sequences, where no stage tests single ones; claimed are those of sequences that passed."""
    scores: dict[int, float] = {}
    for sequence in sorted(chosen, key=lambda found: (not found.passed, -found.gain)):
        for token in sequence.ids:
            scores.setdefault(token, sequence.gain)
    claimed = {token for sequence in chosen if sequence.passed for token in sequence.ids}
    return Ranking(list(scores), list(scores.values()), len(claimed))


def spectrum(stage: Stage) -> dict[str, Any]:
    """A stage's site, the rank chosen, what the taps could show, and the first singular values."""
    return {
        "site": stage.group.site.module,
        "tap": stage.group.taps[0].kind,
        "taps": len(stage.group.taps),
        "rounds": stage.rounds,
        "rank": stage.space.rank,
        "capacity": min(len(stage.space.singular), stage.space.dimension),
        "dimension": stage.dimension,
        "noise": stage.noise,
        "singular values": stage.space.singular[:SPECTRUM].tolist(),
    }


def merged(name: str, parts: Sequence[Recovery]) -> Recovery:
    """Rounds on different records: each token's best score, all sequences."""
    scores: dict[int, float] = {}
    claimed: dict[int, None] = {}
    for part in parts:
        if part.tokens is not None:
            claimed.update(dict.fromkeys(part.tokens.ids[: part.tokens.claimed]))
            for token, score in zip(part.tokens.ids, part.tokens.scores, strict=True):
                scores[token] = max(score, scores.get(token, score))
    ids = sorted(scores, key=lambda token: (token not in claimed, -scores[token]))
    ranking = Ranking(ids, [scores[token] for token in ids], len(claimed)) if scores else None
    sequences = list(dict.fromkeys(tuple(ids) for part in parts for ids in part.sequences))
    pages = {f"round {number}": part.evidence for number, part in enumerate(parts)}
    pages["degraded"] = any(part.evidence["degraded"] for part in parts)  # type: ignore[assignment]
    return Recovery(name, ranking, [list(sequence) for sequence in sequences], evidence=pages)
