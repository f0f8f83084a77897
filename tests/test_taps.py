"""Taps against autograd: what the update of each kind of tensor really spans, and which tensors name tokens outright."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from zkaudit.attacks.lab.models import build
from zkaudit.attacks.model import Batch, PublicModel, causal_batch
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.sites import Dependence, Site, activations, dependence
from zkaudit.attacks.taps import Tap, find, groups, quiet, token_leaks
from zkaudit.attacks.taps.prefix import attention_modules

MODELS = ("nano-gpt2", "nano-llama", "micro-bert")
EMBEDDING = {"nano-gpt2": "wte", "nano-llama": "embed_tokens", "micro-bert": "word_embeddings"}
SPANS: dict[str, dict[str, Any]] = {
    "lora": {"type": "LORA"},
    "rslora": {"type": "LORA", "use_rslora": True},
    "ffa-lora": {"type": "LORA", "freeze_a": True},
    "dora": {"type": "DORA"},
    "adalora": {"type": "ADALORA"},
    "prefix": {"type": "PREFIX_TUNING"},
    "bottleneck": {"type": "BOTTLENECK", "size": 32},
    "gelu": {"type": "BOTTLENECK", "size": 8, "activation": "gelu"},
    "full": {"type": "FULL"},
}
NO_SPANS: dict[str, dict[str, Any]] = {
    "ia3": {"type": "IA3"},
    "ln": {"type": "LN_TUNING"},
    "prefix projection": {"type": "PREFIX_TUNING", "prefix_projection": True, "encoder_hidden_size": 16},
    "prompt": {"type": "PROMPT_TUNING"},
    "p-tuning": {"type": "P_TUNING", "encoder_hidden_size": 16},
    "bitfit": {"type": "BITFIT"},
}


def tokens(model: PublicModel, records: int, length: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(10, model.vocabulary, (records, length), generator=generator).tolist()
    return causal_batch(rows, model.tokenizer.pad_token_id)


def gradient(model: PublicModel, batch: Batch) -> dict[str, Tensor]:
    names = model.trainable()
    found = torch.autograd.grad(model.loss(batch), list(names.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def warmed(name: str, options: Mapping[str, Any]) -> PublicModel:
    """The adapted model after two SGD steps, so that what starts at zero no longer is."""
    model = apply(build(name), options)
    for seed in (1, 2):
        moved = gradient(model, tokens(model, 4, 8, seed))
        model.assign({n: value - 0.1 * moved[n] / moved[n].norm().clamp_min(1e-30) for n, value in model.state().items()})
    return model


def seen(model: PublicModel, tap: Tap, batch: Batch) -> Tensor:
    """What the tap shows of each of the batch's tokens, (n, m)."""
    (x,) = activations(model, [tap.site], batch.input_ids)
    return tap.view(x, model.state()).flatten(0, 1).double()


def outside(rows: Tensor, vectors: Tensor) -> float:
    """The part of `rows` outside the span of `vectors`, relative."""
    basis, singular, _ = torch.linalg.svd(vectors.T, full_matrices=False)
    basis = basis[:, singular > 1e-9 * singular[0]]
    return float((rows - rows @ basis @ basis.T).norm() / rows.norm())


def rank(rows: Tensor) -> int:
    singular = torch.linalg.svdvals(rows.double())
    return int((singular > 1e-5 * singular[0]).sum())


@pytest.fixture(scope="module", params=[(name, kind) for name in MODELS for kind in SPANS], ids="-".join)
def adapted(request: pytest.FixtureRequest) -> PublicModel:
    name, kind = request.param
    return warmed(name, SPANS[kind])


def test_rows_lie_in_the_span_of_what_the_site_saw_and_not_of_another_batch(adapted: PublicModel) -> None:
    batch, other = tokens(adapted, 2, 3), tokens(adapted, 2, 3, seed=9)
    update = gradient(adapted, batch)
    taps = find(adapted)
    assert taps
    for tap in taps:
        rows = tap.rows(update).double()
        assert rows.norm() > 0, tap.parameters
        assert outside(rows, seen(adapted, tap, batch)) < 1e-4, (tap.kind, tap.parameters)
        assert outside(rows, seen(adapted, tap, other)) > 1e-2, (tap.kind, tap.parameters)


def test_rank_is_at_most_the_capacity(adapted: PublicModel) -> None:
    update = gradient(adapted, tokens(adapted, 4, 16))
    for tap in find(adapted):
        assert rank(tap.rows(update)) <= tap.capacity, (tap.kind, tap.parameters)


def test_every_trainable_tensor_is_explained(adapted: PublicModel) -> None:
    told = {parameter for tap in find(adapted) for parameter in tap.parameters}
    told |= {leak.parameter for leak in token_leaks(adapted)}
    assert all(quiet(adapted, parameter).derived for parameter in set(adapted.trainable()) - told)


