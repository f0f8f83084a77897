"""Updates from files: every naming and container that training stacks write, and one clear sentence for what does not fit."""

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.saved import load_delta, load_for, load_round, load_weights, save_weights
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.update import Update, save


def adapted(config: peft.PeftConfig, name: str = "nano-gpt2", task: str | None = None) -> PublicModel:
    base = build(name, 3, task)
    return PublicModel(peft.get_peft_model(base.module, config).eval(), base.tokenizer, base.task)


def lora(rank: int = 4) -> peft.LoraConfig:
    return peft.LoraConfig(r=rank, target_modules=["c_attn"], fan_in_fan_out=True)


@pytest.fixture(scope="module")
def model() -> PublicModel:
    return adapted(lora())


def random_state(model: PublicModel, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in model.state().items()}


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


CONFIGS = {
    "lora": ("nano-gpt2", None, lora()),
    "dora": ("nano-llama", None, peft.LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)),
    "lora on embeddings": ("nano-llama", None, peft.LoraConfig(r=4, target_modules=["embed_tokens", "v_proj"])),
    "lora and a trained embedding": ("nano-llama", None, peft.LoraConfig(r=4, modules_to_save=["embed_tokens"])),
    "classifier": ("micro-bert", "sequence_classification", peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])),
    "adalora": ("nano-llama", None, peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10)),
    "ia3": ("nano-llama", None, peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "prompt": ("nano-gpt2", None, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)),
    "prefix": ("nano-gpt2", None, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CONFIGS)
def test_adapter_that_peft_saved_is_read_back(kind: str, tmp_path: Path) -> None:
    name, task, config = CONFIGS[kind]
    model = adapted(config, name, task)
    before = model.state()
    model.assign(random_state(model))
    after = model.state()
    model.module.save_pretrained(tmp_path)
    assert same(after, load_weights(model, tmp_path))
    model.assign(before)
    sent = load_delta(model, tmp_path)
    assert sent.kind == "delta"
    assert same({key: after[key] - before[key] for key in after}, dict(sent.tensors))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "base_model.model.", "module._orig_mod.base_model.model."])
@pytest.mark.parametrize("adapter", [".default", ""])
def test_wrappers_and_the_adapters_name_do_not_matter(model: PublicModel, tmp_path: Path, prefix: str, adapter: str) -> None:
    state = random_state(model)
    renamed = {prefix + key.removeprefix("base_model.model.").replace(".default", adapter): v for key, v in state.items()}
    save_file(renamed, tmp_path / "u.safetensors", {"kind": "gradient"})
    assert same(state, dict(load_for(model, tmp_path / "u.safetensors").tensors))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_torchs_dictionaries_are_read(model: PublicModel, tmp_path: Path, suffix: str) -> None:
    state = random_state(model)
    flat, nested = tmp_path / f"flat{suffix}", tmp_path / f"nested{suffix}"
    torch.save(state, flat)
    torch.save({"kind": "delta", "tensors": state}, nested)
    assert same(state, dict(load_for(model, flat, "gradient").tensors))
    assert load_for(model, nested).kind == "delta"
    assert same(state, dict(load_for(model, nested).tensors))


def test_what_we_save_is_read_back(model: PublicModel, tmp_path: Path) -> None:
    start, sent = random_state(model, 1), Update("gradient", random_state(model, 2))
    save_weights(start, tmp_path / "start.safetensors")
    save(sent, tmp_path / "update.safetensors")
    seen = load_round(model, tmp_path / "start.safetensors", tmp_path / "update.safetensors")
    assert same(start, dict(seen.start))
    assert same(dict(sent.tensors), dict(seen.update.tensors))
    assert seen.update.kind == "gradient"


def test_two_adapters_are_a_delta(model: PublicModel, tmp_path: Path) -> None:
    states = []
    for number in (1, 2):
        states.append(random_state(model, number))
        with model.holding(states[-1]):
            model.module.save_pretrained(tmp_path / str(number))
    sent = load_delta(model, after=tmp_path / "2", before=tmp_path / "1")
    assert same({key: states[1][key] - states[0][key] for key in states[0]}, dict(sent.tensors))


