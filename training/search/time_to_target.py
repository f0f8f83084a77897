"""Training methods compared by the time that each takes to reach a target, after AlgoPerf (Dahl et al. 2023, arXiv 2306.07179).

    time of a method on a workload = median over studies of the first time at which the validation metric reaches the target
    rho(tau) = fraction of workloads on which a method's time is at most tau times the best method's
    score = integral of rho from 1 to 4, over 3

External tuning: 5 studies of 5 trials with hyper-parameters drawn from the method's space, and the fastest trial counts; the
others are taken to run beside it. Self-tuning: one run a study, whose tuning is on the clock, with 3 times the budget. A target
that is not reached within the budget counts as infinite time, and a metric that is not a number does not reach it. Numbers are
AlgoPerf's; it draws quasi-random hyper-parameters, this draws random ones. Scores compare the methods of one table: adding a
method can change those of the others.

Time is what the run reports: seconds, or better steps or tokens where runs must be repeatable."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.search.population import Choice, Range

METHOD = Method(
    name="time-to-target",
    title="Time to a target, performance profiles and scores",
    paper="Dahl et al. 2023 (AlgoPerf), arXiv 2306.07179; profiles of Dolan and More 2002",
    where="zkaudit.training.search.time_to_target.compare",
    changes=("search", "evaluation"),
    effect="A fair comparison: tuning is part of the method, and the score says how often it is near the fastest.",
    library="algorithmic-efficiency has the benchmark's own workloads, which need GPUs; profile and score are ours",
    provable="It measures; there is nothing to prove.",
    server_sees="Nothing: it runs where the methods run.",
    use="""
entries = [Entry("SGD", runs, {"rate": Range(1e-3, 1, log=True)}), Entry("mine", others)]
found = compare(entries, [Workload("digits", 0.05, "lower", 300)])
print(found.score("SGD"), found.profile("SGD", tau=2))
""",
    avoid="comparing scores of different tables: they hold within one",
)

STUDIES, TRIALS, SELF_TUNING_FACTOR, LARGEST_TAU = 5, 5, 3.0, 4.0

Run = Callable[[Mapping[str, Any], int], Iterable[tuple[float, float]]]  # hyper-parameters, seed -> times with metrics


@dataclass(frozen=True)
class Workload:
    """What is to be reached: `target` of a metric for which `goal` ("lower" or "higher") is good, within `budget` of time."""

    name: str
    target: float
    goal: str
    budget: float

    def __post_init__(self) -> None:
        if self.goal not in ("lower", "higher"):
            raise TrainingError(f"goal of workload {self.name!r} must be 'lower' or 'higher', not {self.goal!r}")
        if not math.isfinite(self.target):
            raise TrainingError(f"target of workload {self.name!r} must be a number, not {self.target!r}")
        if not self.budget > 0:
            raise TrainingError(f"budget of workload {self.name!r} must be positive, not {self.budget!r}")

    def reached(self, metric: float) -> bool:
        return metric <= self.target if self.goal == "lower" else metric >= self.target

    def time_of(self, curve: Iterable[tuple[float, float]], budget: float | None = None) -> float:
        """The first time at which the curve reaches the target, or infinity. Stops reading there, or past the budget."""
        for time, metric in curve:
            if time > (self.budget if budget is None else budget):
                break
            if self.reached(metric):
                return time
        return math.inf


@dataclass(frozen=True)
class Entry:
    """A method: its runs by workload, and the space from which trials are drawn; no space means that it tunes itself."""

    name: str
    runs: Mapping[str, Run]
    space: Mapping[str, Range | Choice] | None = None


@dataclass(frozen=True)
class Comparison:
    """`times[method][workload]`, and what follows from them."""

    times: Mapping[str, Mapping[str, float]]
    chosen: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]] = field(default_factory=dict)  # fastest trial of each study

    def __post_init__(self) -> None:
        workloads = [set(times) for times in self.times.values()]
        if not workloads or not workloads[0] or any(names != workloads[0] for names in workloads):
            raise TrainingError("a comparison needs a time of every method on every workload")
        if any(not time >= 0 for times in self.times.values() for time in times.values()):
            raise TrainingError("times to a target are at least 0, or infinite")

    def ratios(self, method: str) -> dict[str, float]:
        """The method's time over the best method's, by workload: at least 1, infinite where the target was not reached."""
        if method not in self.times:
            raise TrainingError(f"{method!r} is none of the methods {', '.join(self.times)}")
        best = {name: min(times[name] for times in self.times.values()) for name in self.times[method]}
        return {name: _ratio(time, best[name]) for name, time in self.times[method].items()}

    def profile(self, method: str, tau: float) -> float:
        """rho(tau)."""
        ratios = self.ratios(method).values()
        return sum(ratio <= tau for ratio in ratios) / len(ratios)

    def score(self, method: str, largest_tau: float = LARGEST_TAU) -> float:
        """The mean of rho over [1, `largest_tau`], exactly: rho is a step function."""
        if not largest_tau > 1:
            raise TrainingError(f"largest_tau must be above 1, not {largest_tau!r}")
        return statistics.fmean(max(0.0, largest_tau - ratio) / (largest_tau - 1) for ratio in self.ratios(method).values())


def compare(
    entries: Sequence[Entry], workloads: Sequence[Workload], *, seed: int = 0, studies: int = STUDIES, trials: int = TRIALS
) -> Comparison:
    """Run every method on every workload. All draws come from `seed`; runs have seeds of their own, alike for all methods."""
    if studies < 1 or trials < 1:
        raise TrainingError(f"studies and trials must be at least 1, not {studies!r} and {trials!r}")
    times: dict[str, dict[str, float]] = {entry.name: {} for entry in entries}
    chosen: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        for workload in workloads:
            if workload.name not in entry.runs:
                raise TrainingError(f"method {entry.name!r} has no run for workload {workload.name!r}")
            found = [_study(entry, workload, f"{seed}/{workload.name}/{study}", trials) for study in range(studies)]
            times[entry.name][workload.name] = statistics.median(time for time, _ in found)
            chosen[entry.name, workload.name] = [hypers for _, hypers in found]
    return Comparison(times, chosen)


def _study(entry: Entry, workload: Workload, seed: str, trials: int) -> tuple[float, Mapping[str, Any]]:
    """The time of one study and the hyper-parameters that gave it."""
    run, draws = entry.runs[workload.name], random.Random(f"{seed}/hypers")
    seeds = random.Random(f"{seed}/runs")
    if entry.space is None:
        return workload.time_of(run({}, seeds.getrandbits(31)), SELF_TUNING_FACTOR * workload.budget), {}
    found = []
    for _ in range(trials):
        hypers = {name: part.draw(draws) for name, part in entry.space.items()}
        found.append((workload.time_of(run(hypers, seeds.getrandbits(31))), hypers))
    return min(found, key=lambda trial: trial[0])


def _ratio(time: float, best: float) -> float:
    if math.isinf(time):
        return math.inf
    return 1.0 if time == best else time / best if best else math.inf
