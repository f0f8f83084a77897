"""The oldest leak: a tensor with a row for each token has a gradient only where the batch had that token, at any size."""

from __future__ import annotations

import torch

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.dager.observed import gradient, rounding_errors
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.taps import TokenLeak, token_leaks
from zkaudit.attacks.threat import Capability, Observation, Round

SLACK = 8.0  # times the root mean square of rounding


class TokenSet:
    """Reads tokens from the rows of trained embeddings (or what is like them), the strongest such tensor first."""

    name = "token_set"
    needs = Capability.UPDATE

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """AuditError if no trained tensor has a row for each token."""
        leaks = sorted(token_leaks(observation.model), key=lambda leak: (not leak.exact, leak.listed is not None))
        if not leaks:
            raise AuditError("no trained tensor has a row for each token, so none names the tokens of a batch")
        best = leaks[0]
        seen, federated = observation.last, observation.federated
        scores = best.token_scores(gradient(seen, federated)).double()
        order = scores.argsort(descending=True, stable=True)
        decays = seen.update.kind == "delta" and federated.weight_decay > 0
        if not best.exact or (decays and federated.steps > 1):
            claimed = _above_gap(scores[order])
        else:
            floor = _rounding_left(best, seen, federated) if decays else 0.0
            claimed = int((scores > floor).sum())
        progress("reading tokens", 1.0)
        evidence = {"tensor": best.parameter, "explanation": best.explanation}
        return Recovery(self.name, Ranking(order.tolist(), scores[order].tolist(), claimed), evidence=evidence)


def _rounding_left(leak: TokenLeak, seen: Round, federated: FederatedSettings) -> float:
    """The most that a row scores of which only rounding is left once decay, which moves every row, is taken out of a delta."""
    return SLACK * float(leak.token_scores(rounding_errors(seen, federated)).max())


def _above_gap(scores: torch.Tensor) -> int:
    """How many of falling scores stand before the widest relative gap in their first half."""
    positive = scores[: max(2, len(scores) // 2)].clamp_min(1e-300)
    ratios = positive[:-1] / positive[1:]
    return int(ratios.argmax()) + 1
