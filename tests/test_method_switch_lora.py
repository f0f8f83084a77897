"""SwitchLoRA: a switch changes no output, its counterpart starts anew and stands still, and the plan is the published one."""

import copy
import math
from pathlib import Path

import pytest
import torch
from continued_runs import assert_same, run_and_resumed_run, small_batch, small_net, tiny_llama, train
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import ConstantLR
from transformers import Trainer, TrainingArguments

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.linears import restore_linears
from zkaudit.training.low_rank.switch_lora import SwitchAdamW, SwitchLinear, SwitchSchedule, initial_spreads, switch_lora


def one_layer(m: int, n: int, rank: int) -> SwitchLinear:
    torch.manual_seed(m + n)
    return SwitchLinear(nn.Linear(n, m).double(), rank, 1.0, torch.Generator().manual_seed(0))


@given(m=st.integers(5, 24), n=st.integers(5, 24), rank=st.integers(2, 4), turns=st.integers(1, 30))
def test_a_switch_changes_no_output(m: int, n: int, rank: int, turns: int) -> None:
    layer = one_layer(m, n, rank)
    x = torch.randn(7, n, dtype=torch.float64)
    for _ in range(turns):
        before, factors = layer(x), (layer.A.clone(), layer.B.clone())
        rows, columns = layer.switch(layer.most_switches(frozen=0))
        torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)
        assert not torch.equal(layer.A[rows], factors[0][rows])
        assert not torch.equal(layer.B[:, columns], factors[1][:, columns])


@given(m=st.integers(5, 12), n=st.integers(5, 12), rank=st.integers(2, 4))
def test_every_reserve_vector_comes_in_and_returns_to_its_slot(m: int, n: int, rank: int) -> None:
    layer = one_layer(m, n, rank)
    start, seen = layer.get_extra_state().clone(), set()
    for _ in range(min(m, n)):
        rows, _ = layer.switch(1)
        seen.add(tuple(layer.A[rows[0]].tolist()))
    assert len(seen) == min(m, n)
    assert_same(layer.get_extra_state(), start)


def test_the_start_is_the_model_as_it_was_with_the_published_spreads() -> None:
    layer_of = nn.Linear(300, 200).double()
    layer = SwitchLinear(layer_of, 40, 1.0, torch.Generator().manual_seed(1))
    x = torch.randn(3, 300, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer_of(x), rtol=0, atol=1e-12)
    gain = math.sqrt(2 / (1 + 5))
    assert initial_spreads(200, 300, 40)[0] == pytest.approx((math.sqrt(200) * 40 / 300**1.5) ** 0.25 * gain**0.5)
    assert float(layer.A.detach().std()) == pytest.approx((math.sqrt(200) * 40 / 300**1.5) ** 0.25 * gain**0.5, rel=0.03)
    assert float(layer.B.detach().std()) == pytest.approx((40 / math.sqrt(200 * 300)) ** 0.25 * gain**0.5, rel=0.03)


def test_the_counterpart_loses_its_adam_state_and_stands_still_for_five_updates() -> None:
    net = small_net()
    switch_lora(net, 4, targets=["0"])
    optimizer = SwitchAdamW(net, SwitchSchedule(1000, 10), lr=1e-2, weight_decay=0.1)
    layer, still = optimizer.layers[0], 0
    step = 0
    while int(layer.switched) == 0:
        train(net, optimizer, step, step + 1)
        step += 1
    column, row = 0, 2  # the first rows exchanged are 0 of A and r / 2 of B's columns
    moments = [optimizer.state[layer.B][key][:, column] for key in ("exp_avg", "exp_avg_sq")]
    moments += [optimizer.state[layer.A][key][row] for key in ("exp_avg", "exp_avg_sq")]
    held = layer.B[:, column].clone(), layer.A[row].clone()
    assert all(not moment.any() for moment in moments)
    assert float(optimizer.state[layer.B]["step"][0, column]) == 1
    assert float(optimizer.state[layer.B]["step"][0, 1]) == step
    while torch.equal(layer.B[:, column], held[0]):
        still += 1
        assert torch.equal(layer.A[row], held[1])
        train(net, optimizer, step, step + 1)
        step += 1
    assert still == 5
    assert not torch.equal(layer.A[row], held[1])


def test_vectors_that_stand_still_do_not_stop_the_others() -> None:
    net = small_net()
    switch_lora(net, 4, targets=["0"])
    optimizer = SwitchAdamW(net, SwitchSchedule(1000, 10), lr=1e-2)
    while int(optimizer.layers[0].switched) == 0:
        before = optimizer.layers[0].B.clone()
        train(net, optimizer, 0, 1)
    moved = (before != optimizer.layers[0].B).any(0)
    assert moved.tolist() == [False, True, True, True]  # column 2 is new: it came from the reserve


@given(total=st.integers(20, 4000), rank=st.integers(2, 64))
def test_the_rate_starts_at_r_over_interval_and_falls_to_three_tenths(total: int, rank: int) -> None:
    schedule = SwitchSchedule(total)
    at = total // 10
    rate = [schedule.switched_by(t + 1, rank) - schedule.switched_by(t, rank) for t in (0, at - 1)]
    x = 0.3 ** (1 / (0.1 * total))
    assert rate[0] == pytest.approx(rank / 40 * x)
    assert rate[1] == pytest.approx(rank / 40 * x**at, rel=1e-6)
    assert x ** (0.1 * total) == pytest.approx(0.3)


