"""LAMB: the published equation, timm's steps, bounds of phi, and Adam where the ratio does not hold."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from continued_runs import assert_same, run_and_resumed_run, small_net, tiny_llama, train
from hypothesis import given
from hypothesis import strategies as st
from timm_optimizers import timm_optimizer
from torch import nn
from transformers import Trainer, TrainingArguments

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.lamb import LAMB, square_root_scaling


@given(decay=st.floats(0, 0.1), low=st.floats(0, 2), width=st.floats(0.5, 5), seed=st.integers(0, 99))
def test_steps_are_those_of_the_equation(decay: float, low: float, width: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    w, g, h = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    p = nn.Parameter(w.clone())
    optimizer = LAMB([p], lr=0.1, weight_decay=decay, phi=(low, low + width))
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, gradient in enumerate((g, h, g), start=1):
        p.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        u = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-6) + decay * w
        w = w - 0.1 * min(max(float(w.norm()), low), low + width) / u.norm() * u
    torch.testing.assert_close(p.detach(), w)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_steps_are_timms(decay: float) -> None:
    ours, theirs = small_net(), small_net()
    train(ours, LAMB(ours.parameters(), lr=0.02, weight_decay=decay), 0, 20)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "always_adapt": True, "weight_decay": decay},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    train(theirs, timm_optimizer("lamb", "Lamb")(groups, lr=0.02, max_grad_norm=None), 0, 20)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-10, atol=1e-12)


def test_biases_and_norms_get_adam_without_decay_and_are_named() -> None:
    ours, theirs = small_net(), small_net()
    optimizer = LAMB(ours.named_parameters(), lr=0.01, weight_decay=0.5)
    assert optimizer.plain == ("0.bias", "2.weight", "2.bias", "3.bias")
    train(ours, optimizer, 0, 1)
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-6), 0, 1)
    torch.testing.assert_close(ours.state_dict()["2.weight"], theirs.state_dict()["2.weight"])


def test_a_group_may_refuse_the_ratio() -> None:
    ours, theirs = small_net(), small_net()
    train(ours, LAMB([{"params": list(ours.parameters()), "adapt": False}], lr=0.01), 0, 5)
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-6), 0, 5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (0.0, 0.0)])
def test_the_ratio_is_one_where_a_norm_is_zero(weight: float, gradient: float) -> None:
    p = nn.Parameter(torch.full((2, 2), weight))
    p.grad = torch.full((2, 2), gradient)
    LAMB([p], lr=0.5, eps=0.0 if gradient else 1e-6).step()
    torch.testing.assert_close(p.detach(), torch.full((2, 2), -0.5 * gradient))


def test_each_matrix_moves_by_lr_times_its_norm() -> None:
    net = small_net()
    before = copy.deepcopy(net)
    train(net, LAMB(net.parameters(), lr=0.03, weight_decay=0.1), 0, 1)
    for p, old in zip(net.parameters(), before.parameters(), strict=True):
        if p.ndim > 1:
            torch.testing.assert_close((p - old).norm(), 0.03 * old.norm())


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, list[object]]:
        net = small_net()
        return net, LAMB(net.parameters(), lr=0.01, phi=(0.0, 10.0)), []

    assert_same(*run_and_resumed_run(build, 5))


def test_it_trains_in_the_trainer_of_transformers(tmp_path: Path) -> None:
    model = tiny_llama()
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 8, (40, 8))]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=20, learning_rate=0.02, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    result = Trainer(model, arguments, train_dataset=rows, optimizer_cls_and_kwargs=(LAMB, {"lr": 0.02})).train()
    assert result.training_loss < math.log(64)


@pytest.mark.parametrize(
    "option", [{"lr": -1.0}, {"eps": -1.0}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}, {"phi": (2.0, 1.0)}]
)
def test_bad_options_are_one_sentence(option: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=f"{next(iter(option))} (is|are)"):
        LAMB(small_net().parameters(), **option)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TrainingError, match="LAMB takes no sparse gradients"):
        LAMB(table.parameters()).step()


def test_the_learning_rate_grows_with_the_root_of_the_batch() -> None:
    assert square_root_scaling(1e-3, batch=1024, base_batch=64) == pytest.approx(4e-3)
