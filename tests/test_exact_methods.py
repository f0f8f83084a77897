"""The exact trainer with GaLore, LoRA and FP8 against the reference of tests/method_reference.py, and against numpy's SVD."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from method_reference import Data, kernel, method_run
from method_segments import VARIANTS, data_of

from zkaudit.training import config as configuration
from zkaudit.training import provable
from zkaudit.training.config import FixedPoint, Settings
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import train
from zkaudit.zk import methods
from zkaudit.zk.circuit.galore import layers
from zkaudit.zk.methods import FP8, GaLore, LoRA
from zkaudit.zk.sampling import batch_rows
from zkaudit.zk.statement import Statement
from zkaudit.zk.testing.reference_trainer import OutOfRange
from zkaudit.zk.testing.segments import example, statement_of

Draw = st.DrawFn
ACTIVATION_SCALES = (-5, 7)  # logarithms of the least and the largest scale in units of the fixed-point number
GRADIENT_SCALES = {"e4m3": (-6, 6), "e5m2": (-13, -1)}


@dataclass(frozen=True)
class Run:
    """What the trainer made of a problem: arrays stacked over steps, the state after each step, and the bases."""

    arrays: dict[str, Any]
    states: list[list[Any]]
    bases: dict[tuple[int, int], Any]


def settings_of(s: Statement) -> Settings:
    """The trainer's settings, in its own classes."""
    kinds = {"galore": provable.GaLore, "lora": provable.LoRA, "fp8": provable.FP8}
    given = {name: kind(**methods.written(getattr(s, name))) for name, kind in kinds.items() if getattr(s, name) is not None}
    return Settings(s.loss, s.batch, s.rates, FixedPoint(s.activation_bits, s.gradient_bits, s.weight_bits), **given)


def batches_of(s: Statement) -> Any:
    return batch_rows(bytes.fromhex(s.batch_seed), s.rows, s.batch, 0, s.steps)


def run(s: Statement, data: Data, first_step: int = 0, moments: Any = ()) -> Run:
    """Train with the exact trainer; TrainingError where it stops."""
    steps: list[dict[str, Any]] = []
    states: list[list[Any]] = []
    bases: dict[tuple[int, int], Any] = {}

    def sink(arrays: dict[str, Any], state: Any) -> None:
        t = first_step + len(steps)
        steps.append(dict(arrays))
        held = [np.array(x) for x in state]
        state = held[: len(data.start)]
        rest = iter(held[len(data.start) :])
        for layer in layers(s):
            if layer.spec.is_committed:
                bases[layer.layer, t // layer.spec.gap] = next(rest)
            state += [next(rest) for _ in range(2)] if layer.spec.is_adam else []
        assert next(rest, None) is None
        states.append(state)

    def tensors(matrices: Any) -> list[torch.Tensor]:
        return [torch.from_numpy(np.asarray(matrix).astype(np.int64)) for matrix in matrices]

    train(
        tensors(data.start), *tensors([data.inputs, data.targets]), batches_of(s), settings_of(s), sink, first_step,
        frozen=tensors(data.frozen), moments=tensors(moments), seed=bytes.fromhex(s.batch_seed),
    )  # fmt: skip
    return Run({name: np.stack([step[name] for step in steps]) for name in steps[0]}, states, bases)


@st.composite
def galores(draw: Draw, s: Statement) -> Statement:
    """The statement with GaLore, and rates that suit it."""
    sides = tuple(draw(st.sampled_from(methods.SIDES)) for _ in range(s.layers))
    basis_bits, moment_bits = draw(st.integers(6, 13)), draw(st.integers(8, 14))
    ranks = tuple(draw(st.integers(1, min(d + 1, units))) for d, units in itertools.pairwise(s.widths))
    shift = s.activation_bits + s.gradient_bits + basis_bits + 2 - draw(st.integers(4, 14))
    spec = GaLore(
        draw(st.sampled_from(methods.OPTIMIZERS)), draw(st.sampled_from(methods.BASES)), draw(st.integers(1, 5)), ranks, sides,
        basis_bits, max(1, shift), moment_bits, draw(st.integers(0, 1023)), draw(st.integers(0, 1023)),
        draw(st.sampled_from([1, 4, 1 << 14])),
    )  # fmt: skip
    if spec.is_adam and draw(st.booleans()):
        kept = [
            d + 1 if side == "right" else units for side, (d, units) in zip(sides, itertools.pairwise(s.widths), strict=True)
        ]
        first, second = (tuple(draw(exponents(units, most)) for units in kept) for most in (15, 16))
        spec = replace(spec, first_exponents=first, second_exponents=second)
    unit = Fraction(spec.unit(s.weight_bits, s.activation_bits + s.gradient_bits, s.batch))
    largest = max(1, int(Fraction(1, 8) / unit))
    return replace(s, galore=spec, rates=tuple(draw(st.integers(1, largest)) for _ in s.rates))


def exponents(units: int, most: int) -> st.SearchStrategy[int | tuple[int, ...]]:
    """Of a layer's moments: one, or one for each 16 units."""
    one = st.integers(1, most)
    return one | st.tuples(*[one] * -(-units // 16))


@st.composite
def loras(draw: Draw, s: Statement) -> Statement:
    """The statement with adapters, of rank 0 somewhere if it has several layers."""
    ranks = [draw(st.integers(1, min(pair))) for pair in itertools.pairwise(s.widths)]
    if len(ranks) > 1:
        ranks[draw(st.integers(0, len(ranks) - 1))] = 0
    factor, divisor = draw(st.sampled_from([(1, 1), (4, 1), (9, 4), (1, 16)]))
    return replace(s, lora=LoRA(tuple(ranks), factor, divisor), rates=tuple(rate * divisor for rate in s.rates))


@st.composite
def fp8s(draw: Draw, s: Statement) -> Statement:
    """The statement with FP8, at any scales that there may be."""
    kind = draw(st.sampled_from(methods.GRADIENT_FORMATS))
    exponents = []
    for scales, bits in ((ACTIVATION_SCALES, s.activation_bits), (GRADIENT_SCALES[kind], s.gradient_bits)):
        exponents.append(tuple(draw(st.integers(*scales)) - bits for _ in s.widths[1:-1]))
    return replace(s, fp8=FP8(exponents[0], exponents[1], kind))


@st.composite
def problems(draw: Draw) -> tuple[Statement, Data]:
    """Networks of 1 to 4 layers with any of the methods, alone or with FP8, whose numbers now and then leave their ranges."""
    f = draw(st.integers(2, 10))
    g = draw(st.integers(f, 14))
    w = draw(st.integers(max(20, f + g), 40))
    widths = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=5)))
    rows, batch = draw(st.integers(4, 8)), draw(st.integers(1, 4))
    rates = tuple(draw(st.integers(1, max(1, 1 << (w - f - g) >> 3))) for _ in range(draw(st.integers(1, 6))))
    s = Statement(
        widths=widths, loss=draw(st.sampled_from(configuration.LOSSES)), batch=batch, first_step=0, rates=rates, rows=rows,
        activation_bits=f, gradient_bits=g, weight_bits=w, seed="", batch_seed="5a" * 32, columns=6, segment=0,
        start_bound=1 << (w + 3), previous="",
    )  # fmt: skip
    method = draw(st.sampled_from(["galore", "lora", "fp8"]))
    if method != "fp8":
        s = draw(galores(s) if method == "galore" else loras(s))
    if method == "fp8" or draw(st.booleans()):
        s = draw(fp8s(s))
    return s, data_of(s, draw(st.integers(0, 1 << 32)), draw(st.sampled_from([0.2, 0.6, 2.0])))


