"""Time to a target: what counts as reached, whose tuning counts, and profiles and scores against their definitions."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.search.population import Choice, Range
from zkaudit.training.search.time_to_target import Comparison, Entry, Workload, compare

LOWER = Workload("w", target=0.5, goal="lower", budget=10)
TIMES = st.one_of(st.floats(1, 100), st.just(math.inf))


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([(1, 0.9), (2, 0.5), (3, 0.1)], 2),
        ([(1, 0.4), (2, 0.9)], 1),  # later worsening does not undo it
        ([(10, 0.4)], 10),
        ([(11, 0.4)], math.inf),
        ([(1, math.nan)], math.inf),
        ([], math.inf),
    ],
)
def test_time_is_of_the_first_metric_that_reaches_the_target(curve: list[tuple[float, float]], expected: float) -> None:
    assert expected == LOWER.time_of(curve)
    higher = Workload("w", target=-0.5, goal="higher", budget=10)
    assert expected == higher.time_of((time, -metric) for time, metric in curve)


def test_a_run_is_stopped_at_the_target_and_past_the_budget() -> None:
    seen: list[int] = []

    def run(at: int) -> Iterator[tuple[float, float]]:
        for step in range(100):
            seen.append(step)
            yield step, 0.0 if step >= at else 1.0

    assert LOWER.time_of(run(3)) == 3
    assert seen == [0, 1, 2, 3]
    seen.clear()
    assert LOWER.time_of(run(50)) == math.inf
    assert seen[-1] == 11


@given(st.lists(st.tuples(TIMES, TIMES, TIMES), min_size=1, max_size=6))
def test_score_is_the_integral_of_the_profile(rows: list[tuple[float, float, float]]) -> None:
    times = {name: {str(j): row[k] for j, row in enumerate(rows)} for k, name in enumerate("abc")}
    comparison = Comparison(times)
    taus = np.linspace(1, 4, 3001)
    table = np.array(rows)
    with np.errstate(invalid="ignore"):
        ratios = table / table.min(axis=1, keepdims=True)
    ratios[np.isnan(ratios)] = math.inf
    for k, name in enumerate("abc"):
        rho = (ratios[:, k, None] <= taus + 1e-12).mean(axis=0)
        assert np.trapezoid(rho, taus) / 3 == pytest.approx(comparison.score(name), abs=2e-3)
        assert (ratios[:, k] <= 2).mean() == comparison.profile(name, 2)


def test_the_fastest_everywhere_scores_one_and_who_never_arrives_scores_nothing() -> None:
    comparison = Comparison({"a": {"x": 3.0, "y": 0.0}, "b": {"x": math.inf, "y": math.inf}, "c": {"x": 6.0, "y": 1.0}})
    assert comparison.score("a") == 1
    assert comparison.score("b") == 0
    assert comparison.ratios("c") == {"x": 2.0, "y": math.inf}


def descent(hypers: Mapping[str, Any], seed: int) -> Iterator[tuple[float, float]]:
    value = 1.0
    for step in range(1, 1000):
        value *= 1 - hypers.get("rate", 0.01)
        yield step, value


def test_external_tuning_takes_the_fastest_of_a_study_and_the_median_of_studies() -> None:
    space = {"rate": Range(0.001, 0.5, log=True)}
    found = compare([Entry("m", {"w": descent}, space)], [LOWER], studies=3, trials=4, seed=1)
    times = sorted(LOWER.time_of(descent(hypers, 0)) for hypers in found.chosen["m", "w"])
    assert times[1] == found.times["m"]["w"]
    one = compare([Entry("m", {"w": descent}, space)], [LOWER], studies=3, trials=1, seed=1)
    assert found.times["m"]["w"] <= one.times["m"]["w"]
    assert found == compare([Entry("m", {"w": descent}, space)], [LOWER], studies=3, trials=4, seed=1)


def test_self_tuning_has_three_times_the_budget_and_one_run() -> None:
    runs: list[int] = []

    def run(hypers: Mapping[str, Any], seed: int) -> Iterator[tuple[float, float]]:
        runs.append(seed)
        assert hypers == {}
        yield 29, 0.0

    entries = [Entry("self", {"w": run}), Entry("tuned", {"w": lambda hypers, seed: [(29, 0.0)]}, {"a": Choice((1,))})]
    found = compare(entries, [LOWER], studies=2)
    assert len(runs) == len(set(runs)) == 2
    assert found.times == {"self": {"w": 29}, "tuned": {"w": math.inf}}


def test_bad_input_is_named() -> None:
    with pytest.raises(TrainingError, match="goal of workload 'w'"):
        Workload("w", 0.5, "smaller", 10)
    with pytest.raises(TrainingError, match="budget of workload 'w'"):
        Workload("w", 0.5, "lower", 0)
    with pytest.raises(TrainingError, match="no run for workload 'w'"):
        compare([Entry("m", {})], [LOWER])
    with pytest.raises(TrainingError, match="every method on every workload"):
        Comparison({"a": {"x": 1.0}, "b": {"y": 1.0}})
    with pytest.raises(TrainingError, match="none of the methods"):
        Comparison({"a": {"x": 1.0}}).score("b")
    with pytest.raises(TrainingError, match="largest_tau"):
        Comparison({"a": {"x": 1.0}}).score("a", 1.0)
