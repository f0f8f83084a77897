"""Steps inside the backward pass: the same weights, no second gradient alive, exact sums in the subspace, refusals."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.fira import FiraAdamW
from zkaudit.training.optim.galore import GaLoreAdamW, low_rank_groups
from zkaudit.training.optim.per_layer import per_layer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 5)).double()


def batch(step: int, size: int = 8) -> Tensor:
    return torch.randn(size, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x[:, :5].sin() * 3).square().sum()


def assert_same(one: nn.Module, other: nn.Module, tolerance: float = 0.0) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [GaLoreAdamW, FiraAdamW])
def test_steps_in_the_backward_pass_are_the_same_steps(kind: type[GaLoreAdamW]) -> None:
    plain, layered = network(), network()
    one, other = (kind(model.parameters(), rank=3, update_gap=3, weight_decay=0.1) for model in (plain, layered))
    with per_layer(other, layered):
        for step in range(8):
            loss_of(plain, batch(step)).backward()
            one.step()
            one.zero_grad()
            loss_of(layered, batch(step)).backward()
            assert all(p.grad is None for p in layered.parameters())
            other.step()
    assert_same(plain, layered)
    loss_of(layered, batch(0)).backward()
    assert all(p.grad is not None for p in layered.parameters())


def test_no_two_gradients_are_alive_together() -> None:
    model, alive = network(), []
    optimizer = GaLoreAdamW(model.parameters(), rank=3)
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda _: alive.append(sum(q.grad is not None for q in model.parameters())))
    with per_layer(optimizer, model):
        loss_of(model, batch(0)).backward()
    assert alive == [1] * len(list(model.parameters()))


@pytest.mark.parametrize("refresh", ["svd", "sketch"])
def test_sums_in_the_subspace_are_the_gradient_of_all_records(refresh: str) -> None:
    whole, parts = network(), network()
    one, other = (GaLoreAdamW(m.parameters(), rank=3, update_gap=3, refresh=refresh) for m in (whole, parts))
    with per_layer(other, parts, accumulate=4):
        for step in range(7):
            loss_of(whole, batch(step)).backward()
            one.step()
            one.zero_grad()
            for part in batch(step).chunk(4):
                loss_of(parts, part).backward()
            held = [name for name, p in parts.named_parameters() if p.grad is not None]
            assert held == [name for name, p in parts.named_parameters() if p.dim() == 1 or step % 3 == 0]
            other.step()
            other.zero_grad()
    assert_same(whole, parts, 1e-10)


@pytest.mark.parametrize("options", [{"refresh": "svd"}, {"refresh": "seed"}])
def test_a_basis_from_the_first_pass_never_holds_a_matrixs_gradient(options: dict[str, Any]) -> None:
    model, by_hand = network(), network()
    optimizer = GaLoreAdamW(model.parameters(), rank=3, update_gap=2, **options)
    oracle = GaLoreAdamW(by_hand.parameters(), rank=3, update_gap=2, **options)
    with per_layer(optimizer, model, accumulate=2, basis_from="first"):
        for step in range(5):
            for part in batch(step).chunk(2):
                loss_of(model, part).backward()
                assert all(p.grad is None for p in model.parameters() if p.dim() == 2)
            optimizer.step()
            optimizer.zero_grad()
            first, rest = (torch.autograd.grad(loss_of(by_hand, x), list(by_hand.parameters())) for x in batch(step).chunk(2))
            with torch.no_grad():
                for p, g, h in zip(by_hand.parameters(), first, rest, strict=True):
                    subspace = oracle.subspace(p, oracle.param_groups[0], g)
                    low = g + h if subspace is None else subspace.down(g + h)
                    oracle.apply(p, oracle.param_groups[0], subspace, low, None)
    assert_same(by_hand, model, 1e-10)


def test_a_second_backward_pass_before_the_step_is_refused() -> None:
    model = network()
    optimizer = GaLoreAdamW(model.parameters(), rank=3)
    with per_layer(optimizer, model):
        loss_of(model, batch(0)).backward()
        with pytest.raises(TrainingError, match="gradient accumulation"):
            loss_of(model, batch(1)).backward()
    with per_layer(optimizer, model, accumulate=2):
        for step in range(2):
            loss_of(model, batch(step)).backward()
        with pytest.raises(TrainingError, match=r"backward pass 3.*accumulate=2"):
            loss_of(model, batch(2)).backward()


def test_data_parallel_training_is_refused(tmp_path: Any) -> None:
    model = network()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(TrainingError, match="DistributedDataParallel"), per_layer(GaLoreAdamW(model.parameters()), wrapped):
            pass
    finally:
        torch.distributed.destroy_process_group()


def settings(**changed: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"max_grad_norm": 0.0, "gradient_accumulation_steps": 1, "fp16": False} | changed))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (GaLoreAdamW, {"max_grad_norm": 1.0}, "max_grad_norm=1.0"),
        (GaLoreAdamW, {"arguments": settings(max_grad_norm=0.5)}, "max_grad_norm=0.5"),
        (GaLoreAdamW, {"arguments": settings(gradient_accumulation_steps=4)}, "accumulate=4"),
        (GaLoreAdamW, {"arguments": settings(fp16=True)}, "fp16"),
        (GaLoreAdamW, {"accumulate": 0}, "accumulate=0"),
        (GaLoreAdamW, {"accumulate": 2, "basis_from": "last"}, "basis_from='last'"),
        (FiraAdamW, {"accumulate": 2}, "FiraAdamW needs whole gradients"),
    ],
)
def test_what_needs_all_gradients_is_refused(kind: type[GaLoreAdamW], options: dict[str, Any], message: str) -> None:
    model = network()
    with pytest.raises(TrainingError, match=message), per_layer(kind(model.parameters(), rank=3), model, **options):
        pass


def tiny() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=31, n_positions=16, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    config.bos_token_id = config.eos_token_id = 0
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize("passes", [1, 2])
def test_hf_trainer_gives_the_same_weights_with_it(passes: int, tmp_path: Any) -> None:
    drawn = [torch.randint(31, (12,), generator=torch.Generator().manual_seed(i)) for i in range(12)]
    records = [{"input_ids": ids, "labels": ids} for ids in drawn]
    options: dict[str, Any] = {"max_grad_norm": 0.0, "gradient_accumulation_steps": passes, "max_steps": 3, "report_to": []}
    options |= {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 2}
    models = []
    for layered in (False, True):
        model, arguments = tiny(), TrainingArguments(str(tmp_path), **options)
        optimizer = GaLoreAdamW(low_rank_groups(model, 4, update_gap=2))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        trainer = Trainer(model, arguments, train_dataset=copy.deepcopy(records), optimizers=(optimizer, schedule))
        if layered:
            with per_layer(optimizer, model, arguments=arguments, accumulate=passes):
                trainer.train()
        else:
            trainer.train()
        models.append(model)
    assert_same(*models, 1e-5)
