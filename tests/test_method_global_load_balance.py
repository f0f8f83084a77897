"""Global-batch load balancing: counts over ranks and micro-batches, probabilities of one's own."""

import math
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.objectives.load_balance import GlobalLoadBalance, specialisation

EXPERTS, TOP_K, WIDTH = 5, 2, 3


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def router() -> nn.Linear:
    torch.manual_seed(7)
    return nn.Linear(WIDTH, EXPERTS).double()


def by_hand(logits: Tensor) -> Tensor:
    """E sum_i f_i p_i of one process that has all tokens."""
    chosen = torch.zeros_like(logits).scatter_(1, logits.topk(TOP_K).indices, 1.0)
    return logits.shape[1] * (chosen.mean(0) * logits.softmax(1).mean(0)).sum()


@settings(max_examples=30)
@given(count=st.integers(1, 30), masked=st.booleans(), seed=st.integers(0, 99))
def test_one_process_has_the_loss_of_transformers(count: int, masked: bool, seed: int) -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func  # not at the top: ranks import this file

    logits = torch.randn(count, EXPERTS, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(count) % 3 != 1).long() if masked else None
    theirs = load_balancing_loss_func((logits,), EXPERTS, TOP_K, None if mask is None else mask[None])
    torch.testing.assert_close(GlobalLoadBalance(EXPERTS, TOP_K)(logits, mask), theirs)


def test_layers_are_balanced_one_by_one() -> None:
    layers = [torch.randn(9, EXPERTS, dtype=torch.float64) for _ in range(3)]
    expected = torch.stack([by_hand(layer) for layer in layers]).mean()
    torch.testing.assert_close(GlobalLoadBalance(EXPERTS, TOP_K, layers=3)(layers), expected)


def test_even_use_of_experts_has_loss_top_k_and_one_expert_has_most() -> None:
    even = torch.eye(4, dtype=torch.float64) * 50
    assert float(GlobalLoadBalance(4, 1)(even)) == pytest.approx(1.0)
    assert float(GlobalLoadBalance(4, 1)(even[:1].expand(8, 4))) == pytest.approx(4.0)


