"""The leakage meter: ranks against measured gradients, regimes from n/K, verdicts and findings by configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, GPT2Config, LlamaConfig, LlamaForCausalLM

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.meter import MeterReport, measure
from zkaudit.attacks.model import PublicModel, causal_batch
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.preflight import quantised_layers
from zkaudit.attacks.spans import gap_rank
from zkaudit.attacks.taps import find, groups

QKV: dict[str, Any] = {"type": "LORA", "r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"]}


def measured(name: str, options: dict[str, Any], tokens: int, settings: FederatedSettings | None = None) -> MeterReport:
    return measure(apply(build(name), options), tokens, settings)


def sentences(report: MeterReport) -> str:
    return "\n".join(f"{finding.severity}: {finding.sentence}" for finding in report.findings)


@pytest.mark.parametrize("tokens", [6, 20, 40])
def test_usable_rank_is_the_rank_of_a_real_gradient_capped_by_its_tokens(tokens: int) -> None:
    model = apply(build("nano-llama"), QKV)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.normal_(std=0.02, generator=generator)
    ids = (10 + torch.randperm(1900, generator=generator)[: tokens + 1]).tolist()  # the last has no gradient
    names = model.trainable()
    found = torch.autograd.grad(model.loss(causal_batch([ids], 0)), list(names.values()))
    update = dict(zip(names, found, strict=True))
    row = measure(model, tokens).groups[0]
    group = groups(model)[0]
    assert row.site == group.site.module
    assert gap_rank(torch.linalg.svdvals(group.rows(update))) == min(row.usable, tokens)


@pytest.mark.parametrize(("tokens", "regime"), [(24, "exact"), (25, "soft"), (96, "soft"), (97, "weak")])
def test_regimes_change_at_k_and_where_pursuit_ends(tokens: int, regime: str) -> None:
    row = measured("nano-llama", QKV, tokens).groups[0]
    assert (row.usable, row.dimension, row.regime) == (24, 128, regime)
    assert row.ratio == tokens / 24


@pytest.mark.parametrize(
    ("name", "options", "tokens", "verdict"),
    [
        ("nano-llama", QKV, 20, "exposed"),
        ("nano-llama", QKV, 30, "exposed"),
        ("nano-llama", QKV, 500, "weakly exposed"),
        ("nano-llama", QKV | {"layers_to_transform": [1]}, 20, "partly exposed"),
        ("nano-llama", QKV | {"modules_to_save": ["embed_tokens"]}, 100_000, "exposed"),
        ("nano-llama", QKV | {"trainable_token_indices": [7]}, 100_000, "partly exposed"),
        ("nano-gpt2", {"type": "FULL"}, 100_000, "exposed"),
        ("nano-gpt2", {"type": "PREFIX_TUNING"}, 8, "exposed"),
        ("nano-gpt2", {"type": "BOTTLENECK"}, 8, "partly exposed"),
        ("micro-bert", {"type": "BITFIT"}, 100_000, "exposed"),
        *((n, {"type": t}, 4, "memorisation only") for n in ("nano-gpt2", "nano-llama") for t in ("IA3", "PROMPT_TUNING")),
        ("nano-gpt2", {"type": "BITFIT"}, 4, "memorisation only"),
        ("nano-gpt2", {"type": "LN_TUNING"}, 4, "memorisation only"),
        ("nano-gpt2", {"type": "PREFIX_TUNING", "prefix_projection": True}, 4, "memorisation only"),
    ],
)
def test_verdict(name: str, options: dict[str, Any], tokens: int, verdict: str) -> None:
    report = measured(name, options, tokens)
    assert report.verdict == verdict
    assert report.reason


def test_a_kind_without_derivation_is_unknown_not_safe() -> None:
    model = build("nano-gpt2")
    model.module.register_parameter("mystery", nn.Parameter(torch.zeros(3, 4)))
    report = measure(model, 4)
    assert report.verdict == "unknown"
    assert "nothing is known of what 1 tensor(s) show" in sentences(report)


def test_prefix_keys_shared_by_heads_are_unknown_not_safe() -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=99, **heads)
    module = LlamaForCausalLM(config).requires_grad_(False)
    assert measure(apply(PublicModel(module, None), {"type": "PREFIX_TUNING"}), 4).verdict == "unknown"


def test_a_pooled_classifier_is_told_apart() -> None:
    model = apply(build("micro-bert", task="sequence_classification"), {"type": "LORA"})
    rows = {row.kind: row for row in measure(model, 10).tensors}
    assert rows["pooled weight"].regime == "none"
    assert "classifier" in rows["pooled weight"].name


@pytest.mark.parametrize("name", ["nano-gpt2", "nano-llama", "micro-bert"])
@pytest.mark.parametrize("kind", ["LORA", "DORA", "ADALORA", "IA3", "PREFIX_TUNING", "LN_TUNING", "BOTTLENECK", "FULL"])
def test_there_is_one_explained_row_for_each_trainable_tensor(name: str, kind: str) -> None:
    model = apply(build(name), {"type": kind})
    report = measure(model, 10)
    assert {row.name: row.shape for row in report.tensors} == {n: tuple(p.shape) for n, p in model.trainable().items()}
    assert len(report.tensors) == len(model.trainable())
    assert all(row.why and row.kind != "unknown" for row in report.tensors)
    assert {t for g in report.groups for t in g.tensors} == {p for tap in find(model) for p in tap.parameters}


def test_rounds_on_the_same_records_multiply_k_up_to_the_dimension() -> None:
    def usable(**settings: Any) -> int:
        return measured("nano-llama", QKV, 60, FederatedSettings(warm_up_steps=1, **settings)).groups[0].usable

    assert usable() == 24
    assert usable(rounds=3) == 24
    assert usable(rounds=3, same_batch=True) == 72
    assert usable(rounds=30, same_batch=True) == 126


def test_a_cohort_multiplies_the_tokens() -> None:
    report = measured("nano-llama", QKV, 10, FederatedSettings(warm_up_steps=1, cohort=3))
    assert report.groups[0].tokens == 30
    assert report.groups[0].regime == "soft"


def test_a_first_round_from_zero_shows_nothing_in_a() -> None:
    first = measured("nano-gpt2", {"type": "LORA"}, 4, FederatedSettings())
    assert [row.usable for row in first.groups if row.kinds == ("LoRA A",)] == [0, 0]
    assert {row.regime for row in first.tensors if "lora_A" in row.name} == {"none"}
    assert "show nothing in a first round" in sentences(first)
    later = measured("nano-gpt2", {"type": "LORA"}, 4, FederatedSettings(rounds=2))
    assert {row.regime for row in later.tensors if "lora_A" in row.name} == {"exact"}


@pytest.mark.parametrize("settings", [{"optimizer": "adamw"}, {"local_steps": 2}])
def test_bent_rows_are_not_exact(settings: dict[str, Any]) -> None:
    report = measured("nano-llama", QKV, 10, FederatedSettings(sends="delta", warm_up_steps=1, **settings))
    assert report.groups[0].regime == "soft"


@pytest.mark.parametrize(
    ("name", "options", "settings", "says"),
    [
        ("nano-llama", QKV | {"modules_to_save": ["embed_tokens"]}, {}, "high: 'base_model.model.model.embed_tokens"),
        ("nano-llama", QKV | {"modules_to_save": ["lm_head"]}, {}, "(trained head) names the tokens"),
        ("nano-llama", QKV, {}, "high: the inputs of 'base_model.model.model.layers.0.self_attn.q_proj' and 2 more"),
        ("nano-llama", QKV, {}, "high: n/K = 0.42"),
        ("nano-llama", QKV, {}, "low: updates are sent in float32"),
        ("nano-llama", QKV, {}, "medium: the server sees each client's update alone"),
        ("nano-llama", QKV, {}, "low: clients train without dropout"),
        ("nano-gpt2", {"type": "LORA"}, {"dropout": False}, "low: clients train without dropout"),
        ("nano-llama", QKV, {"rounds": 2, "same_batch": True}, "medium: updates come from the same records in 2 rounds"),
        ("nano-gpt2", {"type": "BOTTLENECK"}, {}, "has a bias and feeds a ReLU"),
        ("nano-llama", QKV, {}, "(pytorch/opacus#820)"),
    ],
)
def test_findings_name_what_leaks(name: str, options: dict[str, Any], settings: dict[str, Any], says: str) -> None:
    assert says in sentences(measured(name, options, 10, FederatedSettings(warm_up_steps=1, **settings)))


def test_findings_are_absent_where_their_cause_is() -> None:
    options = {"type": "LORA", "layers_to_transform": [1]}
    settings = FederatedSettings(warm_up_steps=1, cohort=50, precision="int8")
    severe = {f.sentence for f in measured("nano-gpt2", options, 100, settings).findings if f.severity != "info"}
    assert severe == set()
    gelu = measured("nano-gpt2", {"type": "BOTTLENECK", "activation": "gelu"}, 10)
    assert "ReLU" not in sentences(gelu)


class StandInInt8Linear(nn.Module):
    """A stand-in for a quantised layer of some library: int8 weights and a scale a row, differentiable in its input."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("weight", (layer.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.float() * self.scale)


