"""Warm-up, stable, decay: transformers' schedule, and a decay that starts when told."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import get_wsd_schedule

from zkaudit.training.errors import TrainingError
from zkaudit.training.schedule.wsd import SHAPES, WSD


def sgd(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates], lr=1.0)


def rates(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@settings(max_examples=30)
@given(
    stable=st.integers(0, 6),
    decay=st.integers(1, 6),
    shape=st.sampled_from(["linear", "cosine", "1-sqrt"]),
    floor=st.sampled_from([0.0, 0.1]),
)
def test_stable_phase_and_decay_are_those_of_transformers(stable: int, decay: int, shape: str, floor: float) -> None:
    theirs = get_wsd_schedule(sgd(0.3, 2.0), 0, decay, num_stable_steps=stable, decay_type=shape, min_lr_ratio=floor)
    ours = WSD(sgd(0.3, 2.0), 0, decay, stable, shape, floor)
    assert rates(ours, 15) == [pytest.approx(pair, rel=1e-12) for pair in rates(theirs, 15)]


def test_warm_up_is_linear_and_no_step_has_rate_0() -> None:
    assert [lr for (lr,) in rates(WSD(sgd(1.0), 4, 1), 6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_exponential_decay_halves_with_minicpms_half_life() -> None:
    scheduler = WSD(sgd(1.0), 0, decay=30, decay_start=10, floor=0.125)
    assert [scheduler.factor(10 + 10 * halvings) for halvings in range(5)] == pytest.approx([1.0, 0.5, 0.25, 0.125, 0.125])


@pytest.mark.parametrize("shape", SHAPES)
@given(decay=st.integers(1, 50), floor=st.floats(0.01, 0.9))
def test_a_decay_never_rises_and_ends_at_the_floor(shape: str, decay: int, floor: float) -> None:
    scheduler = WSD(sgd(1.0), 0, decay, 3, shape, floor)
    factors = [scheduler.factor(step) for step in range(decay + 6)]
    assert factors == sorted(factors, reverse=True)
    assert factors[:4] == pytest.approx([1.0] * 4)
    assert factors[-1] == pytest.approx(floor)


def test_a_decay_started_later_is_the_one_planned_from_the_start() -> None:
    planned, told = WSD(sgd(1.0), 2, 5, decay_start=6), WSD(sgd(1.0), 2, 50)
    first = rates(told, 6)
    told.start_decay(5)
    assert first + rates(told, 8) == rates(planned, 14)


@pytest.mark.parametrize("saved_at", [1, 4, 8])
def test_a_saved_schedule_goes_on_bit_for_bit_also_inside_a_decay_that_was_told(saved_at: int) -> None:
    def run(told: int) -> WSD:
        scheduler = WSD(sgd(0.7), 2, 9)
        for step in range(told):
            if step == 6:
                scheduler.start_decay(4)
            rates(scheduler, 1)
        return scheduler

    file = io.BytesIO()
    before = run(saved_at)
    torch.save((before.state_dict(), before.optimizer.state_dict()), file)
    file.seek(0)
    resumed = WSD(sgd(0.7), 2, 9)
    state, groups = torch.load(file, weights_only=True)  # as HF's Trainer loads scheduler.pt
    resumed.load_state_dict(state)
    resumed.optimizer.load_state_dict(groups)
    assert rates(resumed, 10) == rates(before, 10)


def test_a_decay_is_not_started_twice() -> None:
    scheduler = WSD(sgd(1.0), 0, 5, decay_start=0)
    with pytest.raises(TrainingError, match="begun at step 0"):
        scheduler.start_decay()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shape": "step"}, "shape = 'step' is none of exponential, linear, cosine, 1-sqrt"),
        ({"floor": 0.0}, "floor = 0.0"),
        ({"floor": 1.0, "shape": "linear"}, "floor = 1.0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"decay": 0}, "decay = 0"),
        ({"decay_start": 1, "warmup": 2}, "decay_start = 1 lies in the warm-up of 2"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        WSD(sgd(1.0), **{"warmup": 0, "decay": 1} | options)
