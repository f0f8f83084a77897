"""PEFT configurations: what becomes trainable, and one sentence for everything that is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.model import causal_batch
from zkaudit.attacks.peft_setup import TYPES, apply, load

SMALL: dict[str, dict[str, Any]] = {"P_TUNING": {"encoder_hidden_size": 16}}
MARKS = {  # what the names of trainable tensors hold, by type
    "LORA": ("lora_A", "lora_B"),
    "DORA": ("lora_A", "lora_B", "lora_magnitude_vector"),
    "ADALORA": ("lora_A", "lora_B", "lora_E"),
    "IA3": ("ia3_l",),
    "PREFIX_TUNING": ("prompt_encoder",),
    "PROMPT_TUNING": ("prompt_encoder",),
    "P_TUNING": ("prompt_encoder",),
    "LN_TUNING": ("ln_tuning_layers",),
    "BITFIT": ("bias",),
    "BOTTLENECK": ("adapter_down", "adapter_up"),
    "FULL": ("",),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["nano-gpt2", "nano-llama", "micro-bert"])
def test_each_type_trains_its_own_tensors_and_gradients_reach_them(name: str, kind: str) -> None:
    if (name, kind) == ("nano-llama", "BITFIT") or (name == "micro-bert" and kind in ("PROMPT_TUNING", "P_TUNING")):
        with pytest.raises(AuditError):
            apply(build(name), {"type": kind})
        return
    model = apply(build(name), {"type": kind, **SMALL.get(kind, {})})
    trainable = model.trainable()
    assert all(any(mark in tensor for mark in MARKS[kind]) for tensor in trainable)
    assert all(any(mark in tensor for tensor in trainable) for mark in MARKS[kind])
    loss = model.loss(causal_batch([[20, 21, 22, 23], [30, 31, 32]], model.tokenizer.pad_token_id))
    found = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    assert any(value is not None and bool(value.any()) for value in found)


def test_same_seed_same_adapter() -> None:
    first, again, other = (apply(build("nano-gpt2"), {"type": "LORA"}, seed=seed).state() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_frozen_a_leaves_only_b() -> None:
    model = apply(build("nano-llama"), {"type": "LORA", "freeze_a": True})
    assert model.trainable()
    assert all("lora_B" in name for name in model.trainable())


@pytest.mark.parametrize(("bias", "count"), [("lora_only", 2), ("all", 13)])
def test_biases_are_trained_when_asked_for(bias: str, count: int) -> None:
    model = apply(build("nano-gpt2"), {"type": "LORA", "bias": bias})
    assert sum(name.endswith("bias") for name in model.trainable()) == count


def test_modules_to_save_are_trained_whole() -> None:
    model = apply(build("nano-llama"), {"type": "LORA", "modules_to_save": ["lm_head", "embed_tokens"]})
    whole = {name.split(".")[-4] for name in model.trainable() if "modules_to_save" in name}
    assert whole == {"lm_head", "embed_tokens"}


def test_embedding_can_have_lora() -> None:
    model = apply(build("nano-llama"), {"type": "LORA", "target_modules": ["embed_tokens"]})
    assert any("lora_embedding_A" in name for name in model.trainable())


def test_a_classifier_trains_its_head() -> None:
    model = apply(build("micro-bert", task="sequence_classification"), {"type": "LORA"})
    assert any("classifier" in name for name in model.trainable())


def test_what_peft_saved_is_read_with_its_weights(tmp_path: Path) -> None:
    module = peft.get_peft_model(
        build("nano-gpt2").module, peft.LoraConfig(r=3, target_modules=["c_attn"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.25)
    module.save_pretrained(tmp_path)
    model = apply(build("nano-gpt2"), load(tmp_path))
    values = {name: value for name, value in model.state().items() if "lora_B" in name}
    assert len(values) == 2
    assert all(value.shape == (384, 3) and bool((value == 0.25).all()) for value in values.values())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "type is None"),
        ({"type": "LORAX"}, "'LORAX'"),
        ({"type": "LORA", "rank": 4}, "no option 'rank'"),
        ({"type": "LORA", "r": 0}, "r is 0"),
        ({"type": "LORA", "r": True}, "r is True"),
        ({"type": "LORA", "r": "8"}, "r is '8'"),
        ({"type": "LORA", "lora_dropout": 1.5}, "lora_dropout is 1.5"),
        ({"type": "LORA", "target_modules": 3}, "target_modules is 3"),
        ({"type": "LORA", "target_modules": ["nothing"]}, "nothing"),
        ({"type": "LORA", "modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'"),
        ({"type": "LORA", "trainable_token_indices": [99999]}, "99999"),
        ({"type": "LORA", "bias": "some"}, "some"),
        ({"type": "BOTTLENECK", "size": 0}, "size is 0"),
        ({"type": "BOTTLENECK", "activation": "step"}, "'step'"),
        ({"type": "BOTTLENECK", "target_modules": ["nothing"]}, "'nothing'"),
        ({"type": "BOTTLENECK", "target_modules": ["attn"]}, "attn'"),
        ({"type": "FULL", "r": 8}, "no option 'r'"),
        ({"type": "PREFIX_TUNING", "num_virtual_tokens": -1}, "num_virtual_tokens is -1"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(AuditError) as error:
        apply(build("nano-gpt2"), options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "says"), [("{", "not JSON"), ("[]", "no JSON object"), ('{"type": 3}', "type is 3")])
def test_a_wrong_file_is_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "peft.json"
    path.write_text(content)
    with pytest.raises(AuditError, match=says) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"nowhere\.json"):
        load(tmp_path / "nowhere.json")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    module = peft.get_peft_model(build("nano-gpt2").module, peft.LoraConfig(r=3, target_modules=["c_attn"]))
    module.save_pretrained(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "r": 5}))
    with pytest.raises(AuditError, match="does not fit"):
        apply(build("nano-gpt2"), load(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(AuditError, match="not a safetensors file"):
        apply(build("nano-gpt2"), load(tmp_path))


def test_an_adapted_model_is_not_adapted_again() -> None:
    model = apply(build("nano-gpt2"), {"type": "LORA"})
    with pytest.raises(AuditError, match="already"):
        apply(model, {"type": "LORA"})
