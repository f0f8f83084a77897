"""Population based training: many runs at once, of which the bad copy the good and change their hyper-parameters
(Jaderberg et al. 2017, arXiv 1711.09846).

Each round trains every member for `interval` steps and scores it. Exploit: a member among the worst fifth takes weights and
hyper-parameters of a random one among the best fifth. Explore: each copied hyper-parameter is multiplied by 0.8 or 1.2 (a
choice among values moves to a neighbour), or drawn anew with probability `resample`. Fractions and factors are the paper's;
it never resamples in most experiments, hence 0. Score is "higher is better".

This is one process, member after member, and every draw comes from one seeded generator: a run can be repeated bit for bit, and
saved between rounds. On a cluster use Ray Tune, whose scheduler `ray_scheduler` sets to the same options."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="pbt",
    title="Population based training",
    paper="Jaderberg et al. 2017, arXiv 1711.09846",
    where="zkaudit.training.search.population.Population",
    changes=("search", "schedule"),
    effect="Finds a schedule of hyper-parameters in one run's wall time; better final scores than random search of equal cost.",
    library="ray.tune.schedulers.PopulationBasedTraining on a cluster (`ray_scheduler`); the code in one process is ours",
    provable="Each member's steps as its optimizer's are; the copies are assignments of committed weights.",
    server_sees="What the optimizer of a member shows.",
    use="""
rates = {"rate": Range(1e-4, 1e-1, log=True)}
population = Population(start, train, score, rates, PopulationOptions(members=10, interval=100))
best = population.run(20)
population.plot_lineage("lineage.png", "rate")
""",
    avoid="a budget of a run or two; members train one after another in one process, on a cluster use `ray_scheduler`",
)

State = TypeVar("State")
Value = float | int | str
Hypers = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, drawn evenly, or evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise TrainingError(f"a range needs low < high, and low > 0 if logarithmic, not {self.low!r} to {self.high!r}")

    def draw(self, draws: random.Random) -> float:
        if self.log:
            return math.exp(draws.uniform(math.log(self.low), math.log(self.high)))
        return draws.uniform(self.low, self.high)

    def perturb(self, value: float, factors: tuple[float, float], draws: random.Random) -> float:
        return min(max(value * draws.choice(factors), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """One of some values, in an order in which neighbours are alike."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise TrainingError("a choice needs at least one value")

    def draw(self, draws: random.Random) -> Value:
        return draws.choice(self.values)

    def perturb(self, value: Value, factors: tuple[float, float], draws: random.Random) -> Value:
        place = self.values.index(value) + draws.choice((-1, 1))
        return self.values[min(max(place, 0), len(self.values) - 1)]


