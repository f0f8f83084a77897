"""The Triton kernels against the torch code that defines them: on a GPU, and everywhere in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted_kernels import assert_compiles, interpreted

from zkaudit.training.fixedpoint import rescale

pytest.importorskip("triton", reason="Triton is not installed")


def compiled() -> ModuleType:
    from zkaudit.training.fixedpoint import rescale_kernels

    return rescale_kernels


INTERPRETED = interpreted("zkaudit.training.fixedpoint.rescale_kernels")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")
MACHINES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])

POWERS = [1 << k for k in range(63)]
EDGES = [0, -(1 << 63), (1 << 63) - 1, *POWERS, *(-p for p in POWERS), *(p - 1 for p in POWERS), *(-p - 1 for p in POWERS)]
integers = st.one_of(st.sampled_from(EDGES), st.integers(-(1 << 63), (1 << 63) - 1))
doubles = st.one_of(st.sampled_from([v for v in EDGES if abs(v) <= 1 << 53]), st.integers(-(1 << 53), 1 << 53))


def same(function: str, device: str, *tensors: torch.Tensor, **numbers: int) -> None:
    kernels = INTERPRETED if device == "cpu" else compiled()
    expected = getattr(rescale, function)(*tensors, **numbers)
    found = getattr(kernels, function)(*(tensor.to(device) for tensor in tensors), **numbers)
    pairs = zip(expected, found, strict=True) if isinstance(expected, tuple) else [(expected, found)]
    for twin, kernel in pairs:
        assert (twin.dtype, twin.shape) == (kernel.dtype, kernel.shape)
        assert twin.numpy().tobytes() == kernel.cpu().numpy().tobytes()


@MACHINES
@settings(max_examples=100)
@given(st.data())
def test_rescale(device: str, draws: st.DataObject) -> None:
    limbs, n = draws.draw(st.integers(1, 3)), draws.draw(st.integers(1, 9))
    bits = draws.draw(st.integers(1, 48))
    shift = draws.draw(st.integers(1, bits))
    values, kind = draws.draw(st.sampled_from([(integers, torch.int64), (doubles, torch.float64)]))
    ties = st.integers(-8, 8).map(lambda k: k * (1 << bits) - (1 << (bits - 1)))
    parts = [draws.draw(st.lists(st.one_of(ties, values), min_size=n, max_size=n)) for _ in range(limbs)]
    same("rescale", device, torch.tensor(parts, dtype=kind), shift=shift, bits=bits)


@settings(max_examples=100)
@given(st.data())
def test_rescale_is_the_rounded_division(draws: st.DataObject) -> None:
    bits = draws.draw(st.integers(16, 48))
    shift = draws.draw(st.integers(8, bits))
    size = min(1 << 53, 1 << (61 - shift))
    parts = [draws.draw(st.integers(-size, size)) for _ in range(draws.draw(st.integers(1, 2)))]
    total = sum(part << (i * shift) for i, part in enumerate(parts)) + (1 << (bits - 1))
    quotient, remainder = rescale.rescale(torch.tensor(parts, dtype=torch.float64)[:, None], shift, bits)
    assert (int(quotient), int(remainder)) == divmod(total, 1 << bits)


@MACHINES
@given(st.lists(integers, min_size=1, max_size=9))
def test_rectify(device: str, values: list[int]) -> None:
    same("rectify", device, torch.tensor(values))


@MACHINES
@given(st.lists(st.tuples(integers, st.booleans()), min_size=1, max_size=9))
def test_mask(device: str, pairs: list[tuple[int, bool]]) -> None:
    same("mask", device, torch.tensor([value for value, _ in pairs]), torch.tensor([negative for _, negative in pairs]))


@MACHINES
@given(st.lists(integers, min_size=1, max_size=9), st.integers(1, 4))
def test_words(device: str, values: list[int], count: int) -> None:
    same("words", device, torch.tensor(values), count=count)


@given(st.lists(integers, min_size=1, max_size=9), st.sampled_from(["<i4", "<u4", "<i8"]))
def test_words_are_the_bytes_of_the_stored_type_and_the_provers_limbs(values: list[int], kind: str) -> None:
    found = rescale.words(torch.tensor(values), np.dtype(kind).itemsize // 2).numpy()
    assert found.tobytes() == np.array(values).astype(kind).tobytes()
    limbs: Any = found.view(np.uint16)
    assert limbs.tolist() == [[value >> (16 * k) & 0xFFFF for k in range(limbs.shape[1])] for value in values]


@MACHINES
@pytest.mark.parametrize("n", [1, 1023, 1024, 1025, 2049])
def test_every_number_of_the_last_block_and_no_other(device: str, n: int) -> None:
    values = torch.from_numpy(np.random.default_rng(n).integers(-(1 << 62), 1 << 62, (3, n)))
    same("rescale", device, values, shift=20, bits=32)
    same("rectify", device, values)
    same("mask", device, values, values % 2 == 0)
    same("words", device, values, count=2)


@MACHINES
def test_transposed_values(device: str) -> None:
    values = torch.from_numpy(np.random.default_rng(0).integers(-(1 << 62), 1 << 62, (5, 7))).T
    same("rescale", device, values, shift=9, bits=17)
    same("rectify", device, values)
    same("mask", device, values, values < 0)
    same("words", device, values, count=3)


@pytest.mark.gpu
@needs_gpu
def test_numbers_on_a_gpu_go_to_the_kernels() -> None:
    assert rescale._kernels(torch.zeros(1, device="cuda")) is compiled()
    assert rescale._kernels(torch.zeros(1)) is None


SIGNATURES = {
    "_rescale": {
        "parts": "*fp64",
        "quotient": "*i64",
        "remainder": "*i64",
        "n": "i32",
        "half": "i64",
        "shift": "i32",
        "above": "i32",
    },
    "_rectify": {"z": "*i64", "positive": "*fp64", "negative": "*u8", "n": "i32"},
    "_mask": {"gradient": "*i64", "negative": "*u8", "masked": "*fp64", "n": "i32"},
    "_words": {"values": "*i64", "found": "*i16", "n": "i32"},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_kernels_compile_for_a_gpu_that_is_not_there(name: str, tmp_path: Path) -> None:
    constants = {"LIMBS": 2, "COUNT": 2, "BLOCK": 1024}
    assert_compiles(getattr(compiled(), name), SIGNATURES[name], constants, tmp_path)
