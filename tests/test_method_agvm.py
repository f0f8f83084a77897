"""AGVM: factors follow the cosines of two halves, whether these are micro-batches or ranks, and a group's rate is lr phi_i."""

import copy
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from continued_runs import assert_same, small_batch, small_net, tiny_llama
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.agvm import AGVM, Variances
from zkaudit.training.optim.galore import GaLoreAdamW

EAGER = Variances(every=2, warm_up=3, keep=0.9)


def grouped(net: nn.Sequential, kind: Any = torch.optim.SGD, **options: Any) -> torch.optim.Optimizer:
    return kind([{"params": net[0].parameters()}, {"params": net[2].parameters()}, {"params": net[3].parameters()}], **options)


def halves(seed: int) -> list[tuple[Tensor, Tensor]]:
    x, y = small_batch(seed)
    return [(x[:16], y[:16]), (x[16:], y[16:])]


def accumulate(net: nn.Module, seed: int) -> None:
    for x, y in halves(seed):
        (((net(x) - y) ** 2).mean() / 2).backward()


def train_halves(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for i in range(first, last):
        optimizer.zero_grad()
        accumulate(net, i)
        optimizer.step()


def half_gradients(net: nn.Module, seed: int) -> list[list[Tensor]]:
    """For each half, each group's gradients of the mean loss."""
    found = []
    for x, y in halves(seed):
        loss = ((net(x) - y) ** 2).mean()
        found.append(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net[i].parameters()), retain_graph=True)])
                for i in (0, 2, 3)
            ]
        )
    return found


def wanted(distances: list[float]) -> list[float]:
    return [min(max((distances[0] + 1e-6) / (d + 1e-6), 0.5), 10.0) ** 0.5 for d in distances]


@pytest.mark.parametrize("clip", [False, True])
def test_factors_follow_the_cosines_of_both_halves_and_clipping_does_not_matter(clip: bool) -> None:
    net = small_net()
    agvm = AGVM(grouped(net, lr=0.1), EAGER)
    factors = [1.0, 1.0, 1.0]
    for i in range(8):
        if agvm.due:
            a, b = half_gradients(net, i)
            distances = [1 - float(torch.cosine_similarity(x, y, dim=0)) for x, y in zip(a, b, strict=True)]
            factors = [0.9 * old + 0.1 * new for old, new in zip(factors, wanted(distances), strict=True)]
        agvm.zero_grad()
        accumulate(net, i)
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        agvm.step()
        assert agvm.factors == pytest.approx(factors, rel=1e-9)
    assert agvm.factors[0] == 1.0
    assert agvm.factors[2] != 1.0
    assert agvm.distances == pytest.approx(distances)


def test_each_group_takes_its_rate_times_its_factor_and_the_rate_comes_back() -> None:
    net = small_net()
    agvm = AGVM(grouped(net, lr=0.1), Variances(every=1, warm_up=0, keep=0.0))
    before = [p.detach().clone() for p in net.parameters()]
    train_halves(net, agvm, 0, 1)
    for i, layer in enumerate((0, 2, 3)):
        for p in net[layer].parameters():
            old = next(old for old, new in zip(before, net.parameters(), strict=True) if new is p)
            torch.testing.assert_close(p.detach(), old - 0.1 * agvm.factors[i] * p.grad)
    assert [group["lr"] for group in agvm.param_groups] == [0.1] * 3
    assert len(set(agvm.factors)) == 3


def test_before_the_warm_up_ends_it_is_the_optimizer() -> None:
    ours, theirs = small_net(), small_net()
    agvm = AGVM(grouped(ours, torch.optim.AdamW, lr=0.01))
    train_halves(ours, agvm, 0, 6)
    train_halves(theirs, grouped(theirs, torch.optim.AdamW, lr=0.01), 0, 6)
    assert_same(ours.state_dict(), theirs.state_dict())
    assert agvm.factors == [1.0] * 3


def test_it_is_measured_after_the_warm_up_every_few_updates() -> None:
    net, due = small_net(), []
    agvm = AGVM(grouped(net, lr=0.01), Variances(every=3, warm_up=4))
    for i in range(10):
        due.append(agvm.due)
        train_halves(net, agvm, i, i + 1)
    assert [i for i, is_due in enumerate(due) if is_due] == [6, 9]


def test_with_adam_the_preconditioned_gradients_are_compared() -> None:
    net = small_net()
    optimizer = grouped(net, torch.optim.Adam, lr=0.01)
    agvm = AGVM(optimizer, Variances(every=1, warm_up=3, keep=0.0, preconditioned=True))
    train_halves(net, agvm, 0, 3)
    pasts = [torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in net[i].parameters()]) for i in (0, 2, 3)]
    both = zip(*half_gradients(net, 3), pasts, strict=True)
    distances = []
    for a, b, past in both:
        a, b = (g / ((0.999 * past + 0.001 * g * g).sqrt() + 1e-8) for g in (a, b))
        distances.append(1 - float(torch.cosine_similarity(a, b, dim=0)))
    train_halves(net, agvm, 3, 4)
    assert agvm.distances == pytest.approx(distances)
    assert agvm.factors == pytest.approx(wanted(distances))