@dataclass(frozen=True)
class PopulationOptions:
    members: int = 10
    interval: int = 100  # steps between exploits
    fraction: float = 0.2  # of members that copy, and that are copied
    factors: tuple[float, float] = (0.8, 1.2)
    resample: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("members", "interval"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise TrainingError(f"{name} must be a positive integer, not {getattr(self, name)!r}")
        if not 0 <= self.fraction <= 0.5:
            raise TrainingError(f"fraction must be between 0 and 0.5, not {self.fraction!r}")
        if len(self.factors) != 2 or not min(self.factors) > 0:
            raise TrainingError(f"factors must be two positive numbers, not {self.factors!r}")
        if not 0 <= self.resample <= 1:
            raise TrainingError(f"resample must be between 0 and 1, not {self.resample!r}")

    @property
    def copied(self) -> int:
        """How many copy in a round: a fraction above 0 means at least one where there are two members."""
        return min(math.ceil(self.fraction * self.members), self.members // 2)


@dataclass(frozen=True)
class Event:
    """What a member was in a round: `parent` is the member that its weights came from, itself unless it copied before."""

    round: int
    member: int
    parent: int
    hypers: Hypers
    score: float


class Population(Generic[State]):
    """The members. `start(hypers, seed)` makes a state, `train(state, hypers, steps)` trains and `score(state)` rates it.

    A state is anything that copy.deepcopy copies whole: a model with its optimizer, say, in a tuple or a dict. `train` must
    set the optimizer's options from `hypers`, since they change under it. A score that is not a number counts as the worst."""

    def __init__(
        self,
        start: Callable[[Hypers, int], State],
        train: Callable[[State, Hypers, int], State],
        score: Callable[[State], float],
        space: Mapping[str, Range | Choice],
        options: PopulationOptions | None = None,
        first: list[Hypers] | None = None,
    ) -> None:
        """`first` gives the members' first hyper-parameters, which are otherwise drawn from `space`."""
        self.options = options or PopulationOptions()
        self.space, self._train, self._score = dict(space), train, score
        self._draws = random.Random(self.options.seed)
        members = self.options.members
        if first is not None and (len(first) != members or any(set(hypers) != set(space) for hypers in first)):
            raise TrainingError(f"first must give {', '.join(space)} for each of {members} members")
        drawn = [{name: part.draw(self._draws) for name, part in self.space.items()} for _ in range(members)]
        self.hypers: list[Hypers] = [dict(hypers) for hypers in first or drawn]
        self.states = [start(dict(hypers), self._draws.getrandbits(31)) for hypers in self.hypers]
        self.lineage: list[Event] = []
        self._parents = list(range(members))
        self._rounds = 0

    def run(self, rounds: int) -> State:
        """Train for `rounds` rounds and return the best member's state, of the last round."""
        for _ in range(rounds):
            self.round()
        return self.states[self.best]

    def round(self) -> None:
        """Let the worst of the round before copy the best, then train and score everybody. Ties go by place."""
        if self._rounds:
            self._exploit([event.score for event in self._last()])
        for member, hypers in enumerate(self.hypers):
            self.states[member] = self._train(self.states[member], dict(hypers), self.options.interval)
            found = float(self._score(self.states[member]))
            score = found if not math.isnan(found) else -math.inf
            self.lineage.append(Event(self._rounds, member, self._parents[member], dict(hypers), score))
        self._rounds += 1

    @property
    def best(self) -> int:
        """The member with the highest score in the last round."""
        if not self.lineage:
            raise TrainingError("a population has no best member before its first round")
        return max(self._last(), key=lambda event: event.score).member

    def schedule(self, member: int | None = None) -> list[Event]:
        """The line of descent of a member's weights (the best one's), one event a round: its hyper-parameters' schedule."""
        line, at = [], self.best if member is None else member
        for done in reversed(range(self._rounds)):
            event = self.lineage[done * self.options.members + at]
            line.append(event)
            at = event.parent
        return line[::-1]

    def plot_lineage(self, path: str | Path, name: str) -> None:
        """Draw hyper-parameter `name` of every member over the rounds, with copies as dashes and the best line thick."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise TrainingError("a plot of a lineage needs matplotlib: pip install 'zkaudit[audit]'") from error
        if name not in self.space:
            raise TrainingError(f"{name!r} is none of the hyper-parameters {', '.join(self.space)}")
        axes = (figure := Figure(figsize=(7, 4))).add_subplot()
        values = {(event.round, event.member): event.hypers[name] for event in self.lineage}
        for event in self.lineage:
            if event.round:
                ends = [values[event.round - 1, event.parent], event.hypers[name]]
                axes.plot([event.round, event.round + 1], ends, "-" if event.parent == event.member else "--", c="grey", lw=0.7)
        line = self.schedule()
        axes.plot([event.round + 1 for event in line], [event.hypers[name] for event in line], c="C3", lw=2)
        axes.set(xlabel="round", ylabel=name)
        figure.savefig(path)

    def state_dict(self) -> dict[str, Any]:
        """Everything, between rounds; a copy."""
        kept = (self.hypers, self.states, self.lineage, self._parents, self._rounds, self._draws.getstate())
        return dict(zip(_KEPT, copy.deepcopy(kept), strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = copy.deepcopy(dict(state))
        if len(kept["hypers"]) != self.options.members:
            raise TrainingError(f"this population has {self.options.members} members, the saved one {len(kept['hypers'])}")
        self.hypers, self.states, self.lineage, self._parents, self._rounds, draws = (kept[name] for name in _KEPT)
        self._draws.setstate(draws)

    def _last(self) -> list[Event]:
        return self.lineage[-self.options.members :]

    def _exploit(self, scores: list[float]) -> None:
        order, copied, draws = sorted(range(len(scores)), key=scores.__getitem__), self.options.copied, self._draws
        self._parents = list(range(len(scores)))
        for member in order[:copied]:
            self._parents[member] = parent = draws.choice(order[len(order) - copied :])
            self.states[member] = copy.deepcopy(self.states[parent])
            self.hypers[member] = self._explored(self.hypers[parent])

    def _explored(self, hypers: Hypers) -> Hypers:
        draws, options = self._draws, self.options
        return {
            name: part.draw(draws) if draws.random() < options.resample else part.perturb(hypers[name], options.factors, draws)
            for name, part in self.space.items()
        }


def ray_scheduler(space: Mapping[str, Range | Choice], options: PopulationOptions, time: str = "training_iteration") -> Any:
    """Ray Tune's own scheduler with these options, for `tune.TuneConfig(scheduler=...)`; `interval` is in units of `time`.

    Ray lets a multiplied value leave its range: here it is put back."""
    try:
        from ray.tune.schedulers import PopulationBasedTraining
    except ImportError as error:
        raise TrainingError("population based training on a cluster needs Ray Tune: pip install 'ray[tune]'") from error
    draws = random.Random(options.seed)
    drawn: dict[str, Any] = {n: list(p.values) if isinstance(p, Choice) else partial(p.draw, draws) for n, p in space.items()}
    ranges = {name: part for name, part in space.items() if isinstance(part, Range)}

    def kept(hypers: Hypers) -> Hypers:
        return hypers | {name: min(max(hypers[name], part.low), part.high) for name, part in ranges.items()}

    return PopulationBasedTraining(
        time_attr=time, perturbation_interval=options.interval, quantile_fraction=options.fraction,
        resample_probability=options.resample, perturbation_factors=options.factors, hyperparam_mutations=drawn,
        custom_explore_fn=kept,
    )  # fmt: skip


_KEPT = ("hypers", "states", "lineage", "parents", "rounds", "draws")
