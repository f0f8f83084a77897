"""DP-SGD: gradients of single examples, clipping, noise, epsilon, and whether adapters train."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.optimizers import DPOptimizer
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor, nn

from zkaudit.attacks import peft_setup
from zkaudit.attacks.defences.dp_sgd import (
    Accounting,
    PrivateOptions,
    norms,
    private_gradient,
    private_update,
    weight_delta_check,
)
from zkaudit.attacks.defences.examples import Engine, choose, per_example
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.model import Batch, PublicModel, causal_batch

LORA: dict[str, Mapping[str, Any]] = {
    "nano-gpt2": {"type": "LORA", "r": 4, "target_modules": ["c_attn"]},
    "nano-llama": {"type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]},
    "micro-bert": {"type": "LORA", "r": 4, "target_modules": ["query", "value"]},
}
PLAIN = FederatedSettings(batch=4, longest=12, dropout=False)
HUGE = PrivateOptions(sigma=0.0, clip=1e6)


def adapted(name: str = "nano-llama", config: Mapping[str, Any] | None = None, task: Any = None) -> PublicModel:
    """With LoRA's B away from zero, so that every tensor has a gradient."""
    model = peft_setup.apply(build(name, task=task), config or LORA[name])
    generator = torch.Generator().manual_seed(0)
    model.assign({n: p + 0.02 * torch.randn(p.shape, generator=generator) for n, p in model.trainable().items()})
    return model


def data(model: PublicModel, settings: FederatedSettings = PLAIN, seed: int = 1) -> list[Batch]:
    return batches(model, synthetic(settings.records, seed), settings)


def same(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float = 1e-4) -> bool:
    return all((found[n] - e).norm() <= tolerance * e.norm() + 1e-9 for n, e in expected.items())


def single(model: PublicModel, batch: Batch) -> list[dict[str, Tensor]]:
    """The oracle: plain backward passes on one example after the other."""
    result = []
    for row in range(len(batch.input_ids)):
        model.module.zero_grad()
        model.loss(batch.rows(slice(row, row + 1))).backward()
        result.append({name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None})
    model.module.zero_grad(set_to_none=True)
    return result


