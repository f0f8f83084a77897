"""What gradient matching attacks share: from an observation to a problem, descent on dummies, what is read off in the end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import MASKED
from zkaudit.attacks.matching.classes import head, label
from zkaudit.attacks.matching.distance import Distance
from zkaudit.attacks.matching.dummy import Dummy, Labels, Problem
from zkaudit.attacks.matching.target import Target, target
from zkaudit.attacks.threat import Capability, Observation

CURVE = 100  # points of a loss curve in the evidence


@dataclass(frozen=True)
class Match:
    """How far dummies are from what was observed in the rounds in which the same records were trained on.

    The model must hold the first target's weights.
    """

    problem: Problem
    targets: Sequence[Target]
    distance: Distance

    def value(self, dummy: Dummy) -> float:
        """Mean distance over the rounds."""
        total = 0.0
        for goal in self.targets:
            with self._at(goal):
                total += float(self.distance(self.problem.gradient(dummy), list(goal.gradient.values())))
        return total / len(self.targets)

    def slope(self, dummy: Dummy) -> float:
        """The same, adding its derivative to the leaves' `grad`."""
        total = 0.0
        for goal in self.targets:
            with self._at(goal):
                found = self.problem.gradient(dummy, differentiable=True)
                loss = self.distance(found, list(goal.gradient.values())) / len(self.targets)
                loss.backward(inputs=dummy.leaves())  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _at(self, goal: Target) -> contextlib.AbstractContextManager[None]:
        alone = len(self.targets) == 1  # its weights are in place throughout
        return contextlib.nullcontext() if alone else self.problem.model.holding(goal.start)

    def exact(self) -> Match:
        """For dummies that stand on tokens: these are their own labels."""
        return replace(self, problem=replace(self.problem, labels="nearest"))


