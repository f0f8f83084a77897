"""The oldest leak: a tensor with a row for each token has a gradient only where the batch had that token, at any size."""

from __future__ import annotations

import torch

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.taps import token_leaks
from zkaudit.attacks.threat import Capability, Observation


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
        scores = best.token_scores(observation.rounds[-1].update.tensors).double()
        order = scores.argsort(descending=True, stable=True)
        claimed = int((scores > 0).sum()) if best.exact else _above_gap(scores[order])
        progress("reading tokens", 1.0)
        evidence = {"tensor": best.parameter, "explanation": best.explanation}
        return Recovery(self.name, Ranking(order.tolist(), scores[order].tolist(), claimed), evidence=evidence)


def _above_gap(scores: torch.Tensor) -> int:
    """How many of falling scores stand before the widest relative gap in their first half."""
    positive = scores[: max(2, len(scores) // 2)].clamp_min(1e-300)
    ratios = positive[:-1] / positive[1:]
    return int(ratios.argmax()) + 1
