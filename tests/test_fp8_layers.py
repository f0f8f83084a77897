"""Layers that save in FP8: their gradients against torch's own at the stored inputs, and what they save."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saved_tensors import saved_by
from torch import nn
from torch.utils.checkpoint import checkpoint

from zkaudit.training.errors import TrainingError
from zkaudit.training.fp8.activations import ActivationOptions, compress_activations
from zkaudit.training.fp8.codes import E5M2, dequantize, quantize_groups, quantize_tensor, rounded


def test_a_linear_layers_gradients_are_torchs_at_the_stored_input() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(20, 7), torch.randn(3, 5, 20, requires_grad=True)
    upstream = torch.randn(3, 5, 7)
    compress_activations(layer)
    y = layer(x)
    y.backward(upstream)
    assert torch.equal(y, nn.functional.linear(x, layer.weight, layer.bias))
    stored = dequantize(*quantize_tensor(x.detach())).flatten(0, 1)
    rows = upstream.flatten(0, 1)
    torch.testing.assert_close(layer.weight.grad, rows.T @ stored)
    torch.testing.assert_close(layer.bias.grad, rows.sum(0))
    torch.testing.assert_close(x.grad, upstream @ layer.weight)


def test_gradients_in_e5m2_are_rounded_before_the_products() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(20, 7), torch.randn(15, 20, requires_grad=True)
    upstream = torch.randn(15, 7)
    compress_activations(layer, ActivationOptions(gradients="E5M2"))
    layer(x).backward(upstream)
    coarse = rounded(upstream, E5M2)
    assert not torch.equal(coarse, upstream)
    torch.testing.assert_close(x.grad, coarse @ layer.weight)
    torch.testing.assert_close(layer.weight.grad, coarse.T @ dequantize(*quantize_tensor(x.detach())))


@pytest.mark.parametrize("transposed", [False, True])
def test_products_in_fp8_are_those_of_what_the_codes_stand_for(transposed: bool) -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    layer = Conv1D(32, 48) if transposed else nn.Linear(48, 32)
    x, upstream = torch.randn(3, 7, 48, requires_grad=True), torch.randn(3, 7, 32)
    done = compress_activations(layer, ActivationOptions(products=True))
    assert done.products == done.linear == [""]
    y = layer(x)
    y.backward(upstream)
    weight, stored = (dequantize(*quantize_tensor(values.detach())) for values in (layer.weight, x))
    matrix = weight if transposed else weight.T
    coarse = rounded(upstream, E5M2)
    of_weight = stored.flatten(0, 1).T @ coarse.flatten(0, 1)
    torch.testing.assert_close(y, stored @ matrix + layer.bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, coarse @ matrix.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, of_weight if transposed else of_weight.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, upstream.sum((0, 1)))


def test_layers_of_other_sizes_multiply_in_their_own_type() -> None:
    model = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 10))
    done = compress_activations(model, ActivationOptions(products=True))
    assert (done.linear, done.products) == (["0", "1"], ["0"])


LAYERS = [nn.LayerNorm(40), nn.RMSNorm(40, eps=1e-5), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Mish()]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("exact", [False, True])
def test_other_layers_compute_and_differentiate_at_the_stored_input(layer: nn.Module, exact: bool) -> None:
    layer = copy.deepcopy(layer)
    plain = copy.deepcopy(layer)
    x = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(2), requires_grad=True)
    upstream = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(3))
    compress_activations(layer, ActivationOptions(exact=exact))
    y = layer(x)
    y.backward(upstream)
    stored = dequantize(*quantize_groups(x.detach())).requires_grad_()
    at_stored = plain(stored)
    at_stored.backward(upstream)
    assert torch.equal(y, plain(x) if exact else at_stored)
    assert torch.equal(x.grad, stored.grad)
    for p, q in zip(layer.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


@given(st.integers(0, 4), st.integers(1, 6))
def test_a_loud_token_leaves_the_others_alone(token: int, decades: int) -> None:
    norm = nn.LayerNorm(40)
    compress_activations(norm)
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    loud = x.clone()
    loud[token] *= 10.0**decades
    others = [k for k in range(5) if k != token]
    assert torch.equal(norm(x.requires_grad_())[others], norm(loud.requires_grad_())[others])


def test_layers_that_read_the_same_tensor_save_it_once() -> None:
    heads = nn.ModuleList([nn.Linear(64, 8), nn.Linear(64, 24)])
    compress_activations(heads)
    x = torch.randn(2, 5, 64, requires_grad=True)
    saved = [t for t in saved_by(lambda: [head(x) for head in heads]) if t.dtype == torch.float8_e4m3fn]
    assert len(saved) == 2
    assert saved[0].data_ptr() == saved[1].data_ptr()


def test_an_input_changed_in_place_is_stored_anew() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(8, 4))
    compress_activations(model)
    x = torch.ones(3, 8)
    first = model[0](x).sum()
    x.mul_(5)
    (first + model[1](x).sum()).backward()
    torch.testing.assert_close(model[0].weight.grad, torch.full((4, 8), 3.0))
    torch.testing.assert_close(model[1].weight.grad, torch.full((4, 8), 15.0))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
    # Reentrant checkpointing runs forwards without gradients first, where nothing is stored: only exact layers agree then.
    compress_activations(block, ActivationOptions(exact=reentrant))
    x = torch.randn(3, 5, 32, requires_grad=True)
    block(x).sin().sum().backward()
    expected = [t.grad.clone() for t in (x, *block.parameters())]
    x.grad = None
    block.zero_grad()
    checkpoint(block, x, use_reentrant=reentrant).sin().sum().backward()
    assert all(torch.equal(t.grad, gradient) for t, gradient in zip((x, *block.parameters()), expected, strict=True))


def test_frozen_layers_save_nothing() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.SiLU()).requires_grad_(False)
    compress_activations(model)
    x = torch.randn(9, 30, requires_grad=True)
    saved = saved_by(lambda: model[0](x))
    assert all(t.data_ptr() == model[0].weight.data_ptr() for t in saved)
    model(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_trains_on_its_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2))
    compress_activations(model)
    x = torch.randn(4, 6)
    model(x).sum().backward()
    other = copied(model)
    with torch.no_grad():
        other[0].weight.zero_()
        other[0].bias.zero_()
    model.zero_grad()
    other.zero_grad()
    other(x).sum().backward()
    assert other[0].weight.grad is not None
    assert model[0].weight.grad is None
    assert torch.equal(other[2].weight.grad, torch.zeros(2, 6))


def test_what_cannot_be_compressed_is_refused() -> None:
    with pytest.raises(TrainingError, match="Embedding has no layer"):
        compress_activations(nn.Embedding(3, 3))
    model = nn.Linear(3, 3)
    compress_activations(model)
    with pytest.raises(TrainingError, match="already"):
        compress_activations(model)
    with pytest.raises(TrainingError, match="group = 0"):
        ActivationOptions(group=0)
    with pytest.raises(TrainingError, match="'E3M4' is none of"):
        ActivationOptions(gradients="E3M4")
