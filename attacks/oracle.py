"""Upper bounds that are told the truth: no attacks, and never to be shown as such; their names begin with "oracle: ".

They split an attack's failure: with the true tokens given, does the ordering still fail; are the true sequences even accepted?
Work that verifies the truth instead of searching for it reports figures like these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.dager.attack import evidence, order
from zkaudit.attacks.dager.options import DagerOptions, PublishedRules
from zkaudit.attacks.dager.search import best
from zkaudit.attacks.dager.stages import Stage, calibrated_stages, published_stages
from zkaudit.attacks.dager.tokens import CONSISTENT, FLOOR, Candidates
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.sites import Dependence, activations
from zkaudit.attacks.taps import groups
from zkaudit.attacks.threat import Capability, Observation


class _Oracle:
    """Built by a scorer with the records' token ids; the sequences lack what a causal model's update cannot show (the end)."""

    name = "oracle"
    needs = Capability.UPDATE

    def __init__(self, truth: Sequence[Sequence[int]], options: DagerOptions | None = None) -> None:
        if not truth or not all(truth):
            raise AuditError("an oracle needs the true sequences, none of them empty")
        self.truth = [list(ids) for ids in truth]
        self.options = options or DagerOptions()

    def _stages(self, observation: Observation) -> tuple[Stage | None, Stage, PublishedRules]:
        rounds, shown = observation.rounds[:1], groups(observation.model)
        if self.options.published:
            token, sentence, rules, _ = published_stages(observation, rounds, shown, self.options)
            return token, sentence, rules
        first, later = calibrated_stages(observation, rounds, shown, self.options)
        if later is None:
            raise AuditError("nothing that is trained sees more than one token, so there is no order to search")
        return first, later, PublishedRules(0.0, 0.0, 0.0)


class OracleOrder(_Oracle):
    """Given the true tokens (at each position, where DAGER's token stage would know it), only their order is searched."""

    name = "oracle: order of the true tokens"

    @torch.no_grad()
    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """Sequences as DAGER finds them with perfect candidates."""
        with observation.model.holding(observation.rounds[0].start):
            token, sentence, rules = self._stages(observation)
            bag = sorted({token for ids in self.truth for token in ids})
            positional = sentence.dependence is Dependence.SEQUENCE or (
                token is not None and token.dependence is Dependence.POSITION
            )
            columns = [bag]
            if positional:
                longest = max(map(len, self.truth))
                columns = [sorted({ids[p] for ids in self.truth if p < len(ids)}) for p in range(longest)]
            table = torch.ones(len(columns), observation.model.vocabulary)
            found = Candidates(table, table.double(), columns, [[0] * len(column) for column in columns], positional)
            result = order(observation, sentence, found, False, rules.sentences, self.options, progress)
            records = observation.federated.records * observation.federated.cohort
            chosen = best(result, records, self.options.distinct, self.options.published)
            return Recovery(
                self.name,
                Ranking(bag, [0.0] * len(bag), len(bag)),
                [list(sequence.ids) for sequence in chosen],
                evidence={**evidence(None, sentence, None, result, chosen, False), "oracle": True},
            )


class OracleVerify(_Oracle):
    """The share of true sequences that the sentence test accepts; nothing is searched."""

    name = "oracle: verification of the true sequences"

    @torch.no_grad()
    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """`sequences` are the accepted ones; evidence has their `share` and every position's distance."""
        with observation.model.holding(observation.rounds[0].start):
            _, sentence, rules = self._stages(observation)
            accepted, distances = [], []
            for number, ids in enumerate(self.truth):
                (seen,) = activations(
                    observation.model, [sentence.group.site], torch.tensor([ids], device=observation.model.device)
                )
                far, explained = sentence.measured(seen[0])
                limit = torch.full_like(far, rules.sentences)
                if not self.options.published:
                    limit = (CONSISTENT * explained).clamp_min(FLOOR)
                distances.append(far.tolist())
                if bool((far <= limit).all()):
                    accepted.append(ids)
                progress("verifying", (number + 1) / len(self.truth))
        share = len(accepted) / len(self.truth)
        evidence_ = {"oracle": True, "share": share, "distances of sequences": distances}
        return Recovery(self.name, None, accepted, evidence=evidence_)
