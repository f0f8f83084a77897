"""Regime adaptation: as many updates for a large batch as for a small one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.schedule.regime import Regime, log_law, weight_distance

SMALL = Regime(batch=128, lr=0.1, epochs=200, milestones=(80, 120))


@given(ratio=st.integers(1, 64), records=st.integers(1, 200).map(lambda number: number * 128 * 64))
def test_a_larger_batch_makes_as_many_updates_and_turns_at_the_same_ones(ratio: int, records: int) -> None:
    large = SMALL.adapted(128 * ratio)
    assert large.updates(records) == SMALL.updates(records)
    turns = [[regime.updates(records, epoch) for epoch in regime.milestones] for regime in (SMALL, large)]
    assert turns[0] == turns[1]


def test_papers_case_4096_from_128() -> None:
    large = SMALL.adapted(4096)
    assert (large.lr, large.epochs, large.milestones) == (pytest.approx(0.1 * math.sqrt(32)), 6400, (2560, 3840))
    assert SMALL.adapted(4096, "linear").lr == pytest.approx(3.2)
    assert SMALL.adapted(4096, "none").lr == 0.1


def test_the_updates_covariance_is_that_of_the_small_batch() -> None:
    """lr^2 times the variance of a batch's mean gradient."""
    gradients = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = {
        regime.batch: regime.lr**2 * gradients[: 100_000 // 1024 * 1024].reshape(-1, regime.batch).mean(1).var()
        for regime in (SMALL, SMALL.adapted(1024))
    }
    assert float(spread[1024] / spread[128]) == pytest.approx(1.0, rel=0.3)


def test_the_scheduler_falls_at_the_milestones_and_resumes() -> None:
    def started() -> torch.optim.lr_scheduler.MultiStepLR:
        regime = Regime(4, 0.1, 6, (2, 4)).adapted(8)
        return regime.scheduler(torch.optim.SGD([nn.Parameter(torch.ones(1))], regime.lr), records=16)

    def rates(scheduler: torch.optim.lr_scheduler.MultiStepLR, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            found.append(scheduler.get_last_lr()[0])
            scheduler.optimizer.step()
            scheduler.step()
        return found

    straight, before, resumed = started(), started(), started()
    expected = rates(straight, 24)
    root = 0.1 * math.sqrt(2)
    assert expected == pytest.approx([root] * 8 + [root / 10] * 8 + [root / 100] * 8)
    rates(before, 10)
    resumed.load_state_dict(before.state_dict())
    resumed.optimizer.load_state_dict(before.optimizer.state_dict())
    assert rates(resumed, 14) == expected[10:]


@given(slope=st.floats(0.1, 10), intercept=st.floats(-5, 5))
def test_log_law_finds_the_law_that_made_the_distances(slope: float, intercept: float) -> None:
    steps = [1, 3, 10, 40, 200]
    law = log_law(steps, [slope * math.log(step) + intercept for step in steps])
    assert law == pytest.approx((slope, intercept, 1.0), rel=1e-9, abs=1e-9)


def test_a_straight_line_is_no_log_law() -> None:
    assert log_law(range(1, 200), list(range(1, 200))).r2 < 0.9


def test_weight_distance_is_over_all_weights() -> None:
    assert weight_distance([torch.zeros(2), torch.ones(1)], [torch.tensor([3.0, 0.0]), torch.tensor([5.0])]) == 5.0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Regime(0, 0.1, 1), "batch = 0"),
        (lambda: SMALL.adapted(200), "batch = 200 is no multiple of 128"),
        (lambda: SMALL.adapted(64), "batch = 64 is no multiple of 128"),
        (lambda: SMALL.adapted(256, "cube"), "rule = 'cube' is none of sqrt, linear, none"),
        (lambda: log_law([1, 2], [1.0, 2.0]), "at least three"),
        (lambda: log_law([0, 1, 2], [1.0, 2.0, 3.0]), "above 0"),
    ],
)
def test_bad_options_are_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