@pytest.mark.parametrize(("name", "task"), [*((name, None) for name in LORA), ("micro-bert", "sequence_classification")])
def test_opacus_gradients_are_those_of_single_examples(name: str, task: str | None) -> None:
    model = adapted(name, task=task)
    (batch,) = data(model)
    assert choose(model, batch) == Engine("opacus")
    found = per_example(model, batch, Engine("opacus"))
    for row, expected in enumerate(single(model, batch)):
        assert same(expected, {tensor: each[row] for tensor, each in found.items()})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"type": "DORA", "r": 4, "target_modules": ["q_proj"]}, "DoraLinearLayer"),
        ({"type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}, "is not that of single examples"),
        ({"type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "Opacus cannot"),
    ],
)
def test_where_opacus_fails_the_loop_is_used_and_says_why(config: Mapping[str, Any], reason: str) -> None:
    model = adapted(config=config)
    (batch,) = data(model)
    engine = choose(model, batch)
    assert engine.name == "loop"
    assert reason in engine.reason
    found = per_example(model, batch, engine)
    for row, expected in enumerate(single(model, batch)):
        assert same(expected, {tensor: each[row] for tensor, each in found.items()})


def test_a_wrong_opacus_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus' own rule for linear layers is spoiled, as a changed hook order would do."""
    right = GradSampleModule.GRAD_SAMPLERS[nn.Linear]

    def spoiled(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        found: dict[nn.Parameter, Tensor] = right(layer, activations, backprops)
        return {parameter: value.roll(1, 0) for parameter, value in found.items()}

    monkeypatch.setitem(GradSampleModule.GRAD_SAMPLERS, nn.Linear, spoiled)
    model = adapted()
    engine = choose(model, data(model)[0])
    assert engine.name == "loop"
    assert "is not that of single examples" in engine.reason


@pytest.mark.parametrize("engine", ["opacus", "loop"])
def test_an_example_without_labels_has_no_gradient(engine: Any) -> None:
    """A causal record of one token: transformers' loss on it would be NaN."""
    model = adapted()
    batch = causal_batch([[5, 6, 7], [8]], model.tokenizer.pad_token_id)
    found = per_example(model, batch, Engine(engine))
    assert same(single(model, batch.rows(slice(0, 1)))[0], {name: each[0] for name, each in found.items()})
    assert not any(each[1].any() for each in found.values())


def test_choosing_an_engine_leaves_no_trace_on_the_model() -> None:
    for config in (LORA["nano-llama"], {"type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}):
        model = adapted(config=config)
        (batch,) = data(model)
        before = {name: dict(vars(p)) for name, p in model.module.named_parameters()}
        attributes = {name: set(vars(m)) for name, m in model.module.named_modules()}
        hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in model.module.modules()]
        choose(model, batch)
        assert before == {name: dict(vars(p)) for name, p in model.module.named_parameters()}
        assert attributes == {name: set(vars(m)) for name, m in model.module.named_modules()}
        assert hooks == [len(m._forward_hooks) + len(m._backward_hooks) for m in model.module.modules()]
        assert not model.module.training


@pytest.mark.parametrize("sends", ["gradient", "delta"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_clipping_and_noise_it_is_plain_training(sends: Any, optimizer: Any) -> None:
    """On single records, where the mean over examples and the loss of the batch are the same thing."""
    steps = 1 if sends == "gradient" else 3
    settings = FederatedSettings(
        sends=sends,
        optimizer=optimizer,
        batch=1,
        accumulation=2,
        local_steps=steps,
        schedule="linear",
        longest=12,
        dropout=False,
        weight_decay=0.01,
    )
    model = adapted()
    given = data(model, settings)
    plain, private = local_update(model, given, settings), private_update(model, given, settings, HUGE)
    assert private.kind == plain.kind
    assert same(plain.tensors, private.tensors, 1e-3)


def test_dropout_masks_are_those_of_the_seed() -> None:
    settings = FederatedSettings(batch=4, longest=12, dropout=True)
    model = adapted(config={**LORA["nano-llama"], "lora_dropout": 0.3})
    given = data(model, settings)
    first, again, other = (private_update(model, given, settings, HUGE, seed).tensors for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other, 0.05)


def test_one_example_moves_the_sum_by_at_most_the_clipping_norm() -> None:
    model = adapted()
    (batch,) = data(model)
    clip = float(norms(per_example(model, batch, Engine("loop"))).median())
    sums = []
    for rows in (batch, batch.rows(slice(0, 3))):
        mean = private_gradient(model, [rows], PrivateOptions(0.0, clip), torch.Generator(), Engine("loop"))
        sums.append({name: value * len(rows.input_ids) for name, value in mean.items()})
    moved = math.sqrt(sum(float((sums[0][name] - sums[1][name]).square().sum()) for name in sums[0]))
    assert 0 < moved <= clip * (1 + 1e-5)


def test_gradients_below_the_clipping_norm_are_not_scaled() -> None:
    model = adapted()
    (batch,) = data(model)
    mean = private_gradient(model, [batch], HUGE, torch.Generator(), Engine("loop"))
    expected = {name: each.mean(0) for name, each in per_example(model, batch, Engine("loop")).items()}
    assert same(expected, mean)


def test_noise_has_the_stated_deviation() -> None:
    model = adapted()
    given = data(model)
    sigma, clip = 3.0, 0.7
    noisy = private_update(model, given, PLAIN, PrivateOptions(sigma, clip), seed=5).tensors
    clean = private_update(model, given, PLAIN, PrivateOptions(0.0, clip), seed=5).tensors
    noise = torch.cat([(noisy[name] - clean[name]).flatten() for name in noisy])
    expected = sigma * clip / 4  # on the sum, divided by the four examples
    assert float(noise.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * len(noise)))
    assert abs(float(noise.mean())) < 5 * expected / math.sqrt(len(noise))


def test_the_round_starts_again_where_it_started() -> None:
    model = adapted()
    settings = FederatedSettings(sends="delta", batch=2, local_steps=2, longest=12)
    before = model.state()
    private_update(model, data(model, settings), settings, PrivateOptions())
    assert all(torch.equal(before[name], value) for name, value in model.state().items())
    assert all(p.grad is None for p in model.trainable().values())


@pytest.mark.parametrize(("name", "oracle"), [("rdp", RDPAccountant), ("prv", PRVAccountant)])
def test_epsilon_is_that_of_opacus(name: Any, oracle: Callable[[], Any]) -> None:
    accountant = oracle()
    for _ in range(50):
        accountant.step(noise_multiplier=1.1, sample_rate=0.02)
    assert Accounting(0.02, 50, 1e-5, name).epsilon(1.1) == pytest.approx(accountant.get_epsilon(delta=1e-5), rel=1e-9)


def test_epsilon_of_full_batches_is_that_of_the_gaussian_mechanism() -> None:
    """Balle and Wang 2018, theorem 8: T Gaussian steps are one with mu = sqrt(T) / sigma."""
    sigma, steps, delta = 4.0, 9, 1e-5
    mu = math.sqrt(steps) / sigma

    def excess(epsilon: float) -> float:
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta)

    exact = brentq(excess, 0.01, 50)
    assert Accounting(1.0, steps, delta, "prv").epsilon(sigma) == pytest.approx(exact, rel=0.02)
    assert Accounting(1.0, steps, delta, "rdp").epsilon(sigma) >= exact


def test_without_noise_epsilon_is_infinite_and_with_little_it_still_comes() -> None:
    accounting = Accounting(0.01, 1000)
    assert accounting.epsilon(0.0) == math.inf
    assert accounting.epsilon(0.05) > 1000


@pytest.mark.parametrize("wrong", [(0.0, 10, 1e-5), (1.5, 10, 1e-5), (0.1, 0, 1e-5), (0.1, 10, 1.0)])
def test_impossible_accounting_is_refused(wrong: tuple[float, int, float]) -> None:
    with pytest.raises(AuditError, match="no epsilon"):
        Accounting(*wrong)


@pytest.mark.parametrize("wrong", [(-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_impossible_options_are_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(AuditError, match="sigma >= 0 and clip > 0"):
        PrivateOptions(*wrong)


def opacus_step(clip: float, rate: float) -> Callable[[PublicModel, Batch], None]:
    """One step of Opacus' own optimizer, as its engine would set it up."""

    def step(model: PublicModel, batch: Batch) -> None:
        module = GradSampleModule(model.module.train(), loss_reduction="mean", strict=False)
        optimizer = DPOptimizer(
            torch.optim.SGD(list(model.trainable().values()), lr=rate),
            noise_multiplier=0.0,
            max_grad_norm=clip,
            expected_batch_size=len(batch.input_ids),
        )
        logits = module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        labels = batch.labels[:, 1:]
        each = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1) / (labels != -100).sum(1)
        each.mean().backward()
        optimizer.step()
        module.to_standard_module()
        model.module.eval()

    return step


def our_step(clip: float, rate: float) -> Callable[[PublicModel, Batch], None]:
    def step(model: PublicModel, batch: Batch) -> None:
        settings = FederatedSettings(sends="delta", learning_rate=rate, batch=len(batch.input_ids), dropout=False)
        delta = private_update(model, [batch], settings, PrivateOptions(0.0, clip)).tensors
        model.assign({name: value + delta[name] for name, value in model.state().items()})

    return step


@pytest.mark.parametrize("make", [opacus_step, our_step])
def test_private_steps_move_adapters_as_they_should(make: Callable[[float, float], Callable[..., None]]) -> None:
    model = adapted()  # no dropout anywhere in it
    (batch,) = data(model)
    clip = float(norms(per_example(model, batch, Engine("loop"))).median())
    check = weight_delta_check(model, batch, clip, 1.0, make(clip, 1.0))
    assert check.trains, check


def test_adapters_that_do_not_train_are_noticed() -> None:
    model = adapted()
    (batch,) = data(model)
    before = model.state()

    def lost(model: PublicModel, batch: Batch) -> None:
        """The step of an optimizer that one module's tensors never reached."""
        our_step(1.0, 1.0)(model, batch)
        model.assign({name: before[name] for name in before if "layers.1.self_attn.v_proj.lora_B" in name})

    check = weight_delta_check(model, batch, 1.0, 1.0, lost)
    assert not check.trains
    assert "layers.1.self_attn.v_proj.lora_B" in check.where
    assert all(torch.equal(before[name], value) for name, value in model.state().items())


def test_unclipped_steps_are_noticed() -> None:
    model = adapted()
    (batch,) = data(model)
    clip = float(norms(per_example(model, batch, Engine("loop"))).min()) / 2
    assert not weight_delta_check(model, batch, clip, 1.0, our_step(1e6, 1.0)).trains
