"""Layer norm (Ba, Kiros and Hinton 2016) and RMS norm (Zhang and Sennrich 2019) in integers, over the n units of each sample.

    n m = (sum of x) - r,   0 <= r < n                     so m = floor(mean of x); RMS norm has m = 0
    S   = floor(2^e sqrt(epsilon + sum of (x - m)^2))      arithmetic.py
    y   = floor(K (x - m) / S),   K = floor(2^(b+e) sqrt(n))          (x - m) / sqrt(variance + epsilon / n), b fractional bits
    z   = y gain / 2^g, rounded to nearest, + bias         `Gain`; a gain and a bias for each unit, public or committed

m, S and a committed gain are one number a sample or unit, and products join blocks of one shape: m and S stand beside each
unit, the gain beside each sample, each tied to the one number by a linear relation. The sums and x - m are never committed. The
floor of the mean adds less than 1 to the variance.

x is a signed 16-bit number with an offset, in a block that others commit to and look up; so are committed gains and biases.
All integers stay below 2^64, so nothing wraps. Forward only. A backward pass is, up to powers of two,

    dx = K (g - mean of g - y (mean of g y) / 2^(2b)) / S

whose means are sums that stand beside each unit as m does; y times the second one is a product of two blocks, rounded like
`Gain`'s, and the division is one more Quotient by the same S."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np

from zkaudit.zk import field
from zkaudit.zk.block import LIMB, SIGN_OFFSET, Block, limbs
from zkaudit.zk.channel import Channel
from zkaudit.zk.circuit.arithmetic import Integers, Quotient, Root, Shape, add_limbs, add_signed, split
from zkaudit.zk.claims import Claim, Form
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import Array
from zkaudit.zk.linear import Linear

WIDEST = 1 << LIMB  # units: the mean's remainder has 16 bits
FINEST, COARSEST = 6, -8  # e: sums of squares are multiplied by 2^(2e)
ONE = field.full(1, 1)


@dataclass(frozen=True)
class Norm:
    """y of the block `inputs`, in the block `name`, signed with an offset. BadInput for options out of range."""

    name: str
    inputs: str
    shape: Shape
    is_centred: bool  # layer norm; else RMS norm
    fraction: int  # b, of y; -e at least. y can be sqrt(n), and 2^b y has 16 bits with its sign
    precision: int  # e: S, 2^e sqrt(n) standard deviations, has 16 bits, and y is off by some 1 / S of itself
    epsilon: int  # added to the sum of squares, so in squared units of x, times n; 2^e sqrt(epsilon) is at least 1

    def __post_init__(self) -> None:
        for what, value, low, high in (
            ("units", self.shape.units, 1, WIDEST),
            ("precision", self.precision, COARSEST, FINEST),
            ("fraction", self.fraction, max(0, -self.precision), LIMB - 1),
            ("epsilon", self.epsilon, 1 << min(-2 * COARSEST, max(0, -2 * self.precision)), 1 << (2 * LIMB)),
        ):
            if not low <= value <= high:
                raise BadInput(f"the norm '{self.name}' has {what} {value}; it must be an integer from {low} to {high}")

    @property
    def factor(self) -> int:
        """K."""
        return isqrt(self.shape.units << (2 * (self.fraction + self.precision)))

    @property
    def quotient(self) -> Quotient:
        return Quotient(self.name, f"{self.name}.beside", 0, self.shape)

    @property
    def root(self) -> Root:
        """S of each sample, once."""
        one = Shape(1, self.shape.lows, 1, self.shape.samples)
        return Root(f"{self.name}.root", one, max(0, -2 * self.precision))

    def ranges(self) -> list[tuple[Block, int]]:
        """Blocks with the bits of their ranges."""
        highs, lows, name = self.shape.highs, self.shape.lows, self.name
        found = [*self.root.ranges(), *self.quotient.ranges()]
        if self.is_centred:
            found.append((Block(f"{name}.mean", highs, lows), LIMB))
            found += [(Block(f"{name}.mean.{part}", 1, lows), LIMB) for part in ("rest", "slack")]
        return found

    def tied(self) -> list[Block]:
        """Blocks that need no range, as a relation says what they are."""
        return [Block(f"{self.name}.beside", self.shape.highs, self.shape.lows)]

    def forward(self, x: Integers) -> Integers:
        """y of x, both (units, samples); BadInput if a number leaves its range."""
        return self.tables(x)[self.name] - SIGN_OFFSET

    def tables(self, x: Integers) -> dict[str, Integers]:
        """The blocks' contents, (units or 1, samples), for x, (units, samples); BadInput if a number leaves its range."""
        if x.size and not -SIGN_OFFSET <= int(x.min()) <= int(x.max()) < SIGN_OFFSET:
            raise BadInput(f"the inputs of the norm '{self.name}' leave 16 bits")
        units, made = self.shape.units, dict[str, Integers]()
        centred = x.astype(np.int64)
        if self.is_centred:
            mean, rest = np.divmod(centred.sum(axis=0, keepdims=True), units)
            made = {f"{self.name}.mean": np.repeat(mean + SIGN_OFFSET, units, axis=0)}
            made |= {f"{self.name}.mean.rest": rest, f"{self.name}.mean.slack": units - 1 - rest}
            centred = centred - mean
        squares = ((centred**2).sum(axis=0, keepdims=True) + self.epsilon) << max(0, 2 * self.precision)
        made |= self.root.tables(squares)
        beside = np.repeat(made[self.root.name], units, axis=0)
        return {**made, f"{self.name}.beside": beside, **self.quotient.tables(self.factor * centred, beside)}

    def claims(self, named: dict[str, Block], channel: Channel) -> list[Claim]:
        """The mean and its remainder, unless RMS norm; the root's two; the root beside each unit; the quotient's two."""
        terms = _Terms(self, named)
        found = terms.mean(channel) if self.is_centred else []
        found += self.root.claims(named, channel, terms.add_square)
        found.append(terms.beside(channel))
        return found + self.quotient.claims(named, channel, terms.add_numerator)


