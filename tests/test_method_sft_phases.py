"""Phase plans: every record of a phase once an epoch, phases in order, rates as said, any step by itself."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from zkaudit.training.errors import TrainingError
from zkaudit.training.mixture.phases import Phase, PhasePlan, stacked

LABELS = ["facts", "skills", "facts", "facts", "chat", "skills", "facts"]


@given(batch=st.integers(1, 9), epochs=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.text(max_size=3))
def test_an_epoch_has_every_record_of_its_phase_once(batch: int, epochs: list[int], seed: str) -> None:
    wanted = [("facts",), ("skills", "chat"), None, ("facts", "chat")][: len(epochs)]
    plan = PhasePlan(LABELS, [Phase(labels, e) for labels, e in zip(wanted, epochs, strict=True)], batch, seed)
    seen: dict[tuple[int, int], list[int]] = {}
    for number in range(plan.steps):
        step = plan.step(number)
        assert 1 <= len(step.ids) <= batch
        seen.setdefault((step.phase, step.epoch), []).extend(step.ids)
    assert list(seen) == [(phase, epoch) for phase, count in enumerate(epochs) for epoch in range(count)]
    for (phase, _), ids in seen.items():
        labels = wanted[phase]
        assert sorted(ids) == [i for i, label in enumerate(LABELS) if labels is None or label in labels]


def test_a_stacked_plan_is_one_phase_of_everything() -> None:
    plan = stacked(LABELS, epochs=3, batch=2, run_seed="7")
    assert Counter(itertools.chain.from_iterable(plan)) == dict.fromkeys(range(7), 3)
    assert {plan.step(number).phase for number in range(plan.steps)} == {0}


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    labels = ["a"] * 50
    plans = [stacked(labels, epochs=2, batch=50, run_seed=seed) for seed in ("7", "8")]
    assert len({plan.step(epoch).ids for plan in plans for epoch in (0, 1)}) == 4


def test_steps_can_be_asked_for_in_any_order() -> None:
    plan = PhasePlan(LABELS, [Phase(("facts",), 2), Phase(None, 2)], 2, "7")
    in_order = list(plan)
    backwards = [list(plan.step(number).ids) for number in reversed(range(plan.steps))]
    assert backwards[::-1] == in_order
    assert list(PhasePlan(LABELS, plan.phases, 2, "7", first=3)) == in_order[3:]


def test_rates_restart_and_warm_up_in_every_phase() -> None:
    plan = PhasePlan(["a"] * 8, [Phase(None, 1, lr=1.0, warmup=1), Phase(None, 1, lr=0.2, warmup=3)], 2, "7")
    assert [plan.lr_factor(step) for step in range(10)] == pytest.approx([0.5, 1, 1, 1, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=10.0)
    scheduler, rates = LambdaLR(optimizer, plan.lr_factor), []
    for _ in range(plan.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([10 * plan.step(number).lr for number in range(plan.steps)])


def test_orders_are_the_same_for_ever() -> None:
    """Recorded runs are replayed with them."""
    assert list(stacked(["a"] * 6, epochs=2, batch=4, run_seed="7")) == [[0, 4, 1, 5], [2, 3], [4, 2, 1, 5], [0, 3]]


def test_a_loader_yields_the_plan_s_batches() -> None:
    plan = PhasePlan(LABELS, [Phase(("facts",), 1), Phase(("skills",), 1)], 3, "7", whole_batches=False)
    loader = DataLoader(list(range(7)), batch_sampler=plan)
    assert len(loader) == plan.steps == 3
    assert [batch.tolist() for batch in loader] == [list(plan.step(number).ids) for number in range(3)]


def test_whole_batches_leave_the_rest_of_an_epoch_out() -> None:
    plan = PhasePlan(["a"] * 7, [Phase(None, 2)], 3, "7", whole_batches=True)
    assert [len(ids) for ids in plan] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PhasePlan(LABELS, [], 2, "7"), "needs a phase"),
        (lambda: PhasePlan(LABELS, [Phase(("law",), 1)], 2, "7"), "phase 0 has 0 records"),
        (lambda: PhasePlan(LABELS, [Phase(("facts", "law"), 1)], 2, "7"), "asks for label 'law'"),
        (lambda: PhasePlan(LABELS, [Phase(("chat",), 1)], 2, "7", whole_batches=True), "phase 0 has 1 records"),
        (lambda: stacked(LABELS, 1, 0, "7"), "batch = 0"),
        (lambda: Phase(None, 0), "a phase needs an epoch"),
        (lambda: Phase(None, 1, lr=0.0), "a rate above 0"),
        (lambda: stacked(LABELS, 1, 7, "7").step(1), "step 1 is outside"),
    ],
)
def test_bad_plans_are_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
