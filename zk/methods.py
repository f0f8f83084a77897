"""What a statement may say of the training method beside plain SGD in fixed point: GaLore, LoRA, FP8. Public, and checked here.

Each is an object of the statement's header, absent for a run that does not use it. Their relations are in circuit/."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from zkaudit.zk.circuit import expanded
from zkaudit.zk.errors import BadInput
from zkaudit.zk.statement_fields import require_integer, require_one_of, require_per_layer

FRACTION = 10  # bits of the moments' decay rates
PRECISION = 20  # more bits with which their powers are computed
OPTIMIZERS = ("sgd", "adam")
BASES = ("svd", "random")
SIDES = ("left", "right")
GRADIENT_FORMATS = ("e4m3", "e5m2")
GROUP = 16  # units that share an exponent of FP8, where a layer has several

Exponents = tuple[int | tuple[int, ...], ...]  # one a layer, or one for each GROUP of its units


@dataclass(frozen=True)
class GaLore:
    """Updates of rank `ranks[j]`: W -= c_t P U ("left": P over the inputs and the bias) or W -= c_t U Q^T ("right")."""

    optimizer: str
    basis: str  # "svd": committed, orthonormality proved; "random": signs drawn from the batch seed
    gap: int  # steps between two bases
    ranks: tuple[int, ...]  # one a layer
    sides: tuple[str, ...]
    basis_bits: int  # fractional bits of the basis
    shift: int  # the projected gradient is divided by 2^shift
    moment_bits: int  # fractional bits of the moments' kernels, and of the direction
    beta1: int  # decay rates times 2^10
    beta2: int
    epsilon: int  # in units of the projected gradient
    energy: int = 0  # a basis captures so many 256ths of its first gradient's energy; with "svd" only
    first_exponents: Exponents = ()  # of the ranges in which Adam's moments are stored in 8 bits; without them they are exact
    second_exponents: Exponents = ()  # of the second moment's root

    @property
    def is_adam(self) -> bool:
        return self.optimizer == "adam"

    @property
    def is_stored(self) -> bool:
        """Whether moments are stored in 8 bits after every step."""
        return bool(self.first_exponents)

    def of_group(self, name: str, j: int) -> tuple[int, ...]:
        """The exponents `name` of layer j: one, or one for each group of its kept units."""
        return _grouped(getattr(self, name)[j])

    @property
    def product_bound(self) -> int:
        """Products of two columns of a committed basis differ from those of orthonormal ones by no more, in units of 2^-2p."""
        return 4 << self.basis_bits

    @property
    def is_committed(self) -> bool:
        """Whether bases are committed tables."""
        return self.basis == "svd"

    def periods(self, steps: int) -> int:
        """Bases that a segment of so many steps uses."""
        return -(-steps // self.gap)

    def unit(self, weight_bits: int, product_bits: int, batch: int) -> float:
        """The learning rate that an integer rate of 1 is, with weights and gradients of these fractional bits."""
        if self.is_adam:
            return 2.0 ** (self.basis_bits + self.moment_bits - weight_bits)
        return batch * 2.0 ** (2 * self.basis_bits + product_bits - self.shift - weight_bits)

    @cached_property
    def first_kernel(self) -> Kernel:
        """Of the first moment."""
        return Kernel.of(self.beta1, self.moment_bits, self.gap)

    @cached_property
    def second_kernel(self) -> Kernel:
        """Of the second moment."""
        return Kernel.of(self.beta2, self.moment_bits, self.gap)

    def check(self, widths: Sequence[int], first_step: int) -> None:
        """BadInput for values out of range."""
        require_one_of("galore.optimizer", self.optimizer, OPTIMIZERS)
        require_one_of("galore.basis", self.basis, BASES)
        require_integer("galore.gap", self.gap, 1, 1 << 12)
        require_integer("galore.basis_bits", self.basis_bits, 6, 13)
        require_integer("galore.shift", self.shift, 1, 47)
        require_integer("galore.moment_bits", self.moment_bits, 8, 14)
        for name in ("beta1", "beta2"):
            require_integer(f"galore.{name}", getattr(self, name), 0, (1 << FRACTION) - 1)
        require_integer("galore.epsilon", self.epsilon, 1, 1 << 14)
        require_integer("galore.energy", self.energy, 0, 255 if self.is_committed else 0)
        require_per_layer("galore.ranks", self.ranks, len(widths) - 1)
        require_per_layer("galore.sides", self.sides, len(widths) - 1)
        for j, (rank, side) in enumerate(zip(self.ranks, self.sides, strict=True)):
            require_one_of("galore.sides", side, SIDES)
            require_integer("galore.ranks", rank, 1, widths[j] + 1 if side == "left" else widths[j + 1])
        self._check_states(widths)
        if first_step % self.gap:
            raise BadInput(f"a segment begins at step {first_step}, which is no multiple of galore.gap {self.gap}")

    def _check_states(self, widths: Sequence[int]) -> None:
        if self.first_exponents == self.second_exponents == ():
            return
        if not self.is_adam:
            raise BadInput("statement fields 'galore.first_exponents' and 'galore.second_exponents' are of Adam's moments")
        kept = [widths[j + 1] if side == "left" else widths[j] + 1 for j, side in enumerate(self.sides)]
        for kind, most in expanded.EXPONENTS.items():
            _check_exponents(f"galore.{kind}_exponents", getattr(self, f"{kind}_exponents"), kept, 1, most)


@dataclass(frozen=True)
class Kernel:
    """An exponential average in integers: after step i of a period, decay[i + 1] * before + sum of weights[k] * x[i - k]."""

    decay: tuple[int, ...]
    weights: tuple[int, ...]

    @staticmethod
    def of(beta: int, bits: int, length: int) -> Kernel:
        """Powers of beta / 2^10, and what 1 - beta / 2^10 times these are, rounded to `bits` fractional bits."""
        powers, half = [1 << (bits + PRECISION)], 1 << (PRECISION - 1)
        while len(powers) <= length:
            powers.append(powers[-1] * beta >> FRACTION)
        fresh = [power * ((1 << FRACTION) - beta) >> FRACTION for power in powers[:length]]
        return Kernel(*(tuple((x + half) >> PRECISION for x in values) for values in (powers, fresh)))

    @property
    def largest(self) -> int:
        """No average of numbers up to x in size exceeds largest * x."""
        return max(self.decay) + sum(self.weights)


@dataclass(frozen=True)
class LoRA:
    """Z_j = A_j W_j + H_j B_j with H_j = A_j without its column of ones times A'_j; W_j is frozen. Rank 0: no adapter there."""

    ranks: tuple[int, ...]
    factor: int  # B_j's rate is a statement's rate, that of A'_j, times factor / divisor: the scale's square
    divisor: int

    @property
    def adapters(self) -> list[tuple[int, int]]:
        """Layer and rank of each."""
        return [(j, rank) for j, rank in enumerate(self.ranks) if rank]

    def second_rates(self, rates: Sequence[int]) -> tuple[int, ...]:
        """Of the B_j, given those of the A'_j."""
        return tuple(rate * self.factor // self.divisor for rate in rates)

    def check(self, widths: Sequence[int], rates: Sequence[int]) -> None:
        """BadInput for values out of range."""
        require_per_layer("lora.ranks", self.ranks, len(widths) - 1)
        for rank, d, units in zip(self.ranks, widths, widths[1:], strict=False):
            require_integer("lora.ranks", rank, 0, min(d, units))
        if not any(self.ranks):
            raise BadInput("statement field 'lora.ranks' names no layer with an adapter")
        require_integer("lora.factor", self.factor, 1, 1 << 16)
        require_integer("lora.divisor", self.divisor, 1, 1 << 16)
        if any(rate * self.factor % self.divisor for rate in rates):
            raise BadInput(f"a rate times lora.factor {self.factor} is no multiple of lora.divisor {self.divisor}")


@dataclass(frozen=True)
class FP8:
    """Activations in E4M3 and gradients in E4M3 or E5M2, after ReLU and after its backward, with scales 2^exponent."""

    activation_exponents: Exponents  # of hidden layers
    gradient_exponents: Exponents
    gradient_format: str

    def of_group(self, name: str, j: int) -> tuple[int, ...]:
        """The exponents `name` of hidden layer j: one, or one for each group of its units."""
        return _grouped(getattr(self, name)[j])

    def check(self, widths: Sequence[int]) -> None:
        """BadInput for values out of range."""
        require_one_of("fp8.gradient_format", self.gradient_format, GRADIENT_FORMATS)
        for name in ("activation_exponents", "gradient_exponents"):
            _check_exponents(f"fp8.{name}", getattr(self, name), widths[1:-1], -32, 32)


def _grouped(given: int | tuple[int, ...]) -> tuple[int, ...]:
    return given if isinstance(given, tuple) else (given,)


def _check_exponents(name: str, values: Exponents, widths: Sequence[int], low: int, high: int) -> None:
    """BadInput unless each layer of these widths has one exponent in [low, high], or one for each group of its units."""
    require_per_layer(name, values, len(widths))
    for given, width in zip(values, widths, strict=True):
        groups = -(-width // GROUP)
        if isinstance(given, tuple) and len(given) != groups:
            raise BadInput(f"statement field '{name}' must have one entry or {groups} for {width} units")
        for exponent in _grouped(given):
            require_integer(name, exponent, low, high)


Spec = TypeVar("Spec", GaLore, LoRA, FP8)
SPECS: dict[str, type[Any]] = {"galore": GaLore, "lora": LoRA, "fp8": FP8}


def read(kind: type[Spec], value: object) -> Spec | None:
    """The object of a header as a specification, lists as tuples; None stays None. ValueError for other fields than its own."""
    if value is None:
        return None
    names = [x.name for x in dataclasses.fields(kind)]
    needed = {x.name for x in dataclasses.fields(kind) if x.default is dataclasses.MISSING}
    if not isinstance(value, dict) or not needed <= set(value) <= set(names):
        raise ValueError(f"a {kind.__name__} object has the fields {', '.join(names)}")
    return kind(**{name: _frozen(x) for name, x in value.items()})


def _frozen(value: Any) -> Any:
    """Lists as tuples, and lists in them."""
    return tuple(tuple(x) if isinstance(x, list) else x for x in value) if isinstance(value, list) else value


def written(spec: GaLore | LoRA | FP8) -> dict[str, Any]:
    """The object that `read` reads; a field that has its default is left out."""
    return {x.name: value for x in dataclasses.fields(spec) if (value := getattr(spec, x.name)) != x.default}