@settings(max_examples=150)
@given(problems())
def test_trainer_equals_reference(problem: tuple[Statement, Data]) -> None:
    s, data = problem
    try:
        made = run(s, data)
    except TrainingError:
        assume(s.galore is None or not s.galore.is_committed)  # its last bases are not known
        with pytest.raises(OutOfRange):
            method_run(s, data, batches_of(s))
        return
    expected = method_run(s, replace(data, bases=made.bases), batches_of(s))
    for name in made.arrays.keys() - {"batch"}:
        assert (expected[name] == made.arrays[name]).all(), name
    assert_states_equal(s, data, expected, made)
    only_here = ("P", "B", "m", "d", "e", "cast", "gcast", "mean", "square", "root", "direction", "first", "second", "end.")
    only_here += ("exact", "exact_rest")
    names = {name for name in expected if name.rstrip("0123456789") not in only_here and not name.startswith("end.")}
    assert names == made.arrays.keys() - {"batch"}


def assert_states_equal(s: Statement, data: Data, expected: dict[str, Any], made: Run) -> None:
    """After the last step, and moments at every period's end."""
    trained = len(data.start)
    for i, matrix in enumerate(made.states[-1][:trained]):
        assert (expected[f"end.w{i}"] == matrix).all()
    if s.galore is None or not s.galore.is_adam:
        assert len(made.states[-1]) == trained
        return
    for k in range(s.galore.periods(s.steps)):
        moments = iter(made.states[min((k + 1) * s.galore.gap, s.steps) - 1][trained:])
        for j in range(s.layers):
            for name in ("first", "second"):
                last = min((k + 1) * s.galore.gap, s.steps) - 1 if s.galore.is_stored else k
                assert (next(moments) == expected[f"{name}{j}"][last].T).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_stays_in_range_and_equals_reference(name: str) -> None:
    """Those that the proofs of these methods are tested with."""
    s = VARIANTS[name]
    data = data_of(s)
    made = run(s, data)
    expected = method_run(s, replace(data, bases=made.bases), batches_of(s))
    assert_states_equal(s, data, expected, made)


