"""Skill-it: train more on the skills that help others whose loss is still high.

    p_i  proportional to  w_i exp(eta sum_j A_ij sum of the last `window` losses L_j)

k skills to train on, m to be judged by; A_ij > 0 if training on i helps j (`learn_graph` finds it with short runs). A new p
starts each round, and the first round takes L = 1. Chen et al. 2023, arXiv 2307.14430; defaults are those of its LEGO runs: eta
0.5, three evaluations in the window, one evaluation every 50 of 6000 steps and a round every 1000. With the identity for A it
only follows losses; with all ones it is uniform, and the authors find no use for it where the graph is nearly empty or full.

Losses go in as they are, and exponentials are taken in decimal with 50 digits, so that who has the recorded losses computes the
same shares, whole multiples of 2^-32, bit for bit (`replay`)."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.mixture.draw import ONE, draw_sources, whole_shares
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="skill-it",
    title="Skill-it: a mixture that follows a graph of skills",
    paper="Chen et al. 2023, arXiv 2307.14430",
    where="zkaudit.training.mixture.skill_it.SkillIt",
    changes=("data", "schedule"),
    effect="36.5 points more accuracy on LEGO than random; a 3B model needs a third of the tokens of uniform sampling.",
    library="",
    provable="Shares are a public function of recorded losses, computed again exactly; no relation proves the losses.",
    server_sees="The mixture and, through it, which skills a client is weak in: sum losses securely over clients.",
    use="""
from zkaudit.training.mixture.sampler import MixtureSampler
from zkaudit.training.mixture.skill_it import SkillIt

mixer = SkillIt(graph)  # graph[i][j]: how much training on skill i helps skill j
sampler = MixtureSampler(labels, lambda: dict(zip(skills, mixer.mixture)), 32, run_seed="7", steps=6000)
for step, ids in enumerate(sampler):  # or DataLoader(dataset, batch_sampler=sampler); then in the loop:
    mixer.observe(losses)  # at every evaluation
    mixer.next_round()  # every so many steps
