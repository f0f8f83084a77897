"""COAT's activations in whole models: what they save, and their gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from saved_tensors import saved_by
from torch import Tensor, nn

from zkaudit.training.fp8.activations import METHOD, ActivationOptions, Compression, compress_activations

TOKENS = (2, 24)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")


def llama(**changes: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 80, "hidden_size": 64, "intermediate_size": 144, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}, bos_token_id=1, eos_token_id=2))  # type: ignore[no-any-return]


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 80, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))  # type: ignore[no-any-return]


MODELS = pytest.mark.parametrize("made", [llama, gpt2])


def tokens(shape: tuple[int, ...] = TOKENS) -> Tensor:
    return torch.randint(0, 80, shape, generator=torch.Generator().manual_seed(1))


def backward(model: nn.Module, inputs: Tensor) -> tuple[float, Tensor]:
    """The loss, and all gradients in one vector."""
    model.zero_grad()
    loss = model(inputs, labels=inputs).loss
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


def stored_bytes(saved: list[Tensor], model: nn.Module) -> int:
    """Bytes of the saved tensors' storages, each once, without parameters'."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    return sum(size for place, size in storages.items() if place not in weights)


@MODELS
def test_what_layers_save_is_float8(made: Callable[[], nn.Module]) -> None:
    model = made()
    compress_activations(model, ActivationOptions(attention=True))
    hidden = model.config.hidden_size
    saved = saved_by(lambda: model(tokens()).logits)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    floats = [t for t in saved if t.is_floating_point() and t.untyped_storage().data_ptr() not in weights]
    activations = [t for t in floats if t.numel() >= TOKENS[0] * TOKENS[1] * hidden]
    assert activations
    assert {t.dtype for t in activations} == {torch.float8_e4m3fn}


@MODELS
def test_saved_bytes_are_less_than_half_of_bfloat16s(made: Callable[[], nn.Module]) -> None:
    model = made().bfloat16()
    inputs = tokens((4, 64))
    before = stored_bytes(saved_by(lambda: model(inputs).logits), model)
    with compress_activations(model):
        after = stored_bytes(saved_by(lambda: model(inputs).logits), model)
    assert after < before / 2


@MODELS
@pytest.mark.parametrize(
    ("options", "most"),
    [
        (ActivationOptions(), 0.06),
        (ActivationOptions(exact=True), 0.05),
        (ActivationOptions(attention=True), 0.06),
        (ActivationOptions(gradients="E5M2"), 0.12),
        (ActivationOptions(group=64), 0.06),
        (ActivationOptions(products=True), 0.15),
    ],
    ids=str,
)
def test_a_models_gradients_stay_within_a_few_percent(
    made: Callable[[], nn.Module], options: ActivationOptions, most: float
) -> None:
    model = made()
    loss, expected = backward(model, tokens())
    compress_activations(model, options)
    found_loss, found = backward(model, tokens())
    assert found_loss == loss if options.exact else found_loss == pytest.approx(loss, rel=1e-3)
    assert 0 < float((found - expected).norm() / expected.norm()) < most


def test_gradients_of_two_batches_add_up() -> None:
    model = llama()
    compress_activations(model)
    one, two = backward(model, tokens())[1], backward(model, tokens((2, 9)))[1]
    model.zero_grad()
    for shape in (TOKENS, (2, 9)):
        model(tokens(shape), labels=tokens(shape)).loss.backward()
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in model.parameters()]), one + two)


def test_autocast_saves_and_differentiates_in_its_own_type() -> None:
    model = llama()
    with torch.autocast("cpu", torch.bfloat16):
        _, expected = backward(model, tokens())
        compress_activations(model)
        _, found = backward(model, tokens())
    assert float((found - expected).norm() / expected.norm()) < 0.08
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


@MODELS
def test_without_gradients_the_model_computes_as_before(made: Callable[[], nn.Module]) -> None:
    model = made()
    with torch.no_grad():
        expected = model(tokens()).logits
        compress_activations(model)
        assert torch.equal(model(tokens()).logits, expected)