def test_an_update_of_fewer_passes_is_counted_and_not_measured() -> None:
    net = small_net()
    agvm = AGVM(grouped(net, lr=0.01), Variances(every=1, warm_up=0))
    x, y = small_batch()
    ((net(x) - y) ** 2).mean().backward()
    agvm.step()
    assert (agvm.not_measured, agvm.factors) == (1, [1.0] * 3)
    train_halves(net, agvm, 0, 1)
    assert agvm.not_measured == 1
    assert agvm.factors != [1.0] * 3


def test_more_passes_than_named_are_refused() -> None:
    net = small_net()
    agvm = AGVM(grouped(net, lr=0.01))
    agvm.zero_grad()
    accumulate(net, 0)
    with pytest.raises(TrainingError, match="more backward passes than micro_batches = 2"):
        accumulate(net, 1)


def test_a_learning_rate_schedule_may_hold_either_optimizer() -> None:
    net = small_net()
    agvm = AGVM(grouped(net, lr=1.0), EAGER)
    schedule = torch.optim.lr_scheduler.ExponentialLR(agvm, 0.5)
    for i in range(4):
        train_halves(net, agvm, i, i + 1)
        schedule.step()
    assert [group["lr"] for group in agvm.optimizer.param_groups] == [1 / 16] * 3


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    net, other = small_net(), small_net()
    agvm = AGVM(grouped(net, torch.optim.AdamW, lr=0.01), EAGER)
    train_halves(net, agvm, 0, 6)
    resumed = AGVM(grouped(other, torch.optim.AdamW, lr=0.5), EAGER)
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(copy.deepcopy(agvm.state_dict()))
    for model, optimizer in ((net, agvm), (other, resumed)):
        train_halves(model, optimizer, 6, 12)
    assert_same((net.state_dict(), agvm.state_dict()), (other.state_dict(), resumed.state_dict()))


def test_accumulation_in_the_trainer_of_transformers_makes_the_halves(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = tiny_llama()
    head = {id(p) for p in model.model.norm.parameters()}
    groups = [{"params": [p for p in model.parameters() if (id(p) in head) == inside]} for inside in (False, True)]
    agvm = AGVM(torch.optim.AdamW(groups, lr=1e-3), Variances(every=1, warm_up=0))
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 64, (20, 8))]
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=4,  # 5 batches: two updates of both halves, and one of a single batch
        gradient_accumulation_steps=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    schedule = torch.optim.lr_scheduler.ConstantLR(agvm, 1.0)
    Trainer(model, arguments, train_dataset=rows, optimizers=(agvm, schedule)).train()
    assert (agvm.updates, agvm.not_measured) == (3, 1)
    assert agvm.factors[1] != 1.0


def on_a_rank(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=4)
    torch.set_num_threads(1)
    net = small_net()
    agvm = AGVM(grouped(net, lr=0.1), Variances(every=2, warm_up=3, keep=0.9, micro_batches=0))
    for i in range(8):
        x, y = (part[8 * rank : 8 * rank + 8] for part in small_batch(i))
        agvm.zero_grad()
        ((net(x) - y) ** 2).mean().backward()
        if not agvm.due:
            for p in net.parameters():
                dist.all_reduce(p.grad)
                p.grad /= 4
        agvm.step()
    torch.save({"net": net.state_dict(), "factors": agvm.factors}, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_halves_of_ranks_give_what_halves_of_a_batch_give(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(on_a_rank, (port, str(tmp_path)), nprocs=4)
    net = small_net()
    agvm = AGVM(grouped(net, lr=0.1), EAGER)
    train_halves(net, agvm, 0, 8)
    for rank in range(4):
        found = torch.load(tmp_path / str(rank))
        torch.testing.assert_close(found["net"], net.state_dict())
        assert found["factors"] == pytest.approx(agvm.factors)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 0}, "every is 0"),
        ({"keep": 1.0}, "keep is 1.0"),
        ({"least": 2.0}, "least is 2.0"),
        ({"micro_batches": 3}, "micro_batches is 3"),
        ({"micro_batches": 0}, "micro_batches is 0 with 1 ranks"),
        ({"preconditioned": True}, "not SGD"),
    ],
)
def test_bad_options_are_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        AGVM(grouped(small_net(), lr=0.1), Variances(**options))


def test_one_parameter_group_is_refused() -> None:
    with pytest.raises(TrainingError, match="one parameter group for each"):
        AGVM(torch.optim.SGD(small_net().parameters(), lr=0.1))


def test_equal_halves_are_refused_rather_than_measured() -> None:
    net = small_net()
    agvm = AGVM(grouped(net, lr=0.1), Variances(every=1, warm_up=0))
    x, y = small_batch()
    for _ in range(2):
        ((net(x) - y) ** 2).mean().backward()
    with pytest.raises(TrainingError, match="same gradients"):
        agvm.step()


def test_projected_second_moments_are_refused() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    groups = [{"params": m.parameters(), "rank": 2} for m in net]
    optimizer = AGVM(GaLoreAdamW(groups), Variances(micro_batches=2, warm_up=0, every=1, preconditioned=True))

    def update() -> None:
        for _ in range(2):
            net(torch.randn(3, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    update()
    with pytest.raises(TrainingError, match="preconditioned=True needs second moments"):
        update()