def test_a_quantised_base_is_found_and_changes_no_span() -> None:
    plain = measured("nano-llama", QKV, 10)
    base = build("nano-llama")
    for layer in base.module.model.layers:
        layer.mlp.gate_proj = StandInInt8Linear(layer.mlp.gate_proj)
    model = apply(base, QKV)
    report = measure(model, 10)
    assert [name.split(".")[-3:] for name in quantised_layers(model)] == [["0", "mlp", "gate_proj"], ["1", "mlp", "gate_proj"]]
    assert report.groups == plain.groups
    assert "info: 2 layers of the base model are quantised" in sentences(report)
    assert "quantised" not in sentences(plain)


def test_quantised_layers_are_known_by_their_class() -> None:
    model = build("nano-llama")
    model.module.model.layers[0].mlp.up_proj.__class__ = type("Linear4bit", (nn.Linear,), {})
    assert quantised_layers(model) == ["model.layers.0.mlp.up_proj"]


SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 500}
CONFIGS = {
    "gpt2": GPT2Config(n_embd=64, n_layer=4, n_head=4, vocab_size=500),
    "llama": LlamaConfig(**SIZES),
    "bert": BertConfig(**SIZES),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["LORA", "DORA", "ADALORA", "PREFIX_TUNING", "BOTTLENECK", "FULL"])
