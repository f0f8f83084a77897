"""[galore], [lora] and [fp8] of a configuration: what a user says, and the integers that the exact trainer works with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from zkaudit.training.checks import integer, is_kind, refuse
from zkaudit.training.errors import TrainingError
from zkaudit.training.provable import DECAY_BITS, FP8, GROUP, GaLore, LoRA
from zkaudit.zk.circuit.expanded import EXPONENTS as EXPANDED

Exponents = int | tuple[int | tuple[int, ...], ...]

SIDES = ("left", "right", "small")
ENERGY = 256  # a basis's share of energy is rounded up to a multiple of 1 / 256


@dataclass(frozen=True)
class GaLoreConfig:
    """[galore]: updates in a subspace of each layer's weights (with their bias row), drawn anew every `gap` steps."""

    rank: int  # layers with fewer inputs or outputs have a smaller one
    gap: int = 50
    optimizer: str = "adam"  # or "sgd"
    basis: str = "svd"  # or "random", signs that the batch seed fixes
    side: str = "left"  # the basis lies over inputs; "right": over outputs; "small": over the larger of the two
    scale: float = 0.25  # of the learning rate
    beta1: float = 0.875
    beta2: float = 0.984375
    basis_bits: int = 10
    projection_bits: int = 14  # fractional bits of the projected gradient, up to a factor of two
    moment_bits: int = 10
    epsilon: int = 4  # added to the root of the second moment, in units of the projected gradient
    energy: float = 0.0  # the share of its first gradient's energy that a basis must capture, proved; with "svd" only
    states: str = "exact"  # Adam's moments; "fp8": stored in 8 bits after every step, over ranges of 2^exponent:
    first_exponents: Exponents = 15  # one for all layers, or a list with one for each layer or for each 16 of its kept units
    second_exponents: Exponents = 16  # of the second moment's root; both in units of the projected gradient

    def __post_init__(self) -> None:
        integer("[galore] rank", self.rank, 1, 1 << 16)
        integer("[galore] gap", self.gap, 1, 1 << 12)
        for name, known in (
            *(("optimizer", ("adam", "sgd")), ("basis", ("svd", "random"))),
            *(("side", SIDES), ("states", ("exact", "fp8"))),
        ):
            if getattr(self, name) not in known:
                refuse(f"[galore] {name}", getattr(self, name), f"one of {', '.join(known)}")
        if not is_kind(self.scale, float) or not math.isfinite(self.scale) or self.scale <= 0:
            refuse("[galore] scale", self.scale, "a positive number")
        for name in ("beta1", "beta2"):
            if not is_kind(getattr(self, name), float) or not 0 <= getattr(self, name) <= 1 - 2.0**-DECAY_BITS:
                refuse(f"[galore] {name}", getattr(self, name), f"a number from 0 to {1 - 2.0**-DECAY_BITS}")
        integer("[galore] basis_bits", self.basis_bits, 6, 13)
        integer("[galore] projection_bits", self.projection_bits, 4, 24)
        integer("[galore] moment_bits", self.moment_bits, 8, 14)
        integer("[galore] epsilon", self.epsilon, 1, 1 << 14)
        if not is_kind(self.energy, float) or not 0 <= self.energy <= 255 / ENERGY:
            refuse("[galore] energy", self.energy, f"a number from 0 to {255 / ENERGY}")
        if self.energy and self.basis != "svd":
            refuse("[galore] energy", self.energy, '0 with a basis that is not made from a gradient: choose basis = "svd"')
        self._check_states()
        if self.optimizer == "adam" and round((1 - self.beta2) * 2**self.moment_bits) < 4:
            refuse("[galore] beta2", self.beta2, f"at most {1 - 4 / 2**self.moment_bits} with moment_bits = {self.moment_bits}")

    def _check_states(self) -> None:
        if self.states == "fp8" and self.optimizer == "sgd":
            refuse("[galore] states", self.states, '"exact" with optimizer = "sgd", which has no moments')
        for name, most in EXPANDED.items():
            given = getattr(self, f"{name}_exponents")
            if self.states == "exact" and given != most:
                refuse(f"[galore] {name}_exponents", given, f'{most} but with states = "fp8"')
            _each(f"[galore] {name}_exponents", given, 1, most)

    def with_states(self, method: GaLore, widths: Sequence[int]) -> GaLore:
        """With the exponents of stored moments; TrainingError if there are not as many as the network needs."""
        if self.states == "exact":
            return method
        kept = [widths[j + 1] if side == "left" else widths[j] + 1 for j, side in enumerate(method.sides)]

        def of(kind: str, given: Exponents) -> tuple[int | tuple[int, ...], ...]:
            return _per_layer(f"[galore] {kind}_exponents", "layers", given, kept, 1, EXPANDED[kind])

        first, second = of("first", self.first_exponents), of("second", self.second_exponents)
        return replace(method, first_exponents=first, second_exponents=second)

    def method(self, widths: Sequence[int], batch: int, product_bits: int) -> GaLore:
        """In integers, moments exact; product_bits: fractional bits of activations and of gradients together."""
        pairs = list(itertools.pairwise(widths))
        sides = ["right" if self.side == "right" or (self.side == "small" and units > d) else "left" for d, units in pairs]
        shift = product_bits + self.basis_bits + (batch - 1).bit_length() - self.projection_bits
        if not 1 <= shift <= 47:
            refuse(
                "[galore] projection_bits",
                self.projection_bits,
                f"such that products are divided by 2^1 to 2^47, not 2^{shift}",
            )
        ranks = tuple(min(self.rank, d, units) for d, units in pairs)
        beta1, beta2 = (round(beta * 2**DECAY_BITS) for beta in (self.beta1, self.beta2))
        return GaLore(
            self.optimizer, self.basis, self.gap, ranks, tuple(sides), self.basis_bits, shift, self.moment_bits, beta1, beta2,
            self.epsilon, math.ceil(self.energy * ENERGY),
        )  # fmt: skip

    def unit(self, method: GaLore, batch: int, product_bits: int, weight_bits: int) -> float:
        """The learning rate, scale and bias correction included, that an integer rate of 1 is."""
        if method.optimizer == "adam":
            return 2.0 ** (method.basis_bits + method.moment_bits - weight_bits)
        return batch * 2.0 ** (2 * method.basis_bits + product_bits - method.shift - weight_bits)

    def effective(self, rates: Sequence[float]) -> list[float]:
        """The learning rates times the scale and Adam's bias correction."""
        if self.optimizer == "sgd":
            return [self.scale * rate for rate in rates]
        first, second = (round(beta * 2**DECAY_BITS) / 2**DECAY_BITS for beta in (self.beta1, self.beta2))
        return [self.scale * rate * math.sqrt(1 - second**t) / (1 - first**t) for t, rate in enumerate(rates, 1)]