@pytest.mark.parametrize(("kind", "expected"), [("lora", 8), ("dora", 8), ("prefix", 8), ("gelu", 8)])
def test_capacity_is_reached(kind: str, expected: int) -> None:
    model = warmed("nano-llama", SPANS[kind])
    update = gradient(model, tokens(model, 4, 16))
    first = find(model)[0]
    assert rank(first.rows(update)) == first.capacity == expected


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_gradient_of_a_is_exactly_zero_while_b_is(name: str, kind: str) -> None:
    model = apply(build(name), SPANS[kind])
    update = gradient(model, tokens(model, 2, 5))
    for tap in find(model):
        assert (tap.rows(update).norm() == 0) == tap.kind.startswith("LoRA A")


def test_regulariser_of_adalora_hides_the_span_until_it_is_projected_out() -> None:
    model = warmed("nano-gpt2", SPANS["adalora"])
    batch = tokens(model, 2, 3)
    update = gradient(model, batch)
    tap = next(tap for tap in find(model) if tap.kind == "AdaLoRA A")
    (x,) = activations(model, [tap.site], batch.input_ids)
    assert outside(update[tap.parameters[0]].double(), x.flatten(0, 1).double()) > 0.1
    assert outside(tap.rows(update), seen(model, tap, batch)) < 1e-4


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", NO_SPANS)
def test_kinds_without_a_span_have_no_taps_and_say_why(name: str, kind: str) -> None:
    if (name, kind) in {("nano-llama", "bitfit"), ("micro-bert", "prompt"), ("micro-bert", "p-tuning")}:
        return  # refused, see test_peft_setup
    model = apply(build(name), NO_SPANS[kind])
    assert find(model) == []
    named = {leak.parameter for leak in token_leaks(model)}
    for parameter in set(model.trainable()) - named:
        assert quiet(model, parameter).derived


def test_query_site_is_the_rotated_projection() -> None:
    model = build("nano-llama")
    name = attention_modules(model)[0]
    ids = tokens(model, 2, 7).input_ids
    projected, queries = activations(model, [Site(f"{name}.q_proj", output=True), Site(name, query=True)], ids)
    q = projected.unflatten(2, (4, 32)).transpose(1, 2)
    cos, sin = model.module.model.rotary_emb(q, torch.arange(7)[None])
    rotated, _ = apply_rotary_pos_emb(q, q, cos, sin)
    assert torch.allclose(rotated.transpose(1, 2).flatten(2), queries, atol=1e-6)


def test_positions_count_from_the_end_of_a_trained_prefix() -> None:
    model = warmed("nano-gpt2", SPANS["prefix"])
    site = find(model)[0].site
    ids = tokens(model, 2, 5).input_ids
    (usual,) = activations(model, [site], ids)
    (stated,) = activations(model, [site], ids, torch.arange(5).expand(2, -1))
    assert torch.equal(usual, stated)


def test_inputs_of_first_layers_depend_on_what_the_architecture_says() -> None:
    expected = {"nano-gpt2": Dependence.POSITION, "nano-llama": Dependence.TOKEN, "micro-bert": Dependence.POSITION}
    for name, depends in expected.items():
        found = groups(apply(build(name), SPANS["lora"]))
        assert found[0].dependence == depends
        assert found[-1].dependence == (Dependence.SEQUENCE if name == "micro-bert" else Dependence.PREFIX)


def test_rotated_queries_depend_on_the_position() -> None:
    model = apply(build("nano-llama"), SPANS["prefix"])
    name = attention_modules(model)[0]
    assert dependence(model, Site(name, query=True)) == Dependence.POSITION


def test_modules_that_read_the_same_input_are_stacked() -> None:
    stacked = next(group for group in groups(apply(build("nano-llama"), SPANS["lora"])) if len(group.taps) > 1)
    assert [tap.parameters[0].split(".")[-4] for tap in stacked.taps] == ["q_proj", "v_proj"]
    assert stacked.capacity == 16


def embedding_options(name: str, kind: str) -> dict[str, Any]:
    layer = EMBEDDING[name]
    targets = {"nano-gpt2": "c_attn", "nano-llama": "q_proj", "micro-bert": "query"}[name]
    if kind == "saved":
        return {"type": "LORA", "target_modules": [targets], "modules_to_save": [layer]}
    return {"type": "LORA", "target_modules": [targets, layer]}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["saved", "lora"])
def test_a_trained_embedding_names_the_tokens_of_any_number_of_records(name: str, kind: str) -> None:
    model = apply(build(name), embedding_options(name, kind))
    batch = tokens(model, 24, 20)
    (leak,) = token_leaks(model)
    scores = leak.token_scores(gradient(model, batch))
    assert leak.exact
    # The last token of a record has no loss after it in a causal model: its embedding gets no error.
    fed = batch.input_ids if name == "micro-bert" else batch.input_ids[:, :-1]
    assert set(scores.nonzero()[:, 0].tolist()) == set(fed.flatten().tolist())