""",
    avoid="graphs that are nearly empty or complete, and skills whose losses are not comparable (see `relative`)",
    binding="replayable",
)

_DIGITS = decimal.Context(prec=50)


@dataclass(frozen=True)
class SkillItOptions:
    """`start`: w_i, equal if None; `relative`: losses divided by the first ones seen; `mean`: of the window, not its sum, as
    with a held-out target; `fading`: what edges between different skills are multiplied by each round (0.5 halves them)."""

    eta: float = 0.5
    window: int = 3
    start: tuple[float, ...] | None = None
    relative: bool = False
    mean: bool = False
    fading: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.eta) or self.window < 1 or not 0 <= self.fading <= 1:
            raise TrainingError(
                f"eta = {self.eta}, window = {self.window}, fading = {self.fading}: need a number, >= 1, in [0, 1]"
            )


@dataclass(frozen=True)
class Round:
    """How many evaluations came before this round, and its shares in units of 2^-32."""

    evaluations: int
    shares: tuple[int, ...]


class SkillIt:
    """The mixer of a k x m graph. `rounds` are its choices so far, `losses` the evaluations: its record."""

    def __init__(self, graph: Sequence[Sequence[float]], options: SkillItOptions = SkillItOptions()) -> None:
        self.graph = tuple(tuple(float(edge) for edge in row) for row in graph)
        if not self.graph or len({len(row) for row in self.graph}) != 1 or not self.graph[0]:
            raise TrainingError("a graph of skills is a row for each skill trained on, a number for each skill judged by")
        if not all(math.isfinite(edge) for row in self.graph for edge in row):
            raise TrainingError("a graph of skills must hold finite numbers")
        if options.start is not None and len(options.start) != len(self.graph):
            raise TrainingError(f"start has {len(options.start)} weights for {len(self.graph)} skills")
        self.options = options
        self.losses: list[tuple[float, ...]] = []
        self.rounds = [Round(0, self._shares())]

    @property
    def shares(self) -> tuple[int, ...]:
        """Of the present round (k,), in units of 2^-32."""
        return self.rounds[-1].shares

    @property
    def mixture(self) -> tuple[float, ...]:
        """p (k,)."""
        return tuple(share / ONE for share in self.shares)

    def observe(self, losses: Sequence[float]) -> None:
        """An evaluation's losses (m,). TrainingError for a wrong number of them, one that is not finite or a first one of 0."""
        found = tuple(float(loss) for loss in losses)
        if len(found) != len(self.graph[0]) or not all(math.isfinite(loss) for loss in found):
            raise TrainingError(f"an evaluation is {len(self.graph[0])} finite losses, not {list(losses)}")
        if self.options.relative and not self.losses and min(found) <= 0:
            raise TrainingError("losses relative to the first ones need first ones above 0")
        self.losses.append(found)

    def next_round(self) -> tuple[float, ...]:
        """The new mixture, from the evaluations so far."""
        self.rounds.append(Round(len(self.losses), self._shares(len(self.rounds))))
        return self.mixture

    def draw(self, count: int, run_seed: str, step: int) -> list[int]:
        """The skills of a step's `count` records."""
        return draw_sources(self.shares, count, derive_seed(run_seed, "mixture.skill_it", step))

    def _shares(self, number: int = 0) -> tuple[int, ...]:
        """Of round `number`, which sees all evaluations there are."""
        loss = self._window()
        fading = Fraction(self.options.fading) ** number
        start = self.options.start or (1.0,) * len(self.graph)
        exponents = [
            Fraction(self.options.eta) * sum(
                Fraction(edge) * (1 if i == j else fading) * loss[j] for j, edge in enumerate(row)
            )
            for i, row in enumerate(self.graph)
        ]  # fmt: skip
        top = max(exponents)
        return whole_shares([Fraction(w) * _exp(exponent - top) for w, exponent in zip(start, exponents, strict=True)])

    def _window(self) -> list[Fraction]:
        last = self.losses[-self.options.window :]
        if not last:
            return [Fraction(1)] * len(self.graph[0])
        sums = [sum(map(Fraction, column), Fraction(0)) for column in zip(*last, strict=True)]
        parts = len(last) if self.options.mean else 1
        first = self.losses[0] if self.options.relative else (1.0,) * len(sums)
        return [total / parts / Fraction(base) for total, base in zip(sums, first, strict=True)]


def replay(
    graph: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], rounds: Sequence[Round], options: SkillItOptions
) -> int | None:
    """The first round whose shares do not follow from the evaluations before it, None if all do."""
    mixer, seen = SkillIt(graph, options), 0
    for number, claimed in enumerate(rounds):
        if not seen <= claimed.evaluations <= len(losses):
            return number
        for evaluation in losses[seen : claimed.evaluations]:
            mixer.observe(evaluation)
        seen = claimed.evaluations
        if number:
            mixer.next_round()
        if mixer.rounds[-1] != claimed:
            return number
    return None


def learn_graph(loss: Callable[[tuple[int, ...], int], float], skills: int) -> list[list[float]]:
    """A with an edge from i to j where training on both beats training on j alone, in equally many steps.

    `loss(trained_on, judged_by)` trains from the start on these skills, equally often, and returns a skill's loss; it is called
    once for each pair of skills and once for each skill."""
    alone = [loss((j,), j) for j in range(skills)]
    return [
        [1.0 if i == j or loss((min(i, j), max(i, j)), j) < alone[j] else 0.0 for j in range(skills)] for i in range(skills)
    ]


def _exp(exponent: Fraction) -> Fraction:
    if exponent < -10_000:  # far below a share's unit, and slow to write down
        return Fraction(0)
    value = _DIGITS.divide(decimal.Decimal(exponent.numerator), decimal.Decimal(exponent.denominator))
    return Fraction(value.exp(_DIGITS))