def test_a_plan_without_weights_measures_as_the_model_does(name: str, kind: str) -> None:
    def model(device: str) -> PublicModel:
        torch.manual_seed(0)
        with torch.device(device):
            module = (AutoModelForMaskedLM if name == "bert" else AutoModelForCausalLM).from_config(CONFIGS[name])
        base = PublicModel(module.eval().requires_grad_(False), None, "masked_lm" if name == "bert" else "causal_lm")
        return apply(base, {"type": kind})

    plan = model("meta")
    assert plan.device.type == "meta"
    assert measure(plan, 10) == measure(model("cpu"), 10)


def test_later_layers_of_a_plan_are_like_the_second() -> None:
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=7, num_attention_heads=4, vocab_size=500)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    report = measure(apply(PublicModel(module.requires_grad_(False), None), QKV), 10)
    stacked = [row for row in report.groups if row.kinds == ("LoRA A",) * 3]
    assert [(len(row.tensors), row.depends_on) for row in stacked] == [(3, "token")] + [(3, "prefix")] * 6


@pytest.mark.parametrize("kind", ["LORA", "IA3", "FULL"])
def test_a_report_is_json_and_readable(kind: str) -> None:
    report = measured("nano-llama", {"type": kind}, 10, FederatedSettings())
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["verdict"] == report.verdict
    lines = report.lines()
    assert lines[0] == f"{report.verdict}: {report.reason}"
    assert any("(2)" in line for line in lines)  # layers are merged
    assert all(finding.sentence in "\n".join(lines) for finding in report.findings)


@pytest.mark.parametrize("tokens", [0, -1, True, 1.5])
def test_tokens_must_be_a_positive_integer(tokens: Any) -> None:
    with pytest.raises(AuditError, match="tokens is"):
        measured("nano-gpt2", {"type": "LORA"}, tokens)


def test_a_model_without_trainable_tensors_is_refused() -> None:
    with pytest.raises(AuditError, match="no trainable tensor"):
        measure(build("nano-gpt2"), 10)