def test_trainable_token_indices_name_those_of_the_batch() -> None:
    model = apply(build("nano-llama"), {"type": "LORA", "trainable_token_indices": [50, 51, 52, 53]})
    batch = causal_batch([[20, 51, 21, 53, 22], [60, 61, 62, 63, 64]], model.tokenizer.pad_token_id)
    (leak,) = token_leaks(model)
    assert leak.listed == (50, 51, 52, 53)
    assert leak.token_scores(gradient(model, batch)).nonzero()[:, 0].tolist() == [51, 53]


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("nano-gpt2", {"type": "FULL"}, "tied embedding"),
        ("micro-bert", {"type": "FULL"}, "tied embedding"),
        ("nano-llama", {"type": "FULL"}, "trained head"),
        ("nano-llama", {"type": "LORA", "modules_to_save": ["lm_head"]}, "trained head"),
        ("nano-llama", {"type": "LORA", "target_modules": ["q_proj", "lm_head"]}, "LoRA on head"),
        ("micro-bert", {"type": "BITFIT"}, "output bias"),
    ],
)
def test_targets_stand_out_at_the_output(name: str, options: dict[str, Any], kind: str) -> None:
    model = apply(build(name), options)
    batch = tokens(model, 8, 20)
    leak = next(leak for leak in token_leaks(model) if leak.kind == kind)
    scores = leak.token_scores(gradient(model, batch))
    first = 1 if leak.shows == "targets" and name != "micro-bert" else 0  # a causal model's first token is no target
    true = set(batch.labels[:, first:].flatten().tolist())
    found = set(scores.topk(len(true)).indices.tolist())
    assert len(found & true) / len(true) > 0.99, len(found & true) / len(true)


def test_the_sign_of_the_output_bias_does_not_matter() -> None:
    model = apply(build("micro-bert"), NO_SPANS["bitfit"])
    batch = tokens(model, 4, 8)
    (leak,) = token_leaks(model)
    update = gradient(model, batch)
    delta = {name: -0.1 * value for name, value in update.items()}
    true = set(batch.labels.flatten().tolist())
    assert set((leak.token_scores(update) > 0).nonzero()[:, 0].tolist()) == true
    assert set((leak.token_scores(delta) > 0).nonzero()[:, 0].tolist()) == true


def test_weight_decay_does_not_hide_the_tokens_of_a_trained_embedding() -> None:
    model = apply(build("nano-llama"), embedding_options("nano-llama", "saved"))
    batch = tokens(model, 4, 10)
    (leak,) = token_leaks(model)
    start = model.state()[leak.parameter]
    delta = {leak.parameter: -1e-2 * (gradient(model, batch)[leak.parameter] + 0.1 * start)}
    true = set(batch.input_ids[:, :-1].flatten().tolist())
    assert set(leak.token_scores(delta).topk(len(true)).indices.tolist()) == true


def test_shared_keys_of_a_prefix_are_not_called_safe() -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=99, **heads)
    model = apply(PublicModel(LlamaForCausalLM(config).requires_grad_(False), None), SPANS["prefix"])
    assert find(model) == []
    assert not quiet(model, next(iter(model.trainable()))).derived


def test_adapters_of_the_adapters_library_are_recognised() -> None:
    model = build("nano-gpt2")
    layer = model.module.transformer.h[0].mlp

    class Library(nn.Module):
        """The layers of an adapter as that library names and nests them."""

        def __init__(self) -> None:
            super().__init__()
            self.adapter_down = nn.Sequential(nn.Linear(128, 8), nn.ReLU())
            self.adapter_up = nn.Linear(8, 128)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.adapter_up(self.adapter_down(x))

    layer.dropout = nn.ModuleDict({"task": Library()})["task"]
    kinds = [(tap.kind, tap.capacity) for tap in find(model)]
    assert kinds == [("adapter down", 8), ("adapter up", 8)]


def test_a_classifier_after_pooling_joins_no_group() -> None:
    model = apply(build("micro-bert", task="sequence_classification"), SPANS["lora"])
    classifier = [tap for tap in find(model) if "classifier" in tap.site.module]
    assert len(classifier) == 1
    assert all("classifier" not in tap.site.module for group in groups(model) for tap in group.taps)


def test_adapters_start_as_the_base_model() -> None:
    base = build("nano-gpt2")
    batch = tokens(base, 2, 6)
    before = base.module(input_ids=batch.input_ids).logits
    after = apply(base, SPANS["bottleneck"]).module(input_ids=batch.input_ids).logits
    assert torch.equal(before, after)


def test_row_over_bias_is_the_input_at_which_alone_a_neuron_fired() -> None:
    model = apply(build("nano-gpt2"), {"type": "BOTTLENECK", "size": 4, "target_modules": ["wte"]})
    batch = tokens(model, 2, 6)
    secret = int(batch.input_ids[1, 2])
    vector = model.embedding.weight[secret].detach()
    adapter = model.module.transformer.wte
    with torch.no_grad():
        adapter.adapter_up.weight.normal_(generator=torch.Generator().manual_seed(0))
        adapter.adapter_down.weight[0] = vector / vector.square().sum()
        adapter.adapter_down.bias[0] = -0.8
    tap = next(tap for tap in find(model) if tap.kind == "adapter down")
    update = gradient(model, batch)
    weight, bias = (update[name] for name in tap.parameters)
    assert torch.allclose(weight[0] / bias[0], vector, atol=1e-5)
    assert groups(model)[0].dependence == Dependence.TOKEN