def test_frozen_tensors_are_passed_over_in_weights_but_not_in_updates(model: PublicModel, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(model.module.state_dict(), path)
    assert same(model.state(), load_weights(model, path))
    with pytest.raises(AuditError, match="is not a tensor that this model trains"):
        load_for(model, path, "delta")


def test_half_precision_arrives_as_float32(model: PublicModel, tmp_path: Path) -> None:
    state = {name: value.bfloat16() for name, value in random_state(model).items()}
    save_file(state, tmp_path / "u.safetensors", {"kind": "delta"})
    loaded = load_for(model, tmp_path / "u.safetensors").tensors
    assert all(value.dtype == torch.float32 and torch.equal(value, state[name].float()) for name, value in loaded.items())


def spoil(state: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    first = next(iter(state))
    if how == "missing":
        return {name: value for name, value in state.items() if name != first}
    if how == "surplus":
        return {**state, "lm_head.weight": torch.zeros(2)}
    if how == "shape":
        return {**state, first: state[first].T.contiguous()}
    if how == "nan":
        return {**state, first: torch.full_like(state[first], torch.nan)}
    if how == "twice":
        return {**state, first.replace(".default", ""): state[first].clone()}
    if how == "integers":
        return {**state, first: state[first].long()}
    return {f"encoder.{name}": value for name, value in state.items()}


FAULTS = {
    "missing": r"u\.safetensors: the update lacks 'base_model.*lora_A.default.weight', which the model trains",
    "surplus": r"u\.safetensors: 'lm_head.weight' is not a tensor that this model trains",
    "shape": r"has shape \(128, 4\); the model's has \(4, 128\)",
    "nan": "lora_A.default.weight' holds NaN or infinity",
    "twice": "holds 'base_model.*lora_A.default.weight' twice",
    "integers": "lora_A.default.weight' is of type int64, not of real numbers",
    "other model": "is of another model: this one trains none of its 4 tensors, such as 'encoder.base_model",
}


@pytest.mark.parametrize("how", FAULTS)
def test_what_does_not_fit_is_named(model: PublicModel, tmp_path: Path, how: str) -> None:
    path = tmp_path / "u.safetensors"
    save_file(spoil(random_state(model), how), path, {"kind": "gradient"})
    with pytest.raises(AuditError, match=FAULTS[how]):
        load_for(model, path)


def test_adapter_of_another_rank_is_rejected(model: PublicModel, tmp_path: Path) -> None:
    adapted(lora(8)).module.save_pretrained(tmp_path)
    with pytest.raises(AuditError, match=r"shape \(8, 128\); the model's has \(4, 128\)"):
        load_delta(model, tmp_path)


def test_kinds_are_not_confused(model: PublicModel, tmp_path: Path) -> None:
    path = tmp_path / "u.safetensors"
    save_file(random_state(model), path)
    with pytest.raises(AuditError, match="does not say whether it is a gradient or a delta"):
        load_for(model, path)
    save(Update("delta", random_state(model)), path)
    with pytest.raises(AuditError, match="says that it is a delta, not a gradient"):
        load_for(model, path, "gradient")
    with pytest.raises(AuditError, match="is a delta, not weights"):
        load_weights(model, path)
    save_weights(random_state(model), path)
    with pytest.raises(AuditError, match="holds weights, not an update"):
        load_for(model, path)


class Malice:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("touched-by-a-pickle"),))


def test_a_file_that_runs_code_is_not_run(model: PublicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Malice()}, "u.pt")
    with pytest.raises(AuditError, match="without running its code"):
        load_for(model, Path("u.pt"))
    assert not Path("touched-by-a-pickle").exists()


@pytest.mark.parametrize("name", ["u.safetensors", "u.pt", "u.bin"])
@pytest.mark.parametrize("content", [b"", b"not an update at all", b"\x80\x02}q\x00."])
def test_other_files_are_rejected(model: PublicModel, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AuditError, match="u\\."):
        load_for(model, tmp_path / name)


def test_absent_files_are_named(model: PublicModel, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="there is no file"):
        load_for(model, tmp_path / "none.safetensors")
    with pytest.raises(AuditError, match="holds neither adapter_model"):
        load_for(model, tmp_path)
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(AuditError, match="not a dictionary of tensors by name"):
        load_for(model, tmp_path / "list.pt")


def test_peft_writes_names_without_the_adapter(model: PublicModel, tmp_path: Path) -> None:
    """What the tests above rest on."""
    model.module.save_pretrained(tmp_path)
    assert not any(".default" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