@MODELS
def test_names_and_values_of_the_state_dict_stay(made: Callable[[], nn.Module]) -> None:
    model = made()
    before = copy.deepcopy(model.state_dict())
    compress_activations(model)
    assert list(before) == list(model.state_dict())
    made().load_state_dict(model.state_dict())


@MODELS
def test_removed_compression_leaves_no_trace(made: Callable[[], nn.Module]) -> None:
    model = made()
    expected = backward(model, tokens())
    with compress_activations(model, ActivationOptions(attention=True)) as done:
        assert isinstance(done, Compression)
        backward(model, tokens())
    assert not any("forward" in vars(module) for module in model.modules())
    assert not model._forward_hooks
    found = backward(model, tokens())
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])


def test_everything_that_is_not_compressed_is_named() -> None:
    model = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 16), nn.SiLU(inplace=True), nn.Dropout(0.1), nn.LayerNorm(16))
    done = compress_activations(model)
    assert (done.linear, done.groupwise) == (["1"], ["4"])
    assert done.left == {"0": "Embedding", "2": "SiLU", "3": "Dropout"}
    found = compress_activations(llama())
    assert found.gated == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert set(found.left.values()) == {"Embedding", "LlamaRotaryEmbedding"}
    assert len(found.linear) == 15
    assert len(found.groupwise) == 5


def test_the_method_says_where_it_is() -> None:
    assert METHOD.name == "coat-activations"
    assert METHOD.where == f"{compress_activations.__module__}.{compress_activations.__name__}"


@pytest.mark.slow
def test_it_trains_in_transformers_trainer_and_its_run_continues(tmp_path: Any) -> None:
    from transformers import Trainer, TrainingArguments

    from zkaudit.training.fp8.states import CoatAdamW

    rows = [{"input_ids": row, "labels": row} for row in tokens((32, 16))]

    def trained(folder: str, start: str | None, steps: int) -> nn.Module:
        model = llama()
        compress_activations(model)
        arguments = TrainingArguments(
            str(tmp_path / folder), max_steps=steps, save_steps=3, per_device_train_batch_size=4, report_to=[], seed=0,
            lr_scheduler_type="constant", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        optimizer = CoatAdamW(model.parameters(), lr=1e-3, smallest=0)
        Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, None)).train(resume_from_checkpoint=start)  # type: ignore[arg-type]
        return model

    whole = trained("whole", None, 6)
    resumed = trained("resumed", str(tmp_path / "whole" / "checkpoint-3"), 6)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(whole.parameters(), llama().parameters(), strict=True))


@pytest.mark.gpu
@needs_gpu
def test_peak_memory_on_a_gpu_falls_and_gradients_stay() -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8}
    inputs = tokens((8, 512)).cuda()

    def peak(model: nn.Module) -> tuple[int, Tensor]:
        backward(model, inputs)  # compiles kernels, makes the gradients' memory
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        _, gradients = backward(model, inputs)
        return torch.cuda.max_memory_allocated() - held, gradients

    model = llama(**sizes).bfloat16().cuda()
    plain, expected = peak(model)
    compress_activations(model)
    ours, found = peak(model)
    assert ours < plain / 1.5
    assert float((found - expected).norm() / expected.norm()) < 0.1


@pytest.mark.gpu
@needs_gpu
@MODELS
@pytest.mark.parametrize("products", [False, True])
def test_a_gpus_gradients_are_a_cpus(made: Callable[[], nn.Module], products: bool) -> None:
    """With FP8 products to 10 %: noise of 1e-5 in a product turns codes over, and moves the gradients of a CPU by 5.5 %."""
    model = made()
    compress_activations(model, ActivationOptions(attention=True, products=products))
    loss, expected = backward(model, tokens())
    found_loss, found = backward(model.cuda(), tokens().cuda())
    assert found_loss == pytest.approx(loss, rel=1e-3)
    assert float((found.cpu() - expected).norm() / expected.norm()) < (0.1 if products else 0.05)
