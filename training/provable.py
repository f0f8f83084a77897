"""What the exact trainer does beside plain SGD, in integers: GaLore, LoRA and FP8, as they stand in a trace's manifest.

docs/trace-format.md says what each field means and docs/proof-system.md what is proved of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

DECAY_BITS = 10  # fractional bits of the moments' decay rates
GROUP = 16  # units that share an exponent of FP8, where a layer has several
PRECISION = 20  # more bits with which their powers are computed

Exponents = tuple[int | tuple[int, ...], ...]  # one a layer, or one for each GROUP of its units


@dataclass(frozen=True)
class GaLore:
    """Updates of rank ranks[j]; sides[j] is "left" for a basis over the inputs and the bias, "right" for one over outputs."""

    optimizer: str  # "sgd" or "adam"
    basis: str  # "svd" or "random"
    gap: int
    ranks: tuple[int, ...]
    sides: tuple[str, ...]
    basis_bits: int
    shift: int
    moment_bits: int
    beta1: int
    beta2: int
    epsilon: int
    energy: int = 0  # a basis captures so many 256ths of its first gradient's energy
    first_exponents: Exponents = ()  # of the ranges in which Adam's moments are stored in 8 bits; without them they are exact
    second_exponents: Exponents = ()  # of the second moment's root

    @cached_property
    def kernels(self) -> tuple[Kernel, Kernel]:
        """Of the first and of the second moment."""
        return Kernel.of(self.beta1, self.moment_bits, self.gap), Kernel.of(self.beta2, self.moment_bits, self.gap)


@dataclass(frozen=True)
class Kernel:
    """An exponential average in integers: after step i of a period, decay[i + 1] * before + sum of weights[k] * x[i - k]."""

    decay: tuple[int, ...]
    weights: tuple[int, ...]

    @staticmethod
    def of(beta: int, bits: int, length: int) -> Kernel:
        """Powers of beta / 2^10, and what 1 - beta / 2^10 times these are, rounded to `bits` fractional bits."""
        powers = [1 << (bits + PRECISION)]
        for _ in range(length):
            powers.append(powers[-1] * beta >> DECAY_BITS)
        fresh = [power * ((1 << DECAY_BITS) - beta) >> DECAY_BITS for power in powers[:length]]
        half = 1 << (PRECISION - 1)
        return Kernel(*(tuple((x + half) >> PRECISION for x in values) for values in (powers, fresh)))


@dataclass(frozen=True)
class LoRA:
    """ranks[j] is that of layer j's adapter, 0 for none; the second matrix's rate is the first one's times factor / divisor."""

    ranks: tuple[int, ...]
    factor: int
    divisor: int

    @property
    def adapters(self) -> list[tuple[int, int]]:
        """Layer and rank of each."""
        return [(j, rank) for j, rank in enumerate(self.ranks) if rank]


@dataclass(frozen=True)
class FP8:
    """E4M3 activations and gradients of `gradient_format` in hidden layers, with scales 2^exponent."""

    activation_exponents: Exponents
    gradient_exponents: Exponents
    gradient_format: str


def as_manifest(method: GaLore | LoRA | FP8) -> dict[str, Any]:
    """The manifest's object; a field that has its default is left out."""
    fields = ((x, getattr(method, x.name)) for x in dataclasses.fields(method))
    values = ((x.name, value) for x, value in fields if value != x.default)
    return {name: _listed(value) for name, value in values}


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON reads them."""
    return [_listed(x) for x in value] if isinstance(value, tuple) else value
