"""RMSNorm and the gated product as one kernel each way: what Stored makes of torch's functions, with the same codes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreted_kernels import assert_compiles, interpreted
from torch import Tensor, nn

from zkaudit.training.fp8 import codes, fused
from zkaudit.training.fp8.activations import ActivationOptions, compress_activations
from zkaudit.training.fp8.layers import Stored

pytest.importorskip("triton", reason="Triton is not installed")

NAME = "zkaudit.training.fp8.layer_kernels"
INTERPRETED = interpreted(NAME, interpreted("zkaudit.training.fp8.device_codes"))
for size, smaller in {"ROWS": 3, "BLOCK": 64}.items():
    setattr(INTERPRETED, size, smaller)  # several rows and groups a program, and several programs
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")
MACHINES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
EXACT = pytest.mark.parametrize("exact", [False, True])


def compiled() -> ModuleType:
    from zkaudit.training.fp8 import layer_kernels

    return layer_kernels


def on(device: str) -> ModuleType:
    return INTERPRETED if device == "cpu" else compiled()


def numbers(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(expected: Tensor, found: Tensor) -> None:
    """To a few roundings of their type: sums are taken in another order."""
    assert (expected.dtype, expected.shape) == (found.dtype, found.shape)
    error = (expected.double() - found.cpu().double()).norm() / expected.double().norm()
    assert float(error) < (1e-6 if expected.dtype == torch.float32 else 8e-3)


def assert_stored(x: Tensor, stored: tuple[Tensor, Tensor]) -> None:
    for expected, found in zip(codes.quantize_groups(x.detach()), stored, strict=True):
        assert torch.equal(expected.view(torch.uint8), found.cpu().view(torch.uint8))


@MACHINES
@TYPES
@EXACT
@pytest.mark.parametrize("width", [16, 48, 64])
def test_the_norm_is_llamas_on_what_is_stored(device: str, dtype: torch.dtype, exact: bool, width: int) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    module = LlamaRMSNorm(width, 1e-5).to(dtype)
    module.weight.data = numbers((width,), 1, dtype)
    x, gradient = numbers((2, 5, width), 2, dtype).requires_grad_(), numbers((2, 5, width), 3, dtype)
    expected = Stored.apply(module.forward, 16, exact, 1, x, module.weight)
    gradients = torch.autograd.grad(expected, (x, module.weight), gradient)
    weight = module.weight.detach().to(device)
    found, stored = on(device).norm(x.detach().to(device), weight, 1e-5, 16, exact)
    assert_stored(x, stored)
    close(expected.detach(), found)
    for ours, theirs in zip(on(device).norm_gradients(gradient.to(device), stored, weight, 1e-5, 16), gradients, strict=True):
        close(theirs, ours)


@MACHINES
@TYPES
@EXACT
@pytest.mark.parametrize("group", [4, 16])
def test_the_gate_is_that_of_silu_on_what_is_stored(device: str, dtype: torch.dtype, exact: bool, group: int) -> None:
    x, up = (numbers((2, 5, 48), seed, dtype).requires_grad_() for seed in (4, 5))
    gradient = numbers((2, 5, 48), 6, dtype)
    expected = Stored.apply(lambda a, b: F.silu(a) * b, group, exact, 2, x, up)
    gradients = torch.autograd.grad(expected, (x, up), gradient)
    found, *stored = on(device).gate(x.detach().to(device), up.detach().to(device), group, exact)
    close(expected.detach(), found)
    if group == 16:
        assert_stored(x, stored[0])
        assert_stored(up, stored[1])
    for ours, theirs in zip(on(device).gate_gradients(gradient.to(device), *stored, group), gradients, strict=True):
        close(theirs, ours)


def test_a_model_takes_the_kernels_where_they_run_and_its_gradients_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=1, eos_token_id=2))
    tokens = torch.arange(12).reshape(2, 6)
    compress_activations(model, ActivationOptions())

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    expected, calls = gradients(), dict.fromkeys(("norm", "norm_gradients", "gate", "gate_gradients"), 0)

    class Counted(ModuleType):
        def __getattr__(self, name: str) -> Any:
            calls[name] += 1
            return getattr(INTERPRETED, name)

    monkeypatch.setattr(fused, "kernels_for", lambda *_: Counted(NAME))
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    for theirs, ours in zip(expected, gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert calls == {"norm": 3, "norm_gradients": 3, "gate": 1, "gate_gradients": 1}


@pytest.mark.parametrize(
    ("module", "shape", "group"),
    [
        (nn.RMSNorm(32), (2, 32), 16),  # rounds otherwise
        (nn.LayerNorm(32), (2, 32), 16),
        ("llama", (2, 40), 16),  # not of whole groups
        ("llama", (2, 36), 12),  # groups that are no power of two
    ],
)
def test_what_the_kernels_do_not_know_is_left_to_torch(
    module: Any, shape: tuple[int, ...], group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    monkeypatch.setattr(fused, "kernels_for", lambda *_: INTERPRETED)
    module = LlamaRMSNorm(shape[-1]) if module == "llama" else module
    assert fused.norm(module, torch.ones(shape), group, False) is None
    assert fused.norm(LlamaRMSNorm(32).bfloat16(), torch.ones(2, 32), 16, False) is None  # two types
    assert fused.gate(nn.GELU(), torch.ones(2, 32), torch.ones(2, 32), 16, False) is None


ROW = {"codes": "*u8", "scales": "*bf16"}
PAIR = {**ROW, "up_codes": "*u8", "up_scales": "*bf16"}
SIGNATURES = {
    "_norm_forward": {"values": "*bf16", "weight": "*bf16", **ROW, "found": "*bf16", "width": "i32", "eps": "fp32"},
    "_norm_backward": {
        **{**ROW, "weight": "*bf16", "gradient": "*bf16", "of_x": "*bf16", "parts": "*fp32"},
        **{"rows": "i32", "turns": "i32", "width": "i32", "eps": "fp32"},
    },
    "_gate_forward": {"values": "*bf16", "up": "*bf16", **PAIR, "found": "*bf16", "count": "i32"},
    "_gate_backward": {**PAIR, "gradient": "*bf16", "of_x": "*bf16", "of_up": "*bf16", "count": "i32"},
}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", SIGNATURES)
def test_kernels_compile_for_a_gpu_that_is_not_there(name: str, native: bool, tmp_path: Path) -> None:
    constants = {"EXACT": False, "NATIVE": native, "ROUNDS": True, "GROUPS": 128, "GROUP": 16}
    assert_compiles(getattr(compiled(), name), SIGNATURES[name], constants, tmp_path)
