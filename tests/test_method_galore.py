"""GaLore: the paper's equations by hand, subspaces, what is kept, what falls back, and a run that goes on where it stopped."""

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.galore import GaLoreAdamW, low_rank_groups
from zkaudit.training.optim.moments import STATES, kept
from zkaudit.training.optim.projection import (
    PROJECTIONS,
    REFRESHES,
    derived_seed,
    seeded,
)

SHAPES = [(9, 5), (4, 11), (6, 6)]
seeds = st.integers(0, 2**32 - 1)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [random(*shape, seed=i, dtype=dtype).requires_grad_() for i, shape in enumerate([*SHAPES, (7,)])]


def give_gradients(parameters: list[Tensor], step: int) -> None:
    for i, p in enumerate(parameters):
        p.grad = random(*p.shape, seed=100 * step + i, dtype=p.dtype)


def signed(vectors: Any) -> Any:
    """Columns whose entry of largest magnitude is positive."""
    return vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])


def by_hand(weights: Any, gradients: list[Any], rank: int, gap: int, kind: str, lr: float, decay: float, scale: float) -> Any:
    """The equations of the module's docstring in float64 numpy, with both bases, the identity for a side without one."""
    b1, b2, eps = 0.9, 0.999, 1e-6
    tall = weights.shape[0] >= weights.shape[1]
    first = second = 0.0
    for t, gradient in enumerate(gradients):
        if t % gap == 0:
            u, _, vt = np.linalg.svd(gradient, full_matrices=False)
            u, v = u[:, :rank], vt[:rank].T
            if kind == "full":
                signs = np.sign(u[np.abs(u).argmax(0), np.arange(rank)])
                u, v = u * signs, v * signs
            elif kind == "left" or kind == ("reverse_std" if tall else "std"):
                u, v = signed(u), np.eye(weights.shape[1])
            else:
                u, v = np.eye(weights.shape[0]), signed(v)
        low = u.T @ gradient @ v
        first = b1 * first + (1 - b1) * low
        second = b2 * second + (1 - b2) * low**2
        corrected = lr * math.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
        weights = weights - corrected * scale * u @ (first / (np.sqrt(second) + eps)) @ v.T
        weights = weights - lr * decay * weights
    return weights


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_steps_equal_the_papers_equations_in_float64(kind: str) -> None:
    ours = parameters()
    start = [p.detach().numpy().copy() for p in ours]
    groups: list[dict[str, Any]] = [{"params": ours[:3], "rank": 3, "projection": kind}, {"params": ours[3:]}]
    optimizer = GaLoreAdamW(groups, weight_decay=0.1, update_gap=4)
    history: list[list[Any]] = [[] for _ in ours]
    for step in range(10):
        give_gradients(ours, step)
        for seen, p in zip(history, ours, strict=True):
            assert p.grad is not None
            seen.append(p.grad.numpy().copy())
        optimizer.step()
    for i in range(3):
        expected = by_hand(start[i], history[i], 3, 4, kind, 0.01, 0.1, 0.25)
        np.testing.assert_allclose(ours[i].detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_without_a_rank_it_is_adamw() -> None:
    ours, theirs = parameters(), parameters()
    pairs = [GaLoreAdamW(ours, eps=1e-300), torch.optim.AdamW(theirs, lr=0.01, eps=1e-300, weight_decay=0)]
    for step in range(5):
        for optimizer, group in zip(pairs, (ours, theirs), strict=True):
            give_gradients(group, step)
            optimizer.step()
    for p, q in zip(theirs, ours, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


@given(m=st.integers(2, 12), n=st.integers(2, 12), data=st.data())
def test_a_matrix_keeps_2rmax_plus_rmin_numbers(m: int, n: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(m, n) - 1))
    weight = random(m, n).requires_grad_()
    optimizer = GaLoreAdamW([weight], rank=rank)
    weight.grad = random(m, n, seed=1)
    optimizer.step()
    kept = sum(value.numel() for value in optimizer.state[weight].values() if isinstance(value, Tensor))
    assert kept == 2 * rank * max(m, n) + rank * min(m, n)


def test_a_seeded_basis_can_be_made_again_without_the_gradient() -> None:
    weights = parameters()[:3]
    optimizer = GaLoreAdamW(weights, rank=2, refresh="seed", seed=5, update_gap=3)
    for step in range(4):
        give_gradients(weights, step)
        optimizer.step()
    for index, p in enumerate(weights):
        expected = seeded(torch.empty(p.shape, dtype=p.dtype), 2, "std", derived_seed(5, index, 3))
        for side in ("left", "right"):
            torch.testing.assert_close(optimizer.state[p].get(side), getattr(expected, side), rtol=0, atol=0)


@pytest.mark.parametrize("states", STATES)
def test_moments_turn_with_the_subspace_only_if_asked(states: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zkaudit.training.optim.moments.SMALLEST", 1)
    weights = [random(9, 5, dtype=torch.float32).requires_grad_() for _ in range(2)]
    for p, rotate in zip(weights, (False, True), strict=True):
        optimizer = GaLoreAdamW([p], rank=2, update_gap=1, betas=(1 - 1e-12, 0.999), states=states, rotate_moments=rotate)
        for step in range(2):
            give_gradients([p], step)
            optimizer.step()
    assert not torch.equal(*weights)


@pytest.mark.parametrize("states", ["int8", "fp8"])
def test_what_falls_back_is_listed_with_its_reason(states: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Linear(70, 70), nn.Linear(70, 3))
    optimizer = GaLoreAdamW(model.named_parameters(), rank=8, states=states)
    listed = {(fallback.parameter, fallback.reason.split(":")[0]) for fallback in optimizer.fallbacks}
    assert {name for name, reason in listed if reason == "plain AdamW"} == {name for name, _ in model.named_parameters()} - {
        "1.weight"
    }
    assert ("1.weight", "float32 states") in listed
    assert [f.parameter for f in GaLoreAdamW([*model[2].parameters()], rank=2).fallbacks] == ["parameter 1"]
    assert GaLoreAdamW(model.parameters()).fallbacks == []


def on_a_quadratic(states: str, steps: int, start: tuple[int, int] = (96, 512)) -> tuple[Tensor, GaLoreAdamW]:
    """A weight after noisy gradients towards a target of rank 8, and its optimizer."""
    target = random(start[0], 8, seed=1, dtype=torch.float32) @ random(8, start[1], seed=2, dtype=torch.float32)
    weight = torch.zeros(start, requires_grad=True)
    optimizer = GaLoreAdamW([weight], lr=0.2, betas=(0.9, 0.95), rank=16, update_gap=20, states=states)
    for step in range(steps):
        weight.grad = weight.detach() - target + 0.1 * random(*start, seed=step + 3, dtype=torch.float32)
        optimizer.step()
    return (weight.detach() - target) / target.norm(), optimizer


def test_fp8_moments_take_a_byte_and_a_16th_a_number() -> None:
    _, optimizer = on_a_quadratic("fp8", 1)
    [state] = optimizer.state.values()
    sizes = {name: value.numel() * value.element_size() for name, value in state.items() if isinstance(value, Tensor)}
    moment, basis = 16 * 512, 16 * 96
    assert sum(sizes.values()) == 2 * (moment + moment // 128 * 8) + 4 * basis
    assert {state[name].dtype for name in ("exp_avg", "exp_avg_sq")} == {torch.float8_e4m3fn}
    assert optimizer.fallbacks == []


def test_fp8_moments_end_where_float32_ones_do() -> None:
    precise, compressed = (on_a_quadratic(states, 100)[0] for states in ("float32", "fp8"))
    assert precise.norm() < 0.7
    assert 0 < (compressed - precise).norm() < 0.06


def test_states_may_change_form_in_the_middle_of_a_run() -> None:
    _, optimizer = on_a_quadratic("int8", 3)
    [(weight, state)] = optimizer.state.items()
    for states in ("fp8", "float32", "int8"):
        before = kept(state, "exp_avg", torch.float32, signed=True).clone()
        optimizer.param_groups[0] |= {"states": states, "betas": (1 - 1e-9, 0.95)}
        optimizer.step()
        after = kept(state, "exp_avg", torch.float32, signed=True)
        assert (after - before).norm() < 0.05 * before.norm(), states
    assert weight.isfinite().all()


def test_groups_of_a_model_leave_embeddings_and_the_output_head_plain() -> None:
    groups = low_rank_groups(tiny(), 4, update_gap=7)
    optimizer = GaLoreAdamW(groups)
    assert all(".attn.c_" in name or ".mlp.c_" in name for name in groups[0]["param_names"])
    assert (len(groups[0]["params"]), optimizer.param_groups[0]["update_gap"], optimizer.param_groups[1]["rank"]) == (
        4,
        7,
        None,
    )
    assert sum(len(group["params"]) for group in groups) == len(list(tiny().parameters()))
    assert low_rank_groups(tiny(), 4, names=["attn"])[0]["param_names"] == [
        f"transformer.h.0.attn.c_{x}.weight" for x in ("attn", "proj")
    ]
    with pytest.raises(TrainingError, match="no matrix"):
        low_rank_groups(tiny(), 4, names=["q_proj"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [{"refresh": refresh} for refresh in REFRESHES]
    + [{"states": states, "rotate_moments": True} for states in ("int8", "fp8")]
    + [{"projection": "full"}],
)
def test_a_saved_run_goes_on_bit_for_bit(options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zkaudit.training.optim.moments.SMALLEST", 1)
    ours = parameters(dtype)
    optimizer = GaLoreAdamW(ours, rank=3, update_gap=3, **options)
    for step in range(4):
        give_gradients(ours, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = copy.deepcopy(ours)
    resumed = GaLoreAdamW(others, rank=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(4, 9):
        for p, run in ((ours, optimizer), (others, resumed)):
            give_gradients(p, step)
            run.step()
    for a, b in zip(ours, others, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"betas": (0.9, 1.0)}, "betas="),
        ({"eps": 0.0}, "eps=0.0"),
        ({"weight_decay": -0.5}, "weight_decay=-0.5"),
        ({"rank": 0}, "rank=0"),
        ({"rank": 2.0}, "rank=2.0"),
        ({"update_gap": 0}, "update_gap=0"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"projection": "top"}, "projection='top'.*reverse_std"),
        ({"refresh": "qr"}, "refresh='qr'.*sketch"),
        ({"states": "int4"}, "states='int4'.*float32, int8, fp8"),
    ],
)
def test_a_bad_option_is_named_with_its_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        GaLoreAdamW(parameters(), **options)
    with pytest.raises(TrainingError, match=message):
        GaLoreAdamW([{"params": parameters(), **options}])


def test_galore_torchs_names_are_not_ignored() -> None:
    with pytest.raises(TrainingError, match=r"update_proj_gap=200.*update_gap"):
        GaLoreAdamW([{"params": parameters(), "rank": 2, "update_proj_gap": 200}])


def test_a_gradient_that_is_not_finite_is_refused_at_a_refresh() -> None:
    weight = random(4, 4).requires_grad_()
    weight.grad = torch.full((4, 4), math.nan, dtype=torch.float64)
    with pytest.raises(TrainingError, match="NaN or infinity"):
        GaLoreAdamW([weight], rank=2).step()


def tiny() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=31, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def test_hf_trainer_takes_it_with_a_schedule(tmp_path: Any) -> None:
    records = [
        {"input_ids": (ids := torch.randint(31, (12,), generator=torch.Generator().manual_seed(i))), "labels": ids}
        for i in range(6)
    ]
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    optimizer = GaLoreAdamW(low_rank_groups(model, 4, update_gap=2))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=3)
    options: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 2, "report_to": [], "use_cpu": True}
    arguments = TrainingArguments(str(tmp_path), save_strategy="no", disable_tqdm=True, **options)
    Trainer(model, arguments, train_dataset=records, optimizers=(optimizer, schedule)).train()
    assert {state["step"] for state in optimizer.state.values()} == {3}
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "transformer.h.0.attn.c_attn.weight" in changed


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("states", STATES)
def test_a_gpu_steps_as_the_cpu_does(states: str) -> None:
    runs = []
    for device in ("cpu", "cuda"):
        weight = random(96, 80, dtype=torch.float32).to(device).requires_grad_()
        optimizer = GaLoreAdamW([weight], rank=64, update_gap=100, states=states, refresh="seed")
        for step in range(5):
            weight.grad = random(96, 80, seed=step, dtype=torch.float32).to(device)
            optimizer.step()
        runs.append(weight.detach().cpu())
    torch.testing.assert_close(*runs, rtol=0, atol=1e-6 if states == "float32" else 1e-4)