@dataclass
class Trace:
    """What one restart did: the loss before each step, discrete moves tried and accepted, the distance of its tokens."""

    losses: list[float] = field(default_factory=list)
    tried: int = 0
    accepted: int = 0
    distance: float = math.inf

    def evidence(self) -> dict[str, Any]:
        """Numbers for a report."""
        stride = -(-len(self.losses) // CURVE) or 1
        return {
            "loss": [round(value, 8) for value in self.losses[::stride]],
            "loss_every": stride,
            "distance": self.distance,
            "moves_tried": self.tried,
            "moves_accepted": self.accepted,
        }


@dataclass(frozen=True)
class Matching:
    """An attack by gradient matching; subclasses say by which distance, and what else is done on the way.

    `learning_rate` is in units of what is optimised (the root mean square of token embeddings; 1 for logits) and falls to a
    tenth. Each of `restarts` begins at the best of `candidates` draws; the one whose tokens match best is the answer.
    `lengths` of the records if known, else from the observation's token count or the settings' longest. `classes` if known.
    """

    steps: int = 300
    learning_rate: float = 0.3
    optimizer: Literal["adam", "lbfgs"] = "adam"
    restarts: int = 1
    candidates: int = 8
    labels: Labels = "soft"
    temperature: float = 0.05
    lengths: Sequence[int] | None = None
    classes: Sequence[int] | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def needs(self) -> Capability:
        return Capability.UPDATE

    def distance(self) -> Distance:
        """What is minimised."""
        raise NotImplementedError

    def penalty(self, _problem: Problem, _dummy: Dummy) -> Tensor | None:
        """What is added to it, a differentiable scalar."""
        return None

    def between(self, _step: int, _match: Match, _dummy: Dummy, _generator: torch.Generator, _trace: Trace) -> None:
        """What is done after a step besides descent; may change the dummy's values."""

    def finish(self, _match: Match, ids: Tensor, _logits: Tensor | None, _generator: torch.Generator, _trace: Trace) -> Tensor:
        """The answer, (R, T), from the tokens read off in the end."""
        return ids

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """Match the gradients of each batch of records on its own (of all rounds together where a client repeats its batch)."""
        observation.require(self.needs)
        if self.steps < 1 or self.restarts < 1 or self.candidates < 1:
            raise AuditError(f"{self.name} needs at least one step, one restart and one candidate")
        if not observation.rounds:
            raise AuditError(f"{self.name} needs at least one round; the observation has none")
        rounds = [target(observation.model, seen, observation.federated) for seen in observation.rounds]
        masks = observation.model.task == "masked_lm"  # other ones in each round
        together = [rounds] if observation.federated.same_batch and not masks else [[goal] for goal in rounds]
        generator = torch.Generator().manual_seed(self.seed)
        sequences: list[list[int]] = []
        scores: dict[int, float] = {}
        evidence = []
        training = observation.model.module.training
        observation.model.module.eval()
        try:
            for number, goals in enumerate(together):
                match = self._match(observation, goals)
                part = _Part(progress, number / len(together), 1 / len(together))
                with observation.model.holding(goals[0].start):
                    ids, dummy, trace = self._best(match, generator, part)
                found = match.problem.sequences(ids)
                sequences += found
                for token, score in _scored(match.problem, dummy, found):
                    scores[token] = max(score, scores.get(token, -1.0))
                evidence.append(trace.evidence())
        finally:
            observation.model.module.train(training)
        ranked = sorted(scores, key=lambda token: -scores[token])
        ranking = Ranking(ranked, [scores[token] for token in ranked], len(ranked))
        caveats = list(dict.fromkeys(caveat for goal in rounds for caveat in goal.caveats))
        records = len(sequences) // len(together)
        known = observation.tokens is not None and (
            records == 1 or observation.tokens == records * observation.federated.longest
        )
        if self.lengths is None and not known:
            caveats.append(f"the records are taken to have {max(map(len, sequences))} tokens each")
        if masks:
            caveats.append("which tokens the client masked is guessed")
        return Recovery(self.name, ranking, sequences, evidence={"batches": evidence, "caveats": caveats, "steps": self.steps})

    def _match(self, observation: Observation, goals: Sequence[Target]) -> Match:
        problem = self._problem(observation, goals[0])
        return Match(problem, [_without_regulariser(problem, goal) for goal in goals], self.distance())

    def _problem(self, observation: Observation, goal: Target) -> Problem:
        model, settings = observation.model, observation.federated
        records = settings.records * settings.cohort
        lengths = self.lengths
        if lengths is None:
            longest = -(-observation.tokens // records) if observation.tokens else settings.longest
            lengths = [min(longest, settings.longest)] * records
        if len(lengths) != records or min(lengths) < 1:
            raise AuditError(f"{self.name} needs a length of at least 1 for each of the {records} records behind an update")
        classes = self.classes
        if model.task == "sequence_classification":
            if classes is None and records == 1:
                read = label(*head(goal.gradient, model.config.num_labels))
                classes = None if read is None else [read]
            if classes is not None and len(classes) != records:
                raise AuditError(f"{self.name} needs a class for each of the {records} records behind an update")
        share = 1 / (settings.accumulation * settings.local_steps * settings.cohort)
        return Problem(model, tuple(lengths), settings.batch, share, self.labels, self.temperature, classes)

    def _best(self, match: Match, generator: torch.Generator, progress: Progress) -> tuple[Tensor, Dummy, Trace]:
        """Tokens, the dummy they were read from, and what was done, of the restart whose tokens match best."""
        best, best_trace = None, Trace()
        for number in range(self.restarts):
            part = _Part(progress, number / self.restarts, 1 / self.restarts)
            if match.problem.model.task == "masked_lm":
                match = self._guess_masks(match, generator)
            dummy, trace = self._descend(match, self._start(match, generator), generator, part)
            ids = self.finish(match, match.problem.read(dummy), dummy.logits, generator, trace)
            trace.distance = match.exact().value(match.problem.dummy(ids, dummy.logits))
            if best is None or trace.distance < best_trace.distance:
                best, best_trace = (ids, dummy), trace
        assert best is not None
        return *best, best_trace

    def _guess_masks(self, match: Match, generator: torch.Generator) -> Match:
        """The problem with masks that a tenth of the descent likes best of some draws, as many a record as clients mask."""
        live = match.problem.mask.cpu()
        counts = (live.sum(1, keepdim=True) * MASKED).round().clamp(min=1)
        guesses: dict[tuple[int, ...], Match] = {}
        for _ in range(self.candidates):
            order = torch.rand(live.shape, generator=generator).masked_fill(live == 0, 2.0).argsort(1).argsort(1)
            hidden = (order < counts) & (live == 1)
            problem = replace(match.problem, hidden=hidden.to(match.problem.mask.device))
            guesses.setdefault(tuple(hidden.flatten().tolist()), replace(match, problem=problem))
        short = replace(self, steps=max(1, self.steps // 10), candidates=1)
        ends = []
        for guess in guesses.values():
            _, trace = short._descend(guess, short._start(guess, generator), generator, silent)
            ends.append(trace.losses[-1])
        return list(guesses.values())[ends.index(min(ends))]

    def _start(self, match: Match, generator: torch.Generator) -> Dummy:
        """The best of some random dummies; their entries are as large as those of token embeddings."""
        problem = match.problem
        shape = (len(problem.lengths), max(problem.lengths), problem.table.shape[1])
        choices = []
        for _ in range(self.candidates):
            vectors = (torch.randn(shape, generator=generator) * problem.scale).to(problem.table.device)
            free = problem.free_logits
            choices.append(Dummy(vectors, None if free is None else torch.randn(free, generator=generator).to(vectors)))
        return min(choices, key=match.value) if len(choices) > 1 else choices[0]

    def _descend(self, match: Match, dummy: Dummy, generator: torch.Generator, progress: Progress) -> tuple[Dummy, Trace]:
        trace = Trace()
        for leaf in dummy.leaves():
            leaf.requires_grad_(True)
        rates = [self.learning_rate * unit for unit in (match.problem.scale, 1.0)]
        groups = [{"params": [leaf], "lr": rate} for leaf, rate in zip(dummy.leaves(), rates, strict=False)]
        optimizer: torch.optim.Optimizer
        if self.optimizer == "adam":
            optimizer = torch.optim.Adam(groups)
        else:
            optimizer = torch.optim.LBFGS(dummy.leaves(), lr=1.0, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimizer.zero_grad()
            loss = match.slope(dummy)
            penalty = self.penalty(match.problem, dummy)
            if penalty is not None:
                penalty.backward(inputs=dummy.leaves())  # type: ignore[no-untyped-call]
                loss += float(penalty.detach())
            return loss

        for step in range(self.steps):
            if self.optimizer == "adam":
                for group, rate in zip(optimizer.param_groups, rates, strict=False):
                    group["lr"] = rate * 0.1 ** (step / self.steps)
            trace.losses.append(float(optimizer.step(closure)))  # type: ignore[no-untyped-call]
            self.between(step, match, dummy, generator, trace)
            progress(f"{self.name}: matching gradients", (step + 1) / self.steps)
        return dummy.copy(), trace


def _without_regulariser(problem: Problem, goal: Target) -> Target:
    """The target less what is no function of the records."""
    with problem.model.holding(goal.start):
        more = problem.regulariser()
    if more is None:
        return goal
    return replace(goal, gradient={name: g - m for (name, g), m in zip(goal.gradient.items(), more, strict=True)})


def _scored(problem: Problem, dummy: Dummy, found: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """The tokens found, each with its best cosine to a vector."""
    best = problem.similarities(dummy.vectors)[problem.mask.bool()].amax(0).cpu()
    return [(token, float(best[token])) for token in dict.fromkeys(token for row in found for token in row)]


@dataclass(frozen=True)
class _Part:
    """A stretch of a longer run's progress."""

    whole: Progress
    start: float
    share: float

    def __call__(self, what: str, fraction: float) -> None:
        self.whole(what, self.start + fraction * self.share)