@dataclass(frozen=True)
class LoRAConfig:
    """[lora]: the layers' weights are frozen; adapters of this rank, scaled by alpha / rank, are trained."""

    rank: int
    alpha: float | None = None  # by default the rank, a scale of 1
    layers: tuple[int, ...] | None = None  # numbered from 1; by default all

    def __post_init__(self) -> None:
        integer("[lora] rank", self.rank, 1, 1 << 12)
        if self.alpha is not None and (not is_kind(self.alpha, float) or not math.isfinite(self.alpha) or self.alpha <= 0):
            refuse("[lora] alpha", self.alpha, "a positive number")
        if self.layers is not None:
            if not self.layers or not is_kind(self.layers, tuple) or len(set(self.layers)) != len(self.layers):
                refuse("[lora] layers", self.layers, "a list of different layers, numbered from 1")
            for layer in self.layers:
                integer("[lora] layers", layer, 1, 64)

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def method(self, widths: Sequence[int]) -> LoRA:
        """In integers; TrainingError for layers that are not there or are narrower than the rank."""
        count = len(widths) - 1
        chosen = set(range(1, count + 1)) if self.layers is None else set(self.layers)
        if beyond := [layer for layer in chosen if layer > count]:
            raise TrainingError(f"[lora] layers names layer {beyond[0]}, but the network has {count}")
        ranks = tuple(min(self.rank, widths[j], widths[j + 1]) if j + 1 in chosen else 0 for j in range(count))
        square = Fraction(self.scale).limit_denominator(256) ** 2
        if square.numerator > 1 << 16 or abs(float(square) - self.scale**2) > 1e-9 * self.scale**2:
            refuse("[lora] alpha", self.alpha, "such that alpha / rank is a fraction with at most 256 above and below")
        return LoRA(ranks, square.numerator, square.denominator)


@dataclass(frozen=True)
class FP8Config:
    """[fp8]: hidden activations and gradients in 8 bits; scales are 2^exponent, one for all layers, or a list with one for each
    layer or, as a list again, one for each 16 of a layer's units."""

    activation_exponents: Exponents = -1
    gradient_exponents: Exponents = -6
    gradient_format: str = "e4m3"

    def __post_init__(self) -> None:
        if self.gradient_format not in ("e4m3", "e5m2"):
            refuse("[fp8] gradient_format", self.gradient_format, "one of e4m3, e5m2")
        for name in ("activation_exponents", "gradient_exponents"):
            _each(f"[fp8] {name}", getattr(self, name), -32, 32)

    def method(self, hidden: Sequence[int], activation_bits: int, gradient_bits: int) -> FP8:
        """For hidden layers of these widths; TrainingError for a scale with which 16 bits do not do."""
        highest = (6 if self.gradient_format == "e4m3" else -1) - gradient_bits
        return FP8(
            _scales("activation_exponents", self.activation_exponents, hidden, 7 - activation_bits),
            _scales("gradient_exponents", self.gradient_exponents, hidden, highest),
            self.gradient_format,
        )


def _scales(name: str, given: Exponents, hidden: Sequence[int], highest: int) -> tuple[int | tuple[int, ...], ...]:
    return _per_layer(f"[fp8] {name}", "hidden layers", given, hidden, highest - 12, highest)


def _per_layer(
    name: str, layers: str, given: Exponents, widths: Sequence[int], low: int, high: int
) -> tuple[int | tuple[int, ...], ...]:
    """One entry for each layer of these widths; TrainingError unless it is one, or one for each GROUP of units, in range."""
    exponents = given if isinstance(given, tuple) else (given,) * len(widths)
    if len(exponents) != len(widths):
        raise TrainingError(f"{name} has {len(exponents)} entries for {len(widths)} {layers}")
    for layer, width in zip(exponents, widths, strict=True):
        groups = -(-width // GROUP)
        if isinstance(layer, tuple) and len(layer) != groups:
            raise TrainingError(f"{name} has {len(layer)} entries for a layer of {width} units; one or {groups} are needed")
    _each(name, exponents, low, high)
    return exponents


def _each(name: str, given: Exponents, low: int, high: int) -> None:
    """TrainingError for an exponent out of range."""
    for layer in given if isinstance(given, tuple) else (given,):
        for exponent in layer if isinstance(layer, tuple) else (layer,):
            integer(name, exponent, low, high)
