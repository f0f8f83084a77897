"""The FP8 kernels against the torch code that defines them: on a GPU, and everywhere in Triton's interpreter."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted_kernels import assert_compiles, interpreted

from zkaudit.training.fp8 import codes, expansion, states
from zkaudit.training.fp8.codes import E4M3, E5M2, Format
from zkaudit.training.fp8.expansion import Expanded

pytest.importorskip("triton", reason="Triton is not installed")


FOLDER = "zkaudit.training.fp8"
DEVICE_CODES = interpreted(f"{FOLDER}.device_codes")
DEVICE_CODES.BLOCK = 128  # type: ignore[attr-defined]  # the interpreter's time goes by numbers, those of masked lanes too
INTERPRETED = {name: interpreted(f"{FOLDER}.{name}", DEVICE_CODES) for name in ("kernels", "state_kernels")}
for size, smaller in {"PART": 32, "PARTS": 4, "SIDE": 16, "QUANTIZED_SIDE": 8}.items():
    setattr(INTERPRETED["kernels"], size, smaller)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")
MACHINES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
BOTH = pytest.mark.parametrize("code", [E4M3, E5M2], ids=lambda code: code.name)
SHAPES = [(1,), (3, 17), (2, 5, 16), (2, 150)]


def on(device: str, name: str = "kernels") -> ModuleType:
    return INTERPRETED[name] if device == "cpu" else import_module(f"{FOLDER}.{name}")


def wide(shape: tuple[int, ...], seed: int, decades: float = 6.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers spread over decades, some of them zero."""
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=source) * 10 ** (decades * (torch.rand(shape, generator=source) - 0.5))
    return torch.where(torch.rand(shape, generator=source) < 0.05, 0.0, values).to(dtype)


def same_bits(expected: torch.Tensor, found: torch.Tensor) -> None:
    assert (expected.dtype, expected.shape) == (found.dtype, found.shape)
    assert torch.equal(expected.reshape(-1).view(torch.uint8), found.cpu().reshape(-1).view(torch.uint8))


@MACHINES
@BOTH
def test_the_integer_cast_is_torchs_on_all_codes_ties_and_neighbours(device: str, code: Format) -> None:
    read = torch.arange(128, dtype=torch.uint8).view(code.dtype).float()
    table = read[read.isfinite()]
    ties = (table[1:] + table[:-1]) / 2
    beside = [torch.nextafter(ties, torch.full_like(ties, towards)) for towards in (0.0, torch.inf)]
    sizes = torch.cat([table, ties, *beside, torch.tensor([2.0**-126, 1e30, torch.inf, torch.nan])])
    values = torch.cat([sizes, -sizes[:-1]])
    found, _ = on(device).quantize_tensor(values.to(device), code, torch.ones((), device=device))
    same_bits(codes.cast(values, code), found)


@MACHINES
@BOTH
def test_all_codes_are_read_as_torch_reads_them(device: str, code: Format) -> None:
    stored = torch.arange(256, dtype=torch.uint8).view(code.dtype)
    found = on(device).dequantize(stored.to(device), torch.ones((), device=device), 16, torch.float32).cpu()
    assert torch.equal(stored.float().isnan(), found.isnan())
    assert torch.equal(stored.float().nan_to_num(), found.nan_to_num())