@dataclass(frozen=True)
class _Terms:
    """A norm's sums in terms of blocks."""

    norm: Norm
    named: dict[str, Block]

    @cached_property
    def every(self) -> Array:
        """One for each real unit."""
        return field.full(self.norm.shape.units, 1)

    def mean(self, channel: Channel) -> list[Claim]:
        """n m + r is the sum of x, beside each unit; n - 1 - r is the slack."""
        shape, name = self.norm.shape, f"{self.norm.name}.mean"
        units, samples = shape.weights(channel, "mean")
        exact = Claim(Linear())
        add_signed(exact, self.named[name], shape.units, units, samples)
        exact.add_block(self.named[f"{name}.rest"], field.total(units), ONE, samples)
        add_signed(exact, self.named[self.norm.inputs], -field.total(units), self.every, samples)
        samples = channel.random_weights("mean slack", shape.samples)
        below = Claim(Linear(), (shape.units - 1) * field.total(samples))
        for part in ("rest", "slack"):
            below.add_block(self.named[f"{name}.{part}"], -1, ONE, samples)
        return [exact, below]

    def beside(self, channel: Channel) -> Claim:
        """S stands beside each unit."""
        units, samples = self.norm.shape.weights(channel, "root beside")
        same = Claim(Linear())
        same.add_block(self.named[f"{self.norm.name}.beside"], -1, units, samples)
        same.add_block(self.named[self.norm.root.name], field.total(units), ONE, samples)
        return same

    def add_square(self, claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <2^(2e) (epsilon + sum of (x - m)^2), units x samples>, `units` being over one unit."""
        norm, scale = self.norm, (coefficient << max(0, 2 * self.norm.precision)) * field.total(units)
        mean = ((-1, f"{norm.name}.mean"),) if norm.is_centred else ()
        centred = Form(0 if norm.is_centred else -SIGN_OFFSET, ((1, norm.inputs), *mean))
        claim.add_product(self.named[norm.inputs], centred, centred, scale, self.every, samples)
        claim.add_constant(scale * norm.epsilon * field.total(samples))

    def add_numerator(self, claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <K (x - m), units x samples>."""
        add_signed(claim, self.named[self.norm.inputs], coefficient * self.norm.factor, units, samples)
        if self.norm.is_centred:
            add_signed(claim, self.named[f"{self.norm.name}.mean"], -coefficient * self.norm.factor, units, samples)


@dataclass(frozen=True)
class Gain:
    """z = round(y gain / 2^bits) + bias, halves upwards, in the block `name`, signed with an offset; y is the block `of`.

    gains, biases: signed 16-bit numbers, one a unit, or the name of the block (1 x units) that holds them with an offset.
    """

    name: str
    of: str
    shape: Shape
    bits: int  # at least 1
    gains: tuple[int, ...] | str
    biases: tuple[int, ...] | str

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 2 * LIMB:
            raise BadInput(f"the gain '{self.name}' divides by 2^{self.bits}; 2^1 to 2^{2 * LIMB} are allowed")
        for what, values in (("gains", self.gains), ("biases", self.biases)):
            if not isinstance(values, str) and len(values) != self.shape.units:
                raise BadInput(f"the gain '{self.name}' has {len(values)} {what} for {self.shape.units} units")

    @property
    def is_committed(self) -> bool:
        """Whether gains are a committed block."""
        return isinstance(self.gains, str)

    def ranges(self) -> list[tuple[Block, int]]:
        """Blocks with the bits of their ranges."""
        highs, lows = self.shape.highs, self.shape.lows
        return [(Block(self.name, highs, lows), LIMB), *limbs(f"{self.name}.rest", highs, lows, self.bits)]

    def tied(self) -> list[Block]:
        """Blocks that need no range, as a relation says what they are."""
        return [Block(f"{self.name}.gain", self.shape.highs, self.shape.lows)] if self.is_committed else []

    def forward(self, y: Integers, gains: Integers | None = None, biases: Integers | None = None) -> Integers:
        """z of y, both (units, samples), given committed gains and biases, (units,); BadInput if a number leaves 16 bits."""
        return self.tables(y, gains, biases)[self.name] - SIGN_OFFSET

    def tables(self, y: Integers, gains: Integers | None = None, biases: Integers | None = None) -> dict[str, Integers]:
        """The blocks' contents, (units, samples); arguments and errors as for `forward`."""
        gain, bias = (
            _column(f"{what} of '{self.name}'", public, given)
            for what, public, given in (("gains", self.gains, gains), ("biases", self.biases, biases))
        )
        raised = y.astype(np.int64) * gain + (1 << (self.bits - 1))
        scaled = (raised >> self.bits) + bias
        if scaled.size and not -SIGN_OFFSET <= int(scaled.min()) <= int(scaled.max()) < SIGN_OFFSET:
            raise BadInput(f"what the gain '{self.name}' makes leaves 16 bits")
        rest = raised - (raised >> self.bits << self.bits)
        made = {self.name: scaled + SIGN_OFFSET, **split(f"{self.name}.rest", rest, self.bits)}
        if self.is_committed:
            made[f"{self.name}.gain"] = np.repeat(gain + SIGN_OFFSET, self.shape.samples, axis=1)
        return made

    def claims(self, named: dict[str, Block], channel: Channel) -> list[Claim]:
        """The rescaled product, and, of committed gains, that they stand beside each sample."""
        units, samples = self.shape.weights(channel, "gain")
        scaled = Claim(Linear())
        add_signed(scaled, named[self.name], 1 << self.bits, units, samples)
        add_limbs(scaled, named, f"{self.name}.rest", 1, self.bits, units, samples)
        scaled.add_constant(-(1 << (self.bits - 1)) * field.total(units) * field.total(samples))
        _add_numbers(scaled, named, self.biases, -(field.total(samples) << self.bits), units)
        if not isinstance(self.gains, str):
            add_signed(scaled, named[self.of], -1, field.mul(units, field.from_ints(self.gains)), samples)
            return [scaled]
        y, gain = (Form(-SIGN_OFFSET, ((1, name),)) for name in (self.of, f"{self.name}.gain"))
        scaled.add_product(named[self.of], y, gain, -1, units, samples)
        units, samples = self.shape.weights(channel, "gain beside")
        same = Claim(Linear())
        add_signed(same, named[f"{self.name}.gain"], -1, units, samples)
        _add_numbers(same, named, self.gains, field.total(samples), units)
        return [scaled, same]


def _column(what: str, public: tuple[int, ...] | str, given: Integers | None) -> Integers:
    """Numbers of 16 bits, one a unit, as a column."""
    if isinstance(public, str) and given is None:
        raise BadInput(f"the {what} are committed to and were not given")
    values = np.asarray(given if isinstance(public, str) else public, np.int64)
    if values.size and not -SIGN_OFFSET <= int(values.min()) <= int(values.max()) < SIGN_OFFSET:
        raise BadInput(f"the {what} leave 16 bits")
    return values[:, None]


def _add_numbers(claim: Claim, named: dict[str, Block], numbers: tuple[int, ...] | str, coefficient: int, units: Array) -> None:
    """coefficient * <numbers, units>, public ones or a block's."""
    if isinstance(numbers, str):
        add_signed(claim, named[numbers], coefficient, ONE, units)
    else:
        claim.add_constant(coefficient * field.dot(units, field.from_ints(numbers)))