def test_training_goes_on_from_the_moments_of_a_period_s_end() -> None:
    """As a run that was interrupted does; the averages of a new period begin with them."""
    s = replace(VARIANTS["galore, random"], rates=(40,) * 7)
    assert s.galore
    s = replace(s, galore=replace(s.galore, gap=3))
    data = data_of(s)
    whole, begun = run(s, data), len(data.start)
    state = whole.states[2]
    moments = [*state[begun::2], *state[begun + 1 :: 2]]
    rest = run(s, replace(data, start=state[:begun]), 3, moments)
    assert all((a[3:] == rest.arrays[name]).all() for name, a in whole.arrays.items())
    assert all((a == b).all() for a, b in zip(whole.states[-1], rest.states[-1], strict=True))
    fresh = run(s, replace(data, start=state[:begun]), 3)
    assert any((a[3:] != fresh.arrays[name]).any() for name, a in whole.arrays.items())


@pytest.mark.parametrize("side", methods.SIDES)
def test_a_basis_is_the_gradient_s_first_singular_vectors(side: str) -> None:
    """Whose span holds the largest part of the gradient that any so many columns hold."""
    s = VARIANTS["galore"]
    assert s.galore
    s = replace(s, galore=replace(s.galore, gap=4, sides=(side,) * 3))
    data = data_of(s)
    made, unscaled = run(s, data), 2.0**-s.galore.basis_bits
    seen: dict[int, Any] = {}

    def tamper(name: str, step: int, j: int, value: Any) -> Any:
        """Reads the gradients, and changes nothing."""
        if (name, step) == ("projected_acc", 0):
            seen[j] = value.astype(float)
        return value

    method_run(s, replace(data, bases=made.bases), batches_of(s), tamper)
    whole = {j: value.astype(float) for j, value in whole_gradients(s, data).items()}
    for j, rank in enumerate(s.galore.ranks):
        basis = made.bases[j, 0] * unscaled
        assert abs(basis.T @ basis - np.eye(rank)).max() < 4 * unscaled
        largest = np.linalg.svd(whole[j], compute_uv=False)[:rank]
        held = np.linalg.svd(seen[j] * unscaled, compute_uv=False)
        np.testing.assert_allclose(held, largest, rtol=4 * unscaled)


def whole_gradients(s: Statement, data: Data) -> dict[int, Any]:
    """D of the first step, which is what plain SGD subtracts."""
    seen: dict[int, Any] = {}

    def tamper(name: str, step: int, j: int, value: Any) -> Any:
        if (name, step) == ("dw", 0):
            seen[j] = value
        return value

    method_run(replace(s, galore=None), data, batches_of(s), tamper)
    return seen


@given(st.integers(0, 1023), st.integers(8, 14), st.integers(1, 60))
def test_kernels_are_the_powers_of_the_decay_to_a_unit(beta: int, bits: int, length: int) -> None:
    """In the trainer, in the proof system and here; the numbers are those of exact fractions to within one rounding."""
    powers, weights = kernel(beta, bits, length)
    for kind in (provable.Kernel, methods.Kernel):
        assert (list(kind.of(beta, bits, length).decay), list(kind.of(beta, bits, length).weights)) == (powers, weights)
    slack = Fraction(1, 2) + Fraction(length + 2, 1 << 20)
    exact = [Fraction(beta, 1024) ** i * (1 << bits) for i in range(length + 1)]
    assert all(abs(power - x) <= slack for power, x in zip(powers, exact, strict=True))
    assert all(abs(y - x * (1 - Fraction(beta, 1024))) <= slack for y, x in zip(weights, exact, strict=False))


def test_a_root_or_direction_beyond_16_bits_stops_the_trainer() -> None:
    """Where the proof could not follow: the direction of a first moment that is large beside the second one's root."""
    s = VARIANTS["galore, random"]
    assert s.galore
    s = replace(s, galore=replace(s.galore, gap=4, beta1=0, beta2=1023, moment_bits=14, epsilon=1))
    with pytest.raises(TrainingError, match="direction leaves 16 bits"):
        run(s, data_of(s))


def test_methods_of_trainer_and_statement_have_the_same_fields() -> None:
    for name in methods.SPECS:
        ours, theirs = methods.SPECS[name], {"galore": provable.GaLore, "lora": provable.LoRA, "fp8": provable.FP8}[name]
        assert [x.name for x in dataclasses.fields(ours)] == [x.name for x in dataclasses.fields(theirs)]


def test_a_layer_without_adapter_stays_as_it_is() -> None:
    """And an adapter of zeros changes no output: the first step's is the frozen network's."""
    s = VARIANTS["lora in the middle"]
    inputs, targets, start = example(s)
    data = data_of(s)
    adapters = [data.start[0], 0 * data.start[1]]
    made = run(s, Data(inputs, targets, adapters, frozen=start))
    plain = statement_of(steps=4, rate=40)
    alone = method_run(plain, Data(inputs, targets, start), batches_of(plain))
    for j in range(s.layers):
        assert (made.arrays[f"z{j}"][0] == alone[f"z{j}"][0]).all()
    assert len(made.states[-1]) == 2