def test_switches_made_are_those_of_the_plan() -> None:
    net = small_net()
    switch_lora(net, 6)
    optimizer = SwitchAdamW(net, SwitchSchedule(60, 12, decayed_at=1.0), lr=1e-2)
    train(net, optimizer, 0, 60)
    expected = optimizer.schedule.switched_by(60, 6)
    assert expected > 10
    assert [int(layer.switched) for layer in optimizer.layers] == [math.floor(expected), math.floor(expected + 0.5)]


def test_the_sum_of_updates_has_a_higher_rank_than_two_r() -> None:
    ranks = []
    for interval in (10, 1e9):
        net = small_net()
        before = net[0].weight.detach().clone()
        switch_lora(net, 2, targets=["0"])
        train(net, SwitchAdamW(net, SwitchSchedule(200, interval, decayed_at=1.0), lr=1e-2), 0, 200)
        ranks.append(int(torch.linalg.matrix_rank(net[0].dense_weight() - before, atol=1e-8)))
    assert ranks[1] == 4
    assert ranks[0] > 8


def test_without_switches_it_is_adamw() -> None:
    ours = small_net()
    switch_lora(ours, 4)
    theirs = copy.deepcopy(ours)
    decayed = [p for p in theirs.parameters() if p.requires_grad and p.ndim > 1]
    other = [{"params": decayed}, {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    train(ours, SwitchAdamW(ours, SwitchSchedule(100, 1e9), lr=1e-2, weight_decay=0.1), 0, 30)
    train(theirs, torch.optim.AdamW(other, lr=1e-2, weight_decay=0.1), 0, 30)
    torch.testing.assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_resumed_run_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, list[object]]:
        net = small_net(dtype=dtype)
        switch_lora(net, 4)
        return net, SwitchAdamW(net, SwitchSchedule(46, 10, decayed_at=1.0), lr=1e-2), []

    run, resumed = run_and_resumed_run(build, 23)
    assert int(run[0]["0.switched"]) > 4
    assert_same(run, resumed)


def test_the_reserve_follows_the_type_of_the_model_and_not_its_device() -> None:
    layer = one_layer(8, 9, 2).to(torch.bfloat16)
    assert layer.get_extra_state().dtype == torch.bfloat16
    assert layer.to("meta").get_extra_state().device.type == "cpu"


def test_embeddings_head_norms_and_biases_are_trained_in_full_and_named() -> None:
    model = tiny_llama()
    before = model(torch.arange(8)[None]).logits
    taken = switch_lora(model, 4)
    assert len(taken.layers) == 14
    assert set(taken.full) == {name for name in model.state_dict() if "norm" in name} | {"model.embed_tokens.weight"}
    torch.testing.assert_close(model(torch.arange(8)[None]).logits, before, rtol=0, atol=1e-5)
    assert SwitchAdamW(model, SwitchSchedule(100)).full == taken.full
    restore_linears(model)
    assert model.state_dict().keys() == tiny_llama().state_dict().keys()
    torch.testing.assert_close(model(torch.arange(8)[None]).logits, before, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_trainer_of_transformers_that_resumes_ends_with_the_same_bits(tmp_path: Path) -> None:
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 8, (30, 8))]

    def run(folder: str, resume: Path | None = None) -> dict[str, torch.Tensor]:
        model = tiny_llama()
        switch_lora(model, 4)
        optimizer = SwitchAdamW(model, SwitchSchedule(20, 10, decayed_at=1.0), lr=5e-3)
        arguments = TrainingArguments(
            str(tmp_path / folder), max_steps=20, save_steps=10, per_device_train_batch_size=4, report_to=[], use_cpu=True
        )
        trainer = Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, ConstantLR(optimizer, 1.0)))
        result = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        assert result.training_loss < math.log(64)
        assert int(optimizer.layers[0].switched) > 2
        return dict(model.state_dict())

    assert_same(run("first"), run("second", tmp_path / "first" / "checkpoint-10"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: SwitchSchedule(100, interval=9), "interval is 9, freeze 5"),
        (lambda: SwitchSchedule(100, decayed_to=1.0), "decayed_to 1.0"),
        (lambda: SwitchSchedule(5), "total_steps is 5"),
        (lambda: switch_lora(small_net(), 1), "rank is 1"),
        (lambda: switch_lora(small_net(), 64), "rank 64"),
        (lambda: switch_lora(small_net(), 2, targets=["attn"]), "attn"),
        (lambda: SwitchAdamW(small_net(), SwitchSchedule(100)), "no SwitchLinear"),
    ],
)
def test_bad_options_are_one_sentence(wrong: object, sentence: str) -> None:
    assert callable(wrong)
    with pytest.raises(TrainingError, match=sentence):
        wrong()


def test_a_batch_that_was_not_seen_is_predicted_the_same_after_restoring_the_layers() -> None:
    net = small_net()
    switch_lora(net, 4)
    train(net, SwitchAdamW(net, SwitchSchedule(40, 10), lr=1e-2), 0, 40)
    x, _ = small_batch(99)
    before = net(x)
    restore_linears(net)
    assert type(net[0]) is nn.Linear
    assert net[0].weight.requires_grad
    torch.testing.assert_close(net(x), before, rtol=0, atol=1e-12)
