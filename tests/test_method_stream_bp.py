"""StreamBP: gradients are autograd's, to 1e-10 in float64, for every supported model; the inexact is refused by name."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed_models import (
    LENGTH,
    MODELS,
    SIZES,
    assert_same,
    batch,
    gpt2,
    gradients,
    in_float64,
    llama,
    plain_loss,
    qwen2,
    qwen3,
)
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

from zkaudit.training.errors import TrainingError  # noqa: E402
from zkaudit.training.memory.stream_bp import StreamBP  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_autograds(kind: str, padding: str) -> None:
    model, inputs = in_float64(MODELS[kind]()), batch(padding)
    plain = plain_loss(model, inputs)
    expected = gradients(model, plain)
    for logit_chunk, layer_chunk in ((100, None), (7, 5), (4, 22)):
        with StreamBP(model, logit_chunk=logit_chunk, layer_chunk=layer_chunk):
            loss = model(**inputs).loss
            found = gradients(model, loss)
        torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
        assert_same(expected, found)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_autograds_on_a_gpu(kind: str, padding: str) -> None:
    """In float64, and in float32 and bfloat16 with their own kernels of attention to their own rounding."""
    model = in_float64(MODELS[kind]()).cuda()
    inputs = {name: tensor.cuda() for name, tensor in batch(padding, length=200).items()}
    if padding == "left":  # what a position that sees no key predicts is up to the kernel
        inputs["labels"] = inputs["labels"].masked_fill(inputs["attention_mask"].roll(1, dims=1) == 0, -100)
    exact, found = gradients(model, plain_loss(model, inputs)), {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model.to(dtype)
        with StreamBP(model, logit_chunk=60, layer_chunk=70):
            found[dtype] = {name: gradient.double() for name, gradient in gradients(model, model(**inputs).loss).items()}
    assert_same(exact, found[torch.float64])
    whole = torch.cat([gradient.flatten() for gradient in exact.values()])
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        other = torch.cat([found[dtype][name].flatten() for name in exact])
        assert (other - whole).norm() <= tolerance * whole.norm()


@settings(max_examples=12)
@given(length=st.integers(2, 12), logits=st.integers(1, 13), layers=st.integers(1, 13), seed=st.integers(0, 99))
def test_any_length_and_chunk_give_the_same_gradients(length: int, logits: int, layers: int, seed: int) -> None:
    model, inputs = _ANY, batch("none", length, seed)
    inputs["labels"][:, ::3] = -100
    inputs["labels"][0, 1] = 5  # at least one target
    expected = gradients(model, plain_loss(model, inputs))
    with StreamBP(model, logit_chunk=logits, layer_chunk=layers):
        assert_same(expected, gradients(model, model(**inputs).loss))


_ANY = in_float64(llama())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_tied_and_free_embeddings(kind: str, tied: bool) -> None:
    model = in_float64(MODELS[kind](tie_word_embeddings=tied))
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    expected = gradients(model, plain_loss(model, batch("right")))
    with StreamBP(model, logit_chunk=6, layer_chunk=9):
        assert_same(expected, gradients(model, model(**batch("right")).loss))


@pytest.mark.parametrize("kind", MODELS)
def test_sequences_packed_by_position_ids_stay_apart(kind: str) -> None:
    model, inputs = in_float64(MODELS[kind]()), batch("none")
    inputs["position_ids"] = torch.cat([torch.arange(9), torch.arange(14)]).expand(3, -1)
    del inputs["attention_mask"]
    expected = gradients(model, plain_loss(model, inputs))
    with StreamBP(model, logit_chunk=6, layer_chunk=4):
        assert_same(expected, gradients(model, model(**inputs).loss))


@pytest.mark.parametrize("kind", MODELS)
def test_eager_attention_in_float32_agrees_to_its_rounding(kind: str) -> None:
    model, inputs = MODELS[kind](attn_implementation="eager").train(), batch("right")
    expected = gradients(model, model(**inputs).loss)
    with StreamBP(model, logit_chunk=6, layer_chunk=5):
        assert_same(expected, gradients(model, model(**inputs).loss), 1e-4)


def test_the_loss_is_transformers_own_for_every_way_to_count() -> None:
    model, inputs = llama(), batch("right")
    shifted = {"shift_labels": inputs["labels"].roll(2, dims=1)}
    for more in ({}, {"num_items_in_batch": 7}, {"num_items_in_batch": torch.tensor(11)}, shifted):
        expected = model(**inputs, **more).loss
        with StreamBP(model):
            torch.testing.assert_close(model(**inputs, **more).loss, expected)


def test_frozen_weights_get_no_gradient_and_others_the_same() -> None:
    model, inputs = in_float64(llama()), batch("right")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name or "layers.0.self_attn.q_proj" in name)
    expected = gradients(model, plain_loss(model, inputs))
    assert len(expected) == 4
    with StreamBP(model, layer_chunk=5):
        assert_same(expected, gradients(model, model(**inputs).loss))


def test_hooks_on_parameters_run_once_in_a_backward_pass() -> None:
    model, runs = llama(), []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: runs.append(name))
    with StreamBP(model, layer_chunk=4, logit_chunk=3):
        model(**batch("none")).loss.backward()
    assert sorted(runs) == sorted(name for name, _ in model.named_parameters())


def test_backward_twice_through_a_retained_graph_doubles_gradients() -> None:
    model = in_float64(llama())
    with StreamBP(model, layer_chunk=4):
        loss = model(**batch("none")).loss
        once = gradients(model, 2 * model(**batch("none")).loss)
        loss.backward(retain_graph=True)
        assert_same(once, gradients_added(model, loss))


def gradients_added(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_a_second_derivative_is_refused() -> None:
    model = llama()
    with StreamBP(model):
        loss = model(**batch("none")).loss
        with pytest.raises(TrainingError, match="create_graph"):
            torch.autograd.grad(loss, [model.model.norm.weight], create_graph=True)


@pytest.mark.parametrize("inside", [False, True])
def test_under_autocast_the_error_is_that_of_bfloat16(inside: bool) -> None:
    """Also where backward is called inside the autocast block, whose cache holds casts made without gradients."""
    model, inputs = llama(), batch("right")
    exact = gradients(model, model(**inputs).loss)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs).loss
    plain = gradients(model, loss)
    with StreamBP(model, layer_chunk=5, logit_chunk=4):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
            found = gradients(model, loss) if inside else {}
        found = found or gradients(model, loss)
    assert found.keys() == exact.keys()
    for name, gradient in exact.items():
        assert (found[name] - gradient).norm() <= 2 * (plain[name] - gradient).norm() + 1e-3 * gradient.norm(), name


def test_leaving_restores_the_model() -> None:
    model, inputs = llama(), batch("right")
    before, state = model(**inputs), list(model.state_dict())
    with StreamBP(model):
        assert model(**inputs).logits is None
        assert list(model.state_dict()) == state
    assert not any("forward" in vars(module) for module in model.modules())
    torch.testing.assert_close(model(**inputs).logits, before.logits, rtol=0, atol=0)


def test_generation_inside_is_the_models_own() -> None:
    model = llama().eval()
    prompt = batch("none")["input_ids"][:, :5]
    expected = model.generate(prompt, max_new_tokens=6, do_sample=False)
    with StreamBP(model):
        assert torch.equal(model.generate(prompt, max_new_tokens=6, do_sample=False), expected)


def test_without_labels_logits_are_whole_and_layers_stream() -> None:
    model, inputs = in_float64(llama()), batch("right")
    expected = gradients(model, plain_loss(model, inputs))
    with StreamBP(model, layer_chunk=5):
        assert_same(expected, gradients(model, plain_loss(model, inputs)))


def refusal(model: nn.Module, **options: Any) -> str:
    with pytest.raises(TrainingError) as caught:
        StreamBP(model, **options)
    return str(caught.value)


def test_what_cannot_be_exact_is_refused_by_name() -> None:
    mistral = transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, num_key_value_heads=2))
    assert "this model is a MistralForCausalLM" in refusal(mistral)
    assert "this model is a LlamaModel" in refusal(llama().model)
    assert "this model is a Linear" in refusal(nn.Linear(2, 2))
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    assert "sliding-window" in refusal(qwen2(**windows))
    assert "sliding-window" in refusal(qwen3(**windows))
    assert "add_cross_attention" in refusal(gpt2(add_cross_attention=True))
    assert "reorder_and_upcast_attn" in refusal(gpt2(reorder_and_upcast_attn=True))
    assert "'flex_attention'" in refusal(llama(attn_implementation="flex_attention"))
    checkpointed = llama()
    checkpointed.gradient_checkpointing_enable()
    assert "gradient_checkpointing_disable" in refusal(checkpointed)
    assert "logit_chunk is 0" in refusal(llama(), logit_chunk=0)
    assert "layer_chunk is -3" in refusal(llama(), layer_chunk=-3)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (gpt2(resid_pdrop=0.1), "resid_dropout"),
        (gpt2(attn_pdrop=0.1), "attn_dropout"),
        (llama(attention_dropout=0.1), "self_attn"),
    ],
)
def test_dropout_in_a_layer_is_refused_in_training_alone(model: Any, place: str) -> None:
    with StreamBP(model):
        with pytest.raises(TrainingError, match=place):
            model.train()(**batch("none"))
        assert model.eval()(**batch("none")).loss.isfinite()


def test_dropout_of_embeddings_is_exact() -> None:
    model, inputs = in_float64(gpt2(embd_pdrop=0.3)), batch("right")
    torch.manual_seed(5)
    expected = gradients(model, plain_loss(model, inputs))
    torch.manual_seed(5)
    with StreamBP(model, layer_chunk=6):
        assert_same(expected, gradients(model, model(**inputs).loss))


def test_a_call_that_cannot_be_exact_is_refused_by_name() -> None:
    model, inputs = llama(), batch("none")
    with StreamBP(model):
        for more, word in (
            ({"output_attentions": True}, "output_attentions"),
            ({"output_hidden_states": True}, "output_hidden_states"),
            ({"return_dict": False}, "return_dict"),
            ({"attention_mask": torch.ones(3, 1, LENGTH, LENGTH, dtype=torch.bool)}, "not one of 4 dimensions"),
        ):
            with pytest.raises(TrainingError, match=word):
                model(**inputs | more)
        with pytest.raises(TrainingError, match="enter StreamBP once"), StreamBP(model):
            pass
        with pytest.raises(TrainingError, match="not its backbone"):
            model.model(inputs["input_ids"], attention_mask=batch("right")["attention_mask"], use_cache=False)
    eager = llama(attn_implementation="eager")
    with StreamBP(eager), pytest.raises(TrainingError, match="left padding"):
        eager(**batch("left"))
    model.loss_function = lambda **_: torch.zeros(())
    with StreamBP(model), pytest.raises(TrainingError, match="loss_function"):
        model(**inputs)
