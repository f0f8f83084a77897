"""LAMP (Balunovic et al. 2022): descent on embeddings, and every so often discrete moves judged by gradient and language model.

Minimise D(grad(x'), g) + rho (mean ||x'_i|| / mean ||e_v|| - 1)^2, where D is 1 - cosine or TAG's distance. After every
`every` steps try moves of the dummy's tokens (swap two; move one; move a stretch; put a beginning last) and keep those that
lower D + beta log-perplexity of the nearest tokens. The paper: 2000 steps, 500 first candidates, moves each 75 steps, 200 tries
of which the best is kept; here each improvement is kept at once, and swaps may cross records.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.matching.distance import Distance, cosine, squared_and_absolute
from zkaudit.attacks.matching.dummy import Dummy, Problem
from zkaudit.attacks.matching.moves import moved
from zkaudit.attacks.matching.search import Match, Matching, Trace
from zkaudit.attacks.model import IGNORED, PublicModel


@dataclass(frozen=True)
class LAMP(Matching):
    """`alpha` None matches by cosine, a number by TAG's distance.

    `language` judges word order, a causal model over the same tokens; without it the public model does, if it is causal.
    """

    steps: int = 200
    restarts: int = 2
    candidates: int = 16
    alpha: float | None = None
    norm_weight: float = 0.1  # rho
    perplexity_weight: float = 0.02  # beta
    every: int = 25
    tries: int = 40
    language: PublicModel | None = None

    def distance(self) -> Distance:
        """By cosine or by differences."""
        return cosine if self.alpha is None else squared_and_absolute(self.alpha)

    def penalty(self, problem: Problem, dummy: Dummy) -> Tensor | None:
        """Vectors should be as long as token embeddings are on average."""
        mean = dummy.vectors[problem.mask.bool()].norm(dim=-1).mean()
        excess: Tensor = mean / problem.table.norm(dim=-1).mean() - 1
        return self.norm_weight * excess.square()

    def between(self, step: int, match: Match, dummy: Dummy, generator: torch.Generator, trace: Trace) -> None:
        """The discrete phase."""
        if (step + 1) % self.every == 0 and step + 1 < self.steps:
            self.reorder(match, dummy, generator, trace)

    def finish(self, match: Match, ids: Tensor, logits: Tensor | None, generator: torch.Generator, trace: Trace) -> Tensor:
        """The last discrete phase, on the tokens themselves."""
        exact = match.exact()
        dummy = exact.problem.dummy(ids, logits if logits is None or logits.dim() == 2 else None)
        self.reorder(exact, dummy, generator, trace)
        return exact.problem.tokens(dummy.vectors)

    def reorder(self, match: Match, dummy: Dummy, generator: torch.Generator, trace: Trace) -> None:
        """Try moves and keep, in place, each one that lowers the score."""
        current = dummy.copy()
        best = self._score(match, current)
        for _ in range(self.tries):
            order = moved(match.problem.lengths, generator).to(current.vectors.device)
            candidate = Dummy(*(_permuted(leaf, order) for leaf in current.leaves()))
            score = self._score(match, candidate)
            trace.tried += 1
            if score < best:
                current, best = candidate, score
                trace.accepted += 1
        with torch.no_grad():
            for leaf, value in zip(dummy.leaves(), current.leaves(), strict=True):
                leaf.copy_(value)

    def _score(self, match: Match, dummy: Dummy) -> float:
        distance = match.value(dummy)
        if not self.perplexity_weight:
            return distance
        judge = self.language or (match.problem.model if match.problem.model.task == "causal_lm" else None)
        if judge is None:
            return distance
        return distance + self.perplexity_weight * _log_perplexity(judge, match.problem, match.problem.read(dummy))


def _permuted(leaf: Tensor, order: Tensor) -> Tensor:
    """A leaf with its token positions in another order; the logits of classes stay with their record."""
    if leaf.dim() == 2:
        return leaf.detach()
    return leaf.detach().flatten(0, 1)[order.flatten()].view_as(leaf)


@torch.no_grad()
def _log_perplexity(judge: PublicModel, problem: Problem, ids: Tensor) -> float:
    """Mean negative log likelihood of the next token, over all records."""
    if judge.vocabulary < problem.model.vocabulary:
        raise AuditError("the language model of lamp has fewer tokens than the model under attack")
    ids, mask = ids.to(judge.device), problem.mask.to(judge.device)
    logits = judge.module(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] : -1]
    wanted = ids.masked_fill(mask == 0, IGNORED)[:, 1:]
    if not bool((wanted != IGNORED).any()):
        return 0.0
    return float(F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED))
