"""The proof system's casts to FP8 are torch's: all 65536 numbers, every scale that a statement may have, bit for bit."""

from __future__ import annotations

from typing import Any

import cast_reference
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_segments import PLAIN, fp8_of

from zkaudit.training.fixedpoint import fp8 as trainer
from zkaudit.zk.block import SIGN_OFFSET
from zkaudit.zk.circuit import casts, fp8
from zkaudit.zk.errors import BadInput
from zkaudit.zk.layout import table_columns

TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
# Format, logarithm of the scale in units of the fixed-point number, and what is added to a number to store it
ACTIVATIONS = [("e4m3", shift, 0) for shift in range(-5, 8)]
GRADIENTS = [(kind, s, SIGN_OFFSET) for kind, low, high in (("e4m3", -6, 6), ("e5m2", -13, -1)) for s in range(low, high + 1)]
STORED = np.arange(1 << 16)


def codes(values: Any, kind: str, shift: int) -> Any:
    """Torch's bytes for these numbers after a clamp to what the format can hold."""
    scaled = torch.from_numpy(np.ldexp(values.astype(np.float32), -shift))
    largest = torch.finfo(TYPES[kind]).max
    return scaled.clamp(-largest, largest).to(TYPES[kind]).view(torch.uint8).numpy()


def decoded(given: Any, kind: str, shift: int) -> Any:
    """The numbers that these bytes stand for."""
    return np.ldexp(torch.from_numpy(given).view(TYPES[kind]).to(torch.float64).numpy(), shift)


@pytest.mark.parametrize(("kind", "shift", "offset"), [*ACTIVATIONS, *GRADIENTS])
def test_casts_are_torch_s_bit_for_bit(kind: str, shift: int, offset: int) -> None:
    values = STORED - offset
    ours = fp8.cast(values, kind, shift)
    expected = codes(values, kind, shift)
    assert (decoded(expected, kind, shift) == ours).all()
    signed = np.copysign(ours.astype(np.float64), np.where(values < 0, -1.0, 1.0))  # an integer zero has lost its sign
    assert (codes(signed, kind, shift) == expected).all()


@pytest.mark.parametrize(("kind", "shift", "offset"), [*ACTIVATIONS, *GRADIENTS])
def test_the_trainer_s_casts_are_the_proof_s(kind: str, shift: int, offset: int) -> None:
    values = STORED - offset
    assert (trainer.cast(torch.from_numpy(values), kind, shift).numpy() == fp8.cast(values, kind, shift)).all()


@given(st.sampled_from([*ACTIVATIONS, *GRADIENTS]), st.lists(st.integers(0, (1 << 16) - 1), min_size=1, max_size=40))
def test_casts_are_the_nearest_numbers_of_the_format(form: tuple[str, int, int], stored: list[int]) -> None:
    """Among all numbers that the format's codes stand for, of two the one whose code is even."""
    kind, shift, offset = form
    values = [x - offset for x in stored]
    assert fp8.cast(np.array(values), kind, shift).tolist() == [cast_reference.cast(x, kind, shift) for x in values]


@pytest.mark.parametrize("kind", TYPES)
def test_the_format_s_numbers_are_those_of_its_finite_codes(kind: str) -> None:
    known = cast_reference.numbers(kind)
    every = decoded(np.arange(len(known), dtype=np.uint8), kind, 0)
    assert every.tolist() == [float(x) for x in known]
    assert not np.isfinite(decoded(np.array([len(known)], np.uint8), kind, 0)).any()
    assert known[-1] == torch.finfo(TYPES[kind]).max == fp8.FORMATS[kind][2]


@pytest.mark.parametrize(("kind", "shift", "offset"), [*ACTIVATIONS, *GRADIENTS])
def test_a_table_pairs_every_stored_number_with_its_stored_cast(kind: str, shift: int, offset: int) -> None:
    """Of a statement with this scale; casts fill the 16 bits of their blocks and no more."""
    bits = PLAIN.gradient_bits if offset else PLAIN.activation_bits
    statement = fp8_of(PLAIN, kind, gradient=shift - bits) if offset else fp8_of(PLAIN, activation=shift - bits)
    number = casts.groups(casts.of_layer(statement, "ga" if offset else "p", 1), casts.numbers(statement), 4)[0].table
    arguments, results = table_columns(statement, number)
    assert (arguments == STORED).all()
    assert (results - offset == decoded(codes(STORED - offset, kind, shift), kind, shift)).all()
    assert results.min() >= 0
    assert results.max() < 1 << 16


@pytest.mark.parametrize("kind", TYPES)
def test_a_scale_beyond_is_refused(kind: str) -> None:
    """One larger, and a cast leaves 16 bits; smaller ones are cut off where the format holds hardly a number that is needed."""
    shifts = [shift for name, shift, _ in GRADIENTS if name == kind]
    for gradient in (min(shifts) - 1, max(shifts) + 1):
        with pytest.raises(BadInput, match=r"fp8.gradient_exponents"):
            fp8_of(PLAIN, kind, gradient=gradient - PLAIN.gradient_bits)
    for activation in (-6, 8):
        with pytest.raises(BadInput, match=r"fp8.activation_exponents"):
            fp8_of(PLAIN, activation=activation - PLAIN.activation_bits)
