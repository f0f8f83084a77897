"""Defences: their text, and what each does to an update, to adapters and to a federation's rules."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from defended import LORA, ONE_RECORD, adapted
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zkaudit.attacks import peft_setup
from zkaudit.attacks.defences import NONE, catalogue, parse
from zkaudit.attacks.defences.projection import adapted_taps, projected, random_projector
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build as laboratory
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.spans import subspace
from zkaudit.attacks.taps import find


@pytest.mark.parametrize("kind", catalogue(), ids=lambda kind: kind.name)
def test_every_example_of_the_catalogue_is_a_defence(kind: Any) -> None:
    defence = parse(kind.example)
    assert defence.name == kind.example
    assert kind.explanation
    assert kind.weakness


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nosie:0.1", "no defence 'nosie'"),
        ("", "no defence ''"),
        ("noise", "0 arguments; it takes 1"),
        ("noise:0.1:2", "2 arguments; it takes 1"),
        ("noise:lots", "noise is 'lots'"),
        ("noise:-1", "must be a number above 0"),
        ("noise:nan", "noise is 'nan'"),
        ("noise:inf", "must be finite"),
        ("top_k:1.5", "at most 1"),
        ("dp_sgd:1:0", "clipping norm is '0'"),
        ("dropout:1", "rate is '1'"),
        ("rank:0", "rank is '0'"),
        ("rank:2.5", "whole number"),
        ("int8:3", "1 arguments; it takes 0"),
        ("galore:4:up", "side is 'up'"),
        ("galore:4:left:mine", "projector is 'mine'"),
        ("layers:last", "first layer is 'last'"),
        ("layers:3-1", "comes after the last"),
        ("share:c", "'c' is not one of a, b"),
        ("clip:1+dp_sgd:1", "clips or projects twice"),
    ],
)
def test_bad_text_is_refused_by_the_name_of_its_fault(text: str, named: str) -> None:
    with pytest.raises(AuditError, match=named):
        parse(text)


def test_joined_defences_all_act() -> None:
    defence = parse("top_k:0.5 + sign + batch:2 + dropout:0.2")
    assert defence.protect is not None
    (sent,) = defence.protect({"w": torch.tensor([4.0, -3.0, 1.0, 0.5])}, torch.Generator()).values()
    assert sent.tolist() == [1.75, -1.75, 0.0, 0.0]
    assert defence.settings(FederatedSettings(batch=1, dropout=False)) == FederatedSettings(batch=2, dropout=True)
    assert defence.peft(LORA, 2)["lora_dropout"] == 0.2


def protected(name: str, value: Tensor, seed: int = 0) -> Tensor:
    protect = parse(name).protect
    assert protect is not None
    return protect({"w": value}, torch.Generator().manual_seed(seed))["w"]


def random_matrix(rows: int = 40, columns: int = 60, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_noise_is_relative_to_the_root_mean_square() -> None:
    value = 7 * random_matrix(100, 100, seed=9)
    noise = protected("noise:0.3", value) - value
    assert float(noise.std()) == pytest.approx(0.3 * float(value.square().mean().sqrt()), rel=0.04)
    assert float(torch.corrcoef(torch.stack([noise.flatten(), value.flatten()]))[0, 1]) == pytest.approx(0, abs=0.05)
    assert not torch.equal(protected("noise:0.3", value, 1) - value, noise)


@given(st.floats(0.001, 1), st.integers(1, 40))
def test_top_k_keeps_the_largest_and_no_more(fraction: float, size: int) -> None:
    value = random_matrix(1, size)
    sent = protected(f"top_k:{fraction}", value)
    kept = sent != 0
    assert int(kept.sum()) == math.ceil(fraction * size)
    assert torch.equal(sent[kept], value[kept])
    assert kept.all() or value[kept].abs().min() >= value[~kept].abs().max()


def test_int4_has_fifteen_levels_and_rounds_to_the_nearest() -> None:
    value = random_matrix()
    sent = protected("int4", value)
    step = float(value.abs().max()) / 7
    assert len(torch.unique((sent / step).round())) <= 15
    assert float((sent - value).abs().max()) <= step / 2 * (1 + 1e-5)


@pytest.mark.parametrize("name", ["bf16", "int8", "fp8_e4m3", "fp8_e5m2", "int4", "sign"])
def test_an_update_of_zeros_survives_quantisation(name: str) -> None:
    model = adapted()
    model.assign({n: torch.zeros_like(p) for n, p in model.trainable().items() if "lora_B" in n})  # then A's gradient is zero
    defence = parse(name)
    rules = defence.settings(ONE_RECORD)
    sent = defence.update(model, batches(model, synthetic(1, 0), rules), rules).tensors
    assert all(torch.isfinite(value).all() for value in sent.values())
    assert all(not value.any() for n, value in sent.items() if "lora_A" in n)


def test_bf16_sends_what_torch_rounds_to() -> None:
    model = adapted()
    data = batches(model, synthetic(1, 0), ONE_RECORD)
    plain = NONE.update(model, data, ONE_RECORD).tensors
    defence = parse("bf16")
    sent = defence.update(model, data, defence.settings(ONE_RECORD)).tensors
    assert all(torch.equal(plain[name].bfloat16().float(), value) for name, value in sent.items())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("projector", ["random", "svd"])
def test_projection_is_idempotent_and_of_the_rank(side: str, projector: str) -> None:
    once = protected(f"galore:5:{side}:{projector}", random_matrix())
    assert torch.linalg.matrix_rank(once.double(), rtol=1e-5) == 5
    assert torch.allclose(protected(f"galore:5:{side}:{projector}", once), once, atol=1e-4)


def test_the_clients_own_projector_gives_the_best_approximation() -> None:
    """Eckart and Young: the error is the root of the sum of the squares of the other singular values, as numpy finds them."""
    value = random_matrix()
    singular = np.linalg.svd(value.double().numpy(), compute_uv=False)
    for side in ("left", "right"):
        error = float((protected(f"galore:6:{side}:svd", value) - value).norm())
        assert error == pytest.approx(float(np.sqrt((singular[6:] ** 2).sum())), rel=1e-4)


def test_a_projection_that_is_no_reduction_changes_nothing() -> None:
    value = random_matrix(8, 60)
    assert torch.equal(projected(value, 8, "left", "random"), value)
    assert torch.equal(projected(value[0], 2, "left", "random"), value[0])  # a vector
    assert random_projector(8, 8) is None


@pytest.mark.parametrize(
    ("name", "config", "defence", "end"),
    [
        ("nano-llama", LORA, "galore:20", "lora_A.default.weight"),
        ("nano-gpt2", {"type": "FULL"}, "galore:20:left", "c_attn.weight"),  # (d, 3 d): inputs are on the left
    ],
)
def test_an_attacker_sees_inputs_through_a_known_projector(name: str, config: Any, defence: str, end: str) -> None:
    """The rows of a gradient that a known projector left lie in the span of the projected inputs, in R^20."""
    model = adapted(config, name=name)
    taps = [tap for tap in adapted_taps(model, parse(defence)) if tap.parameters[0].endswith(end)]
    assert taps
    assert all("projected to 20" in tap.space for tap in taps)
    plain = {tap.parameters: tap for tap in find(model)}
    generator = torch.Generator().manual_seed(0)
    for tap in taps[:2]:
        (parameter,) = tap.parameters
        width = plain[tap.parameters].rows(model.state()).shape[1]
        inputs = torch.randn(5, width, generator=generator)
        shape = model.trainable()[parameter].shape
        gradient = torch.randn(shape[0] if shape[1] == width else shape[1], 5, generator=generator) @ inputs
        protect = parse(defence).protect
        assert protect is not None
        sent = protect({parameter: gradient if shape[1] == width else gradient.T.contiguous()}, generator)
        rows, views = tap.rows(sent), tap.view(inputs, model.state())
        assert rows.shape[1] == views.shape[1] == 20
        assert float(subspace(rows, 5).distances(views).max()) < 1e-5


def test_taps_that_a_projection_leaves_alone_stay_as_they_are() -> None:
    model = adapted()
    for tap, plain in zip(adapted_taps(model, parse("galore:20")), find(model), strict=True):
        assert ("projected" in tap.space) == (plain.kind == "LoRA A")  # B has eight columns only
    assert [tap.space for tap in adapted_taps(model, NONE)] == [tap.space for tap in find(model)]


def shapes(config: Any, name: str = "nano-llama") -> dict[str, tuple[int, ...]]:
    model = peft_setup.apply(laboratory(name), config)
    return {n: tuple(p.shape) for n, p in model.trainable().items()}


def test_rank_changes_shapes_and_keeps_the_scale() -> None:
    config = parse("rank:2").peft(LORA, 2)
    assert {min(shape) for shape in shapes(config).values()} == {2}
    assert config["lora_alpha"] / config["r"] == LORA["lora_alpha"] / LORA["r"]  # type: ignore[operator]
    assert {
        min(shape) for name, shape in shapes(parse("rank:3").peft({"type": "BOTTLENECK"}, 2)).items() if len(shape) > 1
    } == {3}


@pytest.mark.parametrize("text", ["layers:later", "layers:1", "layers:1-1"])
def test_layers_leaves_the_first_block_untrained(text: str) -> None:
    assert all(".layers.1." in name for name in shapes(parse(text).peft(LORA, 2)))


def test_what_a_method_does_not_have_is_refused() -> None:
    for text, config in (
        ("rank:2", {"type": "FULL"}),
        ("layers:later", {"type": "IA3"}),
        ("freeze_a", {"type": "PROMPT_TUNING"}),
        ("layers:4", LORA),
    ):
        with pytest.raises(AuditError, match=text):
            parse(text).peft(config, 2)


def test_frozen_embeddings_are_not_trained() -> None:
    config = {
        "type": "LORA",
        "r": 4,
        "target_modules": ["q_proj", "embed_tokens"],
        "modules_to_save": ["lm_head", "norm"],
        "trainable_token_indices": [3],
    }
    names = shapes(parse("freeze_embeddings").peft(config, 2))
    assert names
    assert not any("embed" in name or "lm_head" in name for name in names)
    assert any("norm" in name for name in names)
    with pytest.raises(AuditError, match="nothing would be left"):
        parse("freeze_embeddings").peft({**LORA, "target_modules": ["embed_tokens"]}, 2)


def test_shared_parts_are_sent_and_the_others_are_not() -> None:
    model = adapted()
    data = batches(model, synthetic(1, 0), ONE_RECORD)
    for shared, kept in (("a", "b"), ("b", "a")):
        sent = parse(f"share:{shared}").update(model, data, ONE_RECORD).tensors
        assert all(bool(value.any()) == (f"lora_{shared.upper()}" in name) for name, value in sent.items()), kept


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("batch:16", {"batch": 16}),
        ("accumulation:3", {"accumulation": 3}),
        ("secure_aggregation:5", {"cohort": 5}),
        ("local_steps:4", {"sends": "delta", "local_steps": 4}),
        ("adamw", {"sends": "delta", "optimizer": "adamw"}),
        ("dropout:0.1", {"dropout": True}),
        ("fp8_e5m2", {"precision": "fp8_e5m2"}),
    ],
)
def test_rules_change_as_said_and_in_nothing_else(text: str, changed: dict[str, Any]) -> None:
    assert parse(text).settings(ONE_RECORD) == replace(ONE_RECORD, **changed)
