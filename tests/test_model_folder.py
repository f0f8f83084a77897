"""Models from folders: what transformers saved comes back, what is missing is made up and told, what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.model import PublicModel, Task
from zkaudit.attacks.model_folder import model_from
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.sites import dependence
from zkaudit.attacks.taps import find


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved = build("nano-llama")
    saved.module.save_pretrained(tmp_path)
    saved.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def logits(model: PublicModel) -> torch.Tensor:
    result: torch.Tensor = model.module(input_ids=torch.tensor([[20, 21, 22]])).logits
    return result


def test_a_saved_model_comes_back_frozen(folder: Path) -> None:
    notes: list[str] = []
    model = model_from(folder, notes.append)
    assert torch.equal(logits(model), logits(build("nano-llama")))
    assert model.trainable() == {}
    assert model.tokenizer("a phone")["input_ids"] == build("nano-llama").tokenizer("a phone")["input_ids"]
    assert notes == []


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("nano-gpt2", "causal_lm"),
        ("nano-llama", "causal_lm"),
        ("micro-bert", "masked_lm"),
        ("micro-bert", "sequence_classification"),
    ],
)
def test_the_task_is_that_of_the_architecture(tmp_path: Path, name: str, task: Task) -> None:
    build(name, task=task).module.save_pretrained(tmp_path)
    assert model_from(tmp_path).task == task


@pytest.mark.parametrize(("name", "task"), [("nano-gpt2", "causal_lm"), ("micro-bert", "masked_lm")])
def test_a_configuration_alone_is_enough(tmp_path: Path, name: str, task: Task) -> None:
    build(name).module.config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": None}))
    notes: list[str] = []
    first, again = model_from(tmp_path / "config.json", notes.append), model_from(tmp_path / "config.json")
    assert first.task == task
    assert torch.equal(logits(first), logits(again))
    assert "random" in notes[0]
    assert "tokenizer" in notes[1]
    adapted = apply(first, {"type": "LORA"})
    assert dependence(adapted, find(adapted)[0].site) >= 0


def test_a_large_configuration_stays_a_plan(tmp_path: Path) -> None:
    config = build("nano-llama").module.config.to_dict()
    large = {**config, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    large |= {"num_key_value_heads": 32, "head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps(large))
    assert model_from(tmp_path).device.type == "meta"


def test_missing_tensors_are_told(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    notes: list[str] = []
    model_from(folder, notes.append)
    assert "model.norm.weight" in notes[0]


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder: Path) -> None:
    tokenizer = build("nano-llama").tokenizer
    larger = type(tokenizer).from_pretrained(folder)
    larger.add_tokens(["<one more>"])
    larger.save_pretrained(folder)
    with pytest.raises(AuditError, match=f"has {len(larger)} tokens"):
        model_from(folder)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "{}", "no model_type"),
        ("config.json", '{"model_type": "no-such-model"}', "no-such-model"),
        ("config.json", '{"model_type": "gpt2", "architectures": ["GPT2DoubleHeadsModel"]}', "GPT2DoubleHeadsModel"),
        ("config.json", '{"model_type": "gpt2", "n_embd": "wide"}', "gpt2"),
        ("model.safetensors", "not safetensors", "weights in"),
        ("tokenizer.json", "{", "tokenizer in"),
    ],
)
def test_a_broken_file_is_named_in_one_sentence(folder: Path, file: str, content: str, says: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(AuditError) as error:
        model_from(folder)
    assert says in str(error.value)
    assert str(folder) in str(error.value) or "GPT2DoubleHeadsModel" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_other_sizes_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 100}))
    with pytest.raises(AuditError, match="do not fit"):
        model_from(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="nowhere"):
        model_from(tmp_path / "nowhere")