@MACHINES
@BOTH
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_and_groups_have_the_twins_bits(device: str, code: Format, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = wide(shape, 1, 3, dtype)
    kernels = on(device)
    stored, scale = codes.quantize_tensor(values, code)
    found, found_scale = kernels.quantize_tensor(values.to(device), code, None)
    same_bits(stored, found)
    same_bits(scale, found_scale)
    same_bits(codes.dequantize(stored, scale, dtype=dtype), kernels.dequantize(stored.to(device), scale.to(device), 16, dtype))
    for group in (16, 5):
        stored, scales = codes.quantize_groups(values, group, code)
        found, found_scales = kernels.quantize_groups(values.to(device), group, code)
        same_bits(stored, found)
        same_bits(scales, found_scales)
        same_bits(codes.dequantize(stored, scales, group, dtype), kernels.dequantize(found, found_scales, group, dtype))


@MACHINES
@BOTH
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (40, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_matrix_and_its_transpose_have_the_twins_bits(
    device: str, code: Format, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    values = wide(shape, 7, 3, dtype)
    kernels = on(device)
    both = codes.quantize_both(values, code)
    for expected, found in zip(both, kernels.quantize_matrix(values.to(device), code, None, True), strict=True):
        same_bits(expected, found)
    scale = both[2] / 4  # a smaller one: some saturate
    none, across, _ = kernels.quantize_matrix(values.to(device), code, scale.to(device), False)
    assert none is None
    same_bits(codes.quantize_turned(values, code, scale)[0], across)
    same_bits(both[1], kernels.turned(both[0].to(device)))


@MACHINES
@settings(max_examples=15)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_any_group_has_the_twins_bits(device: str, numbers: list[float]) -> None:
    stored, scales = codes.quantize_groups(torch.tensor(numbers), 16)
    found, found_scales = on(device).quantize_groups(torch.tensor(numbers, device=device), 16, E4M3)
    same_bits(stored, found)
    same_bits(scales, found_scales)


@MACHINES
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(device: str, bad: float) -> None:
    values = torch.ones(2, 32)
    values[0, 3] = bad
    stored, scales = on(device).quantize_groups(values.to(device), 16, E4M3)
    expected = codes.dequantize(*codes.quantize_groups(values))
    found = codes.dequantize(stored.cpu(), scales.cpu())
    assert torch.equal(expected.nan_to_num(7.0), found.nan_to_num(7.0))
    _, scale = on(device).quantize_tensor(values.to(device), E4M3, None)
    assert torch.equal(scale.cpu().nan_to_num(7.0), codes.quantize_tensor(values)[1].nan_to_num(7.0))
    kernels = on(device, "state_kernels")
    expanded = kernels.expand(values.to(device), 16, 16)
    assert bool(kernels.contract(*expanded, 16)[0, 3].cpu().isnan())


def close(expected: Expanded, found: tuple[torch.Tensor, ...], group: int) -> None:
    """The same largest sizes, powers a step apart at most, and numbers that differ by a code only where a logarithm tips it."""
    largest, power = found[1].cpu(), found[2].cpu()
    assert torch.equal(expected.largest, largest)
    assert bool(((power - expected.power).abs() <= 1 / 16 + 1e-6).all())
    count = expected.codes.numel()
    alike = (power == expected.power).repeat_interleave(group)[:count].reshape(expected.codes.shape)
    apart = (expected.codes.view(torch.uint8).int() - found[0].cpu().view(torch.uint8).int()).abs()[alike]
    assert int(apart.amax()) <= 1
    assert float((apart > 0).float().mean()) < 0.01
    assert float(alike.float().mean()) > 0.9


@MACHINES
@pytest.mark.parametrize("shape", [(1,), (60, 100)])
@pytest.mark.parametrize("decades", [0.01, 9, 40])
def test_expanded_groups_are_the_twins(device: str, shape: tuple[int, ...], decades: float) -> None:
    values = wide(shape, 2, decades)
    kernels = on(device, "state_kernels")
    expected = expansion.expand(values)
    close(expected, kernels.expand(values.to(device), 128, 16), 128)
    found = kernels.contract(*(part.to(device) for part in expected), 128).cpu()
    smallest = torch.finfo(torch.float32).tiny  # below it a GPU may flush to zero
    torch.testing.assert_close(found, expansion.contract(expected), rtol=1e-4, atol=smallest)


@MACHINES
def test_groups_of_one_number_and_of_zeros(device: str) -> None:
    values = torch.cat([torch.zeros(128), torch.full((128,), -3e-9), torch.tensor([0.0, 5.0])])
    kernels = on(device, "state_kernels")
    found = kernels.contract(*kernels.expand(values.to(device), 128, 16), 128).cpu()
    torch.testing.assert_close(found, values, rtol=1e-6, atol=0)


@MACHINES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_in_one_kernel_is_the_twins_step(device: str, dtype: torch.dtype) -> None:
    parameter, gradient = wide((3, 150), 3, 1, dtype), wide((3, 150), 4, 4, dtype)
    first, second = expansion.expand(wide((3, 150), 5, 4)), expansion.expand(wide((3, 150), 6, 6).abs())
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    rates = states.Rates.of(options, 3)
    m, v, expected = expansion.contract(first), expansion.contract(second), parameter.clone()
    states.update(expected, gradient, m, v, rates)
    moved, *moments = (part.to(device).clone() for part in (parameter, *first, *second))
    on(device, "state_kernels").adamw(moved, gradient.to(device), moments[:3], moments[3:], 128, 16, *rates)
    torch.testing.assert_close(moved.cpu(), expected, rtol=1e-4 if dtype == torch.float32 else 2**-7, atol=1e-6)
    for moment, kept in ((m, moments[:3]), (v, moments[3:])):
        found = expansion.contract(Expanded(*(part.cpu() for part in kept)))
        assert float((found - moment).norm() / moment.norm()) < 0.05
        torch.testing.assert_close(kept[1].cpu(), expansion.expand(moment).largest, rtol=1e-4, atol=0)


@pytest.mark.gpu
@needs_gpu
def test_numbers_on_a_gpu_go_to_the_kernels() -> None:
    assert codes.kernels_for(torch.zeros(1, device="cuda")) is on("cuda")
    assert codes.kernels_for(torch.zeros(1)) is None


NUMBERS = {"n": "i32", "count": "i32", "group": "i32", "steps": "i32"}
STATE = {f"{m}_{part}": kind for m in "mv" for part, kind in (("codes", "*u8"), ("largest", "*fp32"), ("power", "*fp32"))}
SIGNATURES = {
    "_largest_size": {"values": "*bf16", "largest": "*i32", "n": "i32", "turns": "i32"},
    "_quantize_tensor": {"values": "*bf16", "found": "*u8", "largest": "*i32", "scale": "*fp32", "n": "i32"},
    "_quantize_matrix": {
        **{"values": "*bf16", "found": "*u8", "across": "*u8", "largest": "*i32", "scale": "*fp32"},
        **{"rows": "i32", "columns": "i32"},
    },
    "_turn": {"stored": "*u8", "found": "*u8", "rows": "i32", "columns": "i32"},
    "_quantize_groups": {
        **{"values": "*bf16", "found": "*u8", "scales": "*bf16"},
        **dict.fromkeys(["count", "width", "columns", "group"], "i32"),
    },
    "_dequantize": {
        **{"stored": "*u8", "scales": "*bf16", "found": "*bf16"},
        **dict.fromkeys(["n", "width", "columns", "group"], "i32"),
    },
    "_expand": {"values": "*fp32", "found": "*u8", "largest": "*fp32", "power": "*fp32", **NUMBERS},
    "_contract": {
        "stored": "*u8",
        "largest": "*fp32",
        "power": "*fp32",
        "found": "*fp32",
        "n": "i32",
        "count": "i32",
        "group": "i32",
    },
    "_adamw": {
        **{"parameter": "*bf16", "gradient": "*bf16", **STATE},
        **dict.fromkeys(["decay", "rate", "gain1", "beta2", "gain2", "eps", "root"], "fp32"),
        **NUMBERS,
    },
}
CONSTANTS = {
    **{"GROUPED": True, "ROUNDS": True, "PLAIN": True, "GIVEN": False},
    **{"BLOCK": 1024, "GROUPS": 8, "WIDTH": 128, "SIDE": 64},
}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", SIGNATURES)
def test_kernels_compile_for_a_gpu_that_is_not_there(name: str, native: bool, tmp_path: Path) -> None:
    modules = [import_module(f"{FOLDER}.{module}") for module in INTERPRETED]
    (kernel,) = [vars(module)[name] for module in modules if name in vars(module)]
    for wide in (False, True):
        assert_compiles(kernel, SIGNATURES[name], CONSTANTS | {"NATIVE": native, "WIDE": wide}, tmp_path)