def test_accumulated_micro_batches_count_together_and_then_anew() -> None:
    parts = [torch.randn(4, EXPERTS, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
    loss = GlobalLoadBalance(EXPERTS, TOP_K, accumulate=3)
    found = [float(loss(part)) for part in parts]
    for start in (0, 3):
        for last in range(3):
            seen = torch.cat(parts[start : start + last + 1])
            share = torch.zeros_like(seen).scatter_(1, seen.topk(TOP_K).indices, 1.0).mean(0)
            expected = EXPERTS * (share * parts[start + last].softmax(1).mean(0)).sum()
            assert found[start + last] == pytest.approx(float(expected))


def test_a_state_saved_inside_an_accumulation_goes_on_bit_for_bit() -> None:
    parts = [torch.randn(4, EXPERTS, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    straight, before, resumed = (GlobalLoadBalance(EXPERTS, TOP_K, accumulate=4) for _ in range(3))
    expected = [straight(part) for part in parts]
    for part in parts[:2]:
        before(part)
    resumed.load_state_dict(before.state_dict())
    assert all(torch.equal(resumed(part), value) for part, value in zip(parts[2:], expected[2:], strict=True))


def test_reset_and_evaluation_leave_no_trace() -> None:
    part, other = torch.randn(4, EXPERTS), torch.randn(4, EXPERTS)
    loss = GlobalLoadBalance(EXPERTS, TOP_K, accumulate=9)
    expected = loss(part)
    loss.eval()(other)
    loss.train().reset()
    assert torch.equal(loss(part), expected)


def distributed(rank: int, world: int, folder: str) -> None:
    """On each rank: gradients of the router from its own tokens, averaged, over all ranks and over pairs of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    pairs = [dist.new_group([first, first + 1]) for first in range(0, world, 2)]
    found = {}
    for name, group, members in (("all", None, range(world)), ("pair", pairs[rank // 2], (rank // 2 * 2, rank // 2 * 2 + 1))):
        for kind, counts in (("equal", [6] * world), ("unequal", [3 + 2 * number for number in range(world)])):
            model = router()
            GlobalLoadBalance(EXPERTS, TOP_K, group=group)(model(tokens(counts[rank], seed=rank))).backward()
            gradient = model.weight.grad
            dist.all_reduce(gradient, group=group)
            big = router()
            by_hand(big(torch.cat([tokens(counts[member], seed=member) for member in members]))).backward()
            found[name, kind] = float((gradient / len(members) - big.weight.grad).abs().max() / big.weight.grad.abs().max())
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()


def test_averaged_gradient_of_2_and_4_ranks_is_that_of_one_process_with_all_tokens(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "hypothesis", "zkaudit.training.objectives.load_balance"])
    ranks = [context.Process(target=distributed, args=(rank, 4, str(tmp_path))) for rank in range(4)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(60)
    assert [one.exitcode for one in ranks] == [0] * 4
    for rank in range(4):
        assert max(torch.load(tmp_path / str(rank)).values()) < 1e-12


def test_micro_batch_gradients_do_not_average_to_the_big_batchs() -> None:
    """The law above does not hold for the ordinary loss."""
    micro, big = router(), router()
    for rank in range(4):
        (by_hand(micro(tokens(6, seed=rank))) / 4).backward()
    by_hand(big(torch.cat([tokens(6, seed=rank) for rank in range(4)]))).backward()
    assert float((micro.weight.grad - big.weight.grad).abs().max() / big.weight.grad.abs().max()) > 0.01


def test_trainer_trains_a_mixture_with_it(tmp_path: Path) -> None:
    """Mixtral's own loss plus ours; one step of plain descent equals autograd's by hand."""
    from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments

    def mixture() -> MixtralForCausalLM:
        torch.manual_seed(0)
        shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 11}
        return MixtralForCausalLM(MixtralConfig(
            **shape, num_key_value_heads=1, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.0
        ))  # fmt: skip

    class Balanced(Trainer):
        balance = GlobalLoadBalance(4, 2, layers=2)

        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], **_: object) -> Tensor:
            outputs = model(**inputs)
            return outputs.loss + 0.5 * self.balance(outputs.router_logits)

    rows = torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(0))
    by_rule, by_trainer = mixture(), mixture()
    outputs = by_rule(input_ids=rows, labels=rows)
    uneven = torch.stack([by_hand(logits) for logits in outputs.router_logits]).mean()
    (outputs.loss + 0.5 * uneven).backward()
    torch.optim.SGD(by_rule.parameters(), 0.1).step()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=2, max_grad_norm=0.0, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    optimizer = torch.optim.SGD(by_trainer.parameters(), 0.1)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    data = [{"input_ids": row, "labels": row} for row in rows]
    Balanced(by_trainer, arguments, train_dataset=data, optimizers=(optimizer, constant)).train()
    for key, value in by_rule.state_dict().items():
        torch.testing.assert_close(by_trainer.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_counts_stay_exact_in_a_bfloat16_model() -> None:
    loss = GlobalLoadBalance(2, 1, accumulate=2).bfloat16()
    loss(torch.tensor([[1.0, 0.0]]).expand(1001, 2))
    assert loss.counts.tolist() == [[1001, 0]]


def test_specialisation_is_the_mutual_information() -> None:
    domains = torch.arange(60) % 3
    assert specialisation(domains, domains) == pytest.approx(math.log(3))
    assert specialisation(torch.arange(60) // 3 % 4, domains) == pytest.approx(0.0, abs=1e-12)
    half = torch.stack([domains, torch.full((60,), 3)], 1)
    assert specialisation(half, domains) == pytest.approx(math.log(3) / 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"top_k": 6}, "top_k = 6 must be from 1 to the number of experts, 5"),
        ({"top_k": 0}, "top_k = 0"),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"layers": 0}, "layers = 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        GlobalLoadBalance(**{"experts": 5, "top_k": 2} | options)


def test_logits_and_masks_of_another_shape_are_refused() -> None:
    loss = GlobalLoadBalance(EXPERTS, TOP_K)
    with pytest.raises(ValueError, match=r"expected 1 of \(T, 5\)"):
        loss(torch.ones(3, 4))
    with pytest.raises(ValueError, match="mask has 2 entries for 3 tokens"):
        loss(torch.ones(3, EXPERTS), torch.ones(2))
    with pytest.raises(ValueError, match="of the same tokens"):
        specialisation(torch.ones(3, 1).long(), torch.ones(2).long())
