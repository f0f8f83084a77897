"""Fira: the residual by hand, its limiter, and a run that goes on where it stopped."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.fira import FiraAdamW
from zkaudit.training.optim.galore import GaLoreAdamW
from zkaudit.training.optim.moments import STATES

SHAPES = [(9, 5), (4, 11), (6, 6)]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def both(shape: tuple[int, int], steps: int, **options: Any) -> list[list[Tensor]]:
    """The weights of GaLore and of Fira after each step, from the same start and gradients."""
    runs = []
    for kind in (GaLoreAdamW, FiraAdamW):
        own = options if kind is FiraAdamW else {k: v for k, v in options.items() if k not in ("limit", "residual")}
        weight = random(*shape).requires_grad_()
        optimizer, seen = kind([weight], rank=3, **own), [weight.detach().clone()]
        for step in range(steps):
            weight.grad = random(*shape, seed=step + 1)
            optimizer.step()
            seen.append(weight.detach().clone())
        runs.append(seen)
    return runs


@pytest.mark.parametrize("scale", [0.25, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_step_is_galores_and_the_residual(shape: tuple[int, int], scale: float) -> None:
    (start, galore), (_, fira) = both(shape, 1, scale=scale)
    gradient = random(*shape, seed=1)
    u, s, vt = torch.linalg.svd(gradient, full_matrices=False)
    outside = (u[:, 3:] * s[3:]) @ vt[3:]
    right = shape[0] >= shape[1]
    low = gradient @ vt[:3].T if right else u[:, :3].T @ gradient
    direction = 0.1 * low / (0.001 * low**2).sqrt().add(1e-6)
    phi = direction.norm(dim=1 if right else 0, keepdim=True) / (low.norm(dim=1 if right else 0, keepdim=True) + 1e-8)
    rate = 0.01 * math.sqrt(1 - 0.999) / (1 - 0.9)
    torch.testing.assert_close(fira, galore - rate * outside * phi, rtol=1e-12, atol=1e-12)
    assert (start - galore).norm() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_the_released_residual_keeps_part_of_the_gradient_inside(shape: tuple[int, int]) -> None:
    (_, galore), (_, orthogonal) = both(shape, 1)
    (_, _), (_, released) = both(shape, 1, residual="released")
    u, _, vt = torch.linalg.svd(random(*shape, seed=1), full_matrices=False)
    inside = (lambda x: x @ vt[:3].T) if shape[0] >= shape[1] else (lambda x: u[:, :3].T @ x)
    assert inside(orthogonal - galore).norm() < 1e-12
    assert inside(released - galore).norm() > 1e-3
    (_, _), (_, one) = both(shape, 1, scale=1.0)
    (_, _), (_, other) = both(shape, 1, scale=1.0, residual="released")
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@given(growth=st.floats(1.0, 1e6), limit=st.floats(1.0, 2.0), seed=st.integers(0, 2**32 - 1))
def test_the_residuals_norm_grows_by_the_limit_at_most(growth: float, limit: float, seed: int) -> None:
    weight = random(8, 6).requires_grad_()
    optimizer = FiraAdamW([weight], rank=2, limit=limit)
    norms = []
    for step in range(4):
        weight.grad = random(8, 6, seed=seed + step) * growth**step
        optimizer.step()
        norms.append(float(optimizer.state[weight]["residual_norm"]))
    for before, after in itertools.pairwise(norms):
        assert after <= limit * (before + 1e-8) * (1 + 1e-9)


def test_the_limiter_rescales_the_residual_and_keeps_its_direction() -> None:
    free, limited = (both((8, 6), 2, limit=limit)[1] for limit in (1e9, 1.0))
    galore = both((8, 6), 2)[0]
    steps = [(run[2] - run[1]) - (galore[2] - galore[1]) for run in (free, limited)]
    ratio = steps[1].norm() / steps[0].norm()
    assert 0 < ratio < 1
    torch.testing.assert_close(steps[1], steps[0] * ratio)


def test_a_residual_of_0_does_not_hold_the_next_ones_back() -> None:
    """A matrix before a zero one has no gradient in the first step; 1.01 times 0 would then bound all that follow."""
    weight = torch.zeros(8, 6, dtype=torch.float64, requires_grad=True)
    optimizer = FiraAdamW([weight], rank=2)
    for gradient in (torch.zeros(8, 6, dtype=torch.float64), random(8, 6, seed=1)):
        weight.grad = gradient
        optimizer.step()
    assert optimizer.state[weight]["residual_norm"] > 0.1


def test_a_matrix_keeps_one_number_more_than_galores() -> None:
    counts = []
    for kind in (GaLoreAdamW, FiraAdamW):
        weight = random(9, 5).requires_grad_()
        optimizer = kind([weight], rank=3)
        weight.grad = random(9, 5, seed=1)
        optimizer.step()
        counts.append(sum(value.numel() for value in optimizer.state[weight].values() if isinstance(value, Tensor)))
    assert counts == [2 * 3 * 9 + 3 * 5, 2 * 3 * 9 + 3 * 5 + 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("states", STATES)
def test_a_saved_run_goes_on_bit_for_bit(states: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zkaudit.training.optim.moments.SMALLEST", 1)
    ours = random(9, 5, dtype=dtype).requires_grad_()
    optimizer = FiraAdamW([ours], rank=3, update_gap=3, states=states, limit=1.05, residual="released")
    for step in range(4):
        ours.grad = random(9, 5, seed=step, dtype=dtype)
        optimizer.step()
    other = ours.detach().clone().requires_grad_()
    resumed = FiraAdamW([other], rank=3)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(4, 9):
        for p, run in ((ours, optimizer), (other, resumed)):
            p.grad = random(9, 5, seed=step, dtype=dtype)
            run.step()
    assert torch.equal(ours, other)


def test_a_vector_gets_plain_adamw_and_is_listed() -> None:
    ours, theirs = random(7).requires_grad_(), random(7).requires_grad_()
    fira, plain = FiraAdamW([ours], rank=3), GaLoreAdamW([theirs])
    ours.grad, theirs.grad = random(7, seed=1), random(7, seed=1)
    fira.step()
    plain.step()
    assert torch.equal(ours, theirs)
    assert [fallback.reason for fallback in fira.fallbacks] == ["plain AdamW: it has 1 dimensions, not 2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0.5}, "limit=0.5"),
        ({"residual": "all"}, "residual='all'"),
        ({"rank": 2, "projection": "full"}, "projection='full'"),
        ({"rank": -1}, "rank=-1"),
    ],
)
def test_a_bad_option_is_named_with_its_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        FiraAdamW([random(4, 4).requires_grad_()], **options)
    with pytest.raises(TrainingError, match=message):
        FiraAdamW([{"params": [random(4, 4).requires_grad_()], **options}])
