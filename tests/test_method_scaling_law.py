"""Scaling laws: constants come back from data made with them, intervals cover, and unusable data is named."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.search.scaling_law import (
    BatchLaw,
    SizeLaw,
    SizeStepLaw,
    fit_critical_batch,
    fit_sizes,
    fit_sizes_and_steps,
)

SIZES = [1e4, 3e4, 1e5, 3e5, 1e6]


@settings(max_examples=15)
@given(a_n=st.floats(0.05, 0.6), log_n_c=st.floats(10, 30))
def test_the_law_of_sizes_comes_back_from_exact_data(a_n: float, log_n_c: float) -> None:
    law = SizeLaw(math.exp(log_n_c), a_n)
    found = fit_sizes(SIZES, [law(size) for size in SIZES], draws=1).law
    assert found.a_n == pytest.approx(a_n, rel=1e-5)
    assert math.log(found.n_c) == pytest.approx(log_n_c, rel=1e-5)


@settings(max_examples=5)
@given(a_n=st.floats(0.07, 0.3), a_s=st.floats(0.4, 0.9))
def test_the_law_of_sizes_and_steps_comes_back_and_predicts_a_larger_run(a_n: float, a_s: float) -> None:
    law = SizeStepLaw(1e13, a_n, 2e3, a_s)
    points = [(size, step) for size in SIZES for step in (1e3, 3e3, 1e4, 1e5)]
    found = fit_sizes_and_steps(*zip(*points, strict=True), [law(*point) for point in points], draws=1).law
    assert found.a_n == pytest.approx(a_n, rel=1e-3)
    assert found.a_s == pytest.approx(a_s, rel=1e-3)
    assert found(1e8, 1e6) == pytest.approx(law(1e8, 1e6), rel=1e-3)


@settings(max_examples=5)
@given(a_b=st.floats(0.15, 0.5), log_b=st.floats(6, 12))
def test_the_critical_batch_comes_back_with_the_smallest_steps(a_b: float, log_b: float) -> None:
    law, smallest = BatchLaw(math.exp(log_b), a_b), {3.0: 900.0, 2.5: 2500.0, 2.2: 7000.0}
    batches = [float(law(2.5)) * factor for factor in (0.05, 0.3, 1, 4, 20)]
    points = [(batch, least * (1 + law(loss) / batch), loss) for loss, least in smallest.items() for batch in batches]
    found = fit_critical_batch(*zip(*points, strict=True), draws=1).law
    assert found(2.5) == pytest.approx(law(2.5), rel=1e-4)
    assert found.a_b == pytest.approx(a_b, rel=1e-3)
    assert found.smallest_steps(points[0][1], points[0][0], 3.0) == pytest.approx(900, rel=1e-3)


def test_at_the_critical_batch_twice_the_smallest_steps_are_needed() -> None:
    law = BatchLaw(1e5, 0.21)
    assert law.smallest_steps(1000, law(2.0), 2.0) == pytest.approx(500)


@pytest.mark.slow
def test_nine_of_ten_intervals_cover_the_larger_run() -> None:
    law, random = SizeLaw(1e10, 0.1), np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        losses = [law(size) * math.exp(random.normal(0, 0.01)) for size in SIZES]
        low, high = fit_sizes(SIZES, losses, draws=60, seed=seed).interval(1e7)
        covered += low <= law(1e7) * math.exp(random.normal(0, 0.01)) <= high
    assert 42 <= covered <= 60  # of 54 expected; five points make a bootstrap optimistic


def test_intervals_shrink_with_the_noise_and_repeat_with_the_seed() -> None:
    law, noise = SizeLaw(1e10, 0.1), np.random.default_rng(1).normal(0, 1, len(SIZES))
    losses = [[law(size) * math.exp(scale * z) for size, z in zip(SIZES, noise, strict=True)] for scale in (0.001, 0.05)]
    little, much = (fit_sizes(SIZES, column, draws=50) for column in losses)
    widths = [high - low for low, high in (little.parameters()["a_n"], much.parameters()["a_n"])]
    assert widths[0] < widths[1]
    assert fit_sizes(SIZES, losses[1], draws=50) == much
    assert little.parameters()["a_n"][0] <= little.law.a_n <= little.parameters()["a_n"][1]


def test_unusable_data_is_named() -> None:
    with pytest.raises(TrainingError, match="losses must be positive numbers, not -1"):
        fit_sizes([1, 2, 3], [1, 2, -1])
    with pytest.raises(TrainingError, match="sizes, losses must be lists of one length"):
        fit_sizes([1, 2, 3], [1, 2])
    with pytest.raises(TrainingError, match="at least 3 runs, not 2"):
        fit_sizes([1, 2], [1, 2])
    with pytest.raises(TrainingError, match="sizes must have at least three different values, not 1"):
        fit_sizes([2, 2, 2], [1, 2, 3])
    with pytest.raises(TrainingError, match="two levels"):
        fit_critical_batch([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    with pytest.raises(TrainingError, match="level must be between"):
        fit_sizes([1, 2, 3], [3, 2, 1], draws=2).interval(4, level=1.0)
