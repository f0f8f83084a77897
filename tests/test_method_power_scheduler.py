"""The power scheduler: lr = min(lr_max, beta a n^b), warm-up and decay around it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from zkaudit.training.errors import TrainingError
from zkaudit.training.schedule.power import Best, PowerLR, fit_power


def adamw(*rates: float) -> torch.optim.AdamW:
    return torch.optim.AdamW([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates])


def rates(scheduler: PowerLR, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_published_numbers_at_a_trillion_tokens() -> None:
    scheduler = PowerLR(adamw(0.02), batch=1024, tokens=1024 * 4096, warmup=100, decay=10)
    step = round(1e12 / (1024 * 4096))
    assert 0.02 * scheduler.factor(step) == pytest.approx(1024 * 4.6 * 1e12**-0.51, rel=1e-4)
    assert 0.02 * scheduler.factor(100) == 0.02


def test_rates_are_the_equation_in_float64() -> None:
    numbers = np.arange(1, 40, dtype=np.float64)
    scheduler = PowerLR(adamw(0.02), batch=8, tokens=64, warmup=0, decay=5, a=0.05, b=-0.6)
    assert rates(scheduler, 40) == pytest.approx([0.02, *np.minimum(0.02, 8 * 0.05 * (64 * numbers) ** -0.6)], rel=1e-12)


def test_warm_up_ends_and_decay_starts_at_the_power_laws_value() -> None:
    scheduler = PowerLR(adamw(1.0), 1, 10, warmup=4, decay=6, decay_start=20, shape="linear", floor=0.0, a=0.5, b=-0.5)
    law = [0.5 * (10 * step) ** -0.5 for step in range(1, 30)]
    assert scheduler.factor(4) == pytest.approx(law[3])
    assert [scheduler.factor(step) / law[3] for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [scheduler.factor(20 + step) / law[19] for step in range(8)] == pytest.approx([1 - i / 6 for i in range(6)] + [0, 0])


@given(times=st.integers(1, 8), step=st.integers(1, 1000))
def test_the_rate_per_sequence_depends_on_the_tokens_seen_alone(times: int, step: int) -> None:
    """So that a batch `times` as large, at the same token count, has `times` the rate."""
    small = PowerLR(adamw(1.0), 4, 40, 0, 1, a=1e-3)
    large = PowerLR(adamw(1.0), 4 * times, 40 * times, 0, 1, a=1e-3)
    assert large.factor(step) == pytest.approx(times * small.factor(step * times), rel=1e-12)


def test_groups_keep_their_ratios() -> None:
    scheduler = PowerLR(adamw(0.02, 0.005), 8, 64, 0, 1, a=0.01)
    for _ in range(30):
        first, second = scheduler.get_last_lr()
        assert second == pytest.approx(first / 4, rel=1e-12)
        scheduler.optimizer.step()
        scheduler.step()
    assert first < 0.002


def test_a_saved_schedule_goes_on_bit_for_bit() -> None:
    before, resumed = (PowerLR(adamw(0.02), 8, 64, 3, 4, a=0.01) for _ in range(2))
    rates(before, 7)
    before.start_decay()
    rates(before, 2)
    resumed.load_state_dict(before.state_dict())
    resumed.optimizer.load_state_dict(before.optimizer.state_dict())
    assert rates(resumed, 8) == rates(before, 8)


@given(a=st.floats(0.01, 10), b=st.floats(-1, -0.1))
def test_fit_finds_the_law_that_made_the_rates(a: float, b: float) -> None:
    made = [Best(tokens, batch, batch * a * tokens**b) for tokens in (10_000, 40_000) for batch in (4, 16)]
    assert fit_power(made) == pytest.approx((a, b), rel=1e-9)


def test_trainer_runs_and_resumes_with_it(tmp_path: Path) -> None:
    def train(folder: str, resume: str | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        scheduler = PowerLR(optimizer, batch=2, tokens=16, warmup=1, decay=2, decay_start=4, a=0.02)
        arguments = TrainingArguments(
            str(tmp_path / folder), per_device_train_batch_size=2, max_steps=6, save_steps=3, report_to=[], use_cpu=True,
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        rows = [{"input_ids": (ids := torch.arange(8) * (1 + i % 3) % 11), "labels": ids} for i in range(12)]
        Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, scheduler)).train(resume_from_checkpoint=resume)
        assert scheduler.last_epoch == 6
        return model.state_dict()

    straight = train("straight")
    resumed = train("resumed", str(tmp_path / "straight" / "checkpoint-3"))
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch": 0}, "batch = 0"),
        ({"tokens": 3}, "tokens = 3"),
        ({"a": 0.0}, "a = 0.0"),
        ({"b": 0.5}, "b = 0.5"),
    ],
)
def test_bad_options_are_named(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        PowerLR(adamw(0.02), **{"batch": 4, "tokens": 16, "warmup": 0, "decay": 1} | options)


def test_a_fit_needs_two_token_counts() -> None:
    with pytest.raises(TrainingError, match="at least two numbers of tokens"):
        fit_power([Best(100, 1, 0.1), Best(100, 2, 0.1)])
