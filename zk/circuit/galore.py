"""GaLore (Zhao et al. 2024): updates in a subspace, with SGD or Adam there. Blocks, relations and virtual tensors.

With D = [A, 2^f]^T G of a layer and step, P its basis in period k (of `gap` steps), side "left"; "right" is its transpose:

    P^T D     = 2^shift R + rest - 2^(shift-1)                    projection.py; R in 16 bits, signed
    M, V      = averages of R and of R^2, with b fractional bits  moments.py; stored_moments.py where they are stored in 8 bits
    S         = floor(sqrt(V / 2^b)),   U = floor(M / (S + epsilon))                     arithmetic.py
    W[t + 1]  = W[t] - c_t P U                                    history.py

M and V are never committed. SGD has U = R. A basis is committed and nearly orthonormal (projection.py), or made of signs that
the batch seed fixes. Left: kept units are the outputs and P lies over the inputs with the bias; right: the other way round."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk import field
from zkaudit.zk.block import LIMB, Block, limbs, padded
from zkaudit.zk.channel import Channel
from zkaudit.zk.circuit.arithmetic import Quotient, Root, Shape, add_signed
from zkaudit.zk.circuit.moments import ExactMoments
from zkaudit.zk.circuit.stored_moments import StoredMoments
from zkaudit.zk.claims import Claim
from zkaudit.zk.field import Array
from zkaudit.zk.methods import GaLore
from zkaudit.zk.statement import SIGNED, Statement


@dataclass(frozen=True)
class Projected:
    """One layer's part of GaLore, and the names of its blocks."""

    statement: Statement
    spec: GaLore
    layer: int

    @property
    def rank(self) -> int:
        return self.spec.ranks[self.layer]

    @property
    def is_left(self) -> bool:
        return self.spec.sides[self.layer] == "left"

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.statement.widths[self.layer] + 1, self.statement.widths[self.layer + 1]

    @property
    def kept(self) -> int:
        """Units that the projected gradient keeps."""
        return self._sizes[1] if self.is_left else self._sizes[0]

    @property
    def over(self) -> int:
        """Units that the basis lies over."""
        return self._sizes[0] if self.is_left else self._sizes[1]

    @property
    def periods(self) -> int:
        return self.spec.periods(self.statement.steps)

    @property
    def samples(self) -> int:
        """Of the projected gradient: number step * rank + place."""
        return self.statement.steps * self.rank

    @property
    def shape(self) -> Shape:
        return Shape(padded(self.kept), padded(self.samples), self.kept, self.samples)

    @property
    def root(self) -> Root:
        return Root(f"root{self.layer}", self.shape, self.spec.moment_bits)

    @property
    def quotient(self) -> Quotient:
        return Quotient(f"direction{self.layer}", f"root{self.layer}", self.spec.epsilon, self.shape)

    @cached_property
    def moments(self) -> ExactMoments | StoredMoments | None:
        """Adam's; None with SGD."""
        if not self.spec.is_adam:
            return None
        return StoredMoments(self) if self.spec.is_stored else ExactMoments(self)

    @property
    def basis_blocks(self) -> list[tuple[Block, int]]:
        lows, j = padded(self.periods * self.rank), self.layer
        return [
            (Block(f"basis{j}", padded(self.over), lows), LIMB),
            (Block(f"basis{j}.products", padded(self.rank), lows), self.spec.basis_bits + 3),
        ]

    @property
    def energy_factors(self) -> tuple[int, int]:
        """Of the sums of R^2 and D^2 in energy.py's equation."""
        many, few = 2 * self.spec.shift + 8, 2 * self.spec.basis_bits
        common = min(many, few)
        return 1 << (many - common), self.spec.energy << (few - common)

    @property
    def energy_bits(self) -> int:
        """Of energy.py's slack."""
        return (self.energy_factors[0] * self.kept * self.rank * SIGNED * SIGNED).bit_length()

    def ranges(self) -> list[tuple[Block, int]]:
        """Blocks with the bits of their ranges."""
        j, highs, lows = self.layer, padded(self.kept), padded(self.samples)
        found = [(Block(f"projected{j}", highs, lows), LIMB), *limbs(f"projected{j}.rest", highs, lows, self.spec.shift)]
        if self.spec.is_committed:
            found += self.basis_blocks
        if self.spec.energy:
            found += limbs(f"energy{j}", 1, padded(self.periods), self.energy_bits)
        return found + (self.moments.ranges() if self.moments is not None else [])

    def states(self, name: str) -> list[Block]:
        """The moments' blocks in the start or end commitment."""
        if not self.spec.is_adam:
            return []
        return [Block(f"{name}.{kind}{self.layer}", padded(self.kept), padded(self.rank)) for kind in ("first", "second")]

    def periods_of(self, samples: Array) -> Array:
        """Weights over (step, place), summed over each period's steps: over (period, place)."""
        step, place = np.divmod(np.arange(self.samples, dtype=np.int64), self.rank)
        return field.scatter_add(samples, step // self.spec.gap * self.rank + place, self.periods * self.rank)

    @cached_property
    def public_basis(self) -> NDArray[np.int64]:
        """Random signs times 2^basis_bits / sqrt(units): (units, periods * rank), columns of length about 2^basis_bits."""
        seed, count, first = bytes.fromhex(self.statement.batch_seed), self.over * self.rank, self.statement.first_step
        size = isqrt((1 << (2 * self.spec.basis_bits)) // self.over)
        columns = []
        for k in range(self.periods):
            name = b"".join(x.to_bytes(8, "little") for x in (self.layer, first // self.spec.gap + k))
            stream = hashlib.shake_256(b"zkaudit basis" + seed + name).digest(-(-count // 8))
            bits = np.unpackbits(np.frombuffer(stream, np.uint8))[:count]
            columns.append((2 * bits.astype(np.int64) - 1).reshape(self.over, self.rank) * size)
        return np.concatenate(columns, axis=1)

    def verifier_work(self) -> int:
        """What a verifier's time grows with beyond the tables' sides: moments, and bases that it makes itself."""
        work = self.moments.verifier_work() if self.moments is not None else 0
        return work + (0 if self.spec.is_committed else self.over * self.rank * self.periods)

    def first_steps(self, weights: Array) -> Array:
        """Weights over (period, place) on each period's first step: over (step, place)."""
        return self._on_steps(weights, [k * self.spec.gap for k in range(self.periods)])

    def last_steps(self, weights: Array) -> Array:
        """Weights over (period, place) on each period's last step: over (step, place)."""
        return self._on_steps(weights, [min((k + 1) * self.spec.gap, self.statement.steps) - 1 for k in range(self.periods)])

    def _on_steps(self, weights: Array, steps: list[int]) -> Array:
        out = field.zeros(self.samples).reshape(-1, self.rank, 4)
        out[steps] = weights.reshape(-1, self.rank, 4)
        return out.reshape(-1, 4)


def layers(s: Statement) -> list[Projected]:
    """All of them; none without GaLore."""
    return [Projected(s, s.galore, j) for j in range(s.layers)] if s.galore is not None else []


def ranges(s: Statement) -> list[tuple[Block, int]]:
    """GaLore's blocks with the bits of their ranges."""
    return [x for layer in layers(s) for x in layer.ranges()]


def cast_blocks(s: Statement) -> list[Block]:
    """GaLore's blocks of numbers and their casts, where moments are stored in 8 bits."""
    return [x for layer in layers(s) if isinstance(layer.moments, StoredMoments) for x in layer.moments.cast_blocks()]


def state_blocks(s: Statement, name: str) -> list[Block]:
    """What the start or end commitment holds beside weights."""
    return [block for layer in layers(s) for block in layer.states(name)]


def add_basis(layer: Projected, named: dict[str, Block], claim: Claim, units: Array, samples: Array) -> None:
    """<P, units x samples> with the basis of its period beside each (step, place)."""
    add_period_basis(layer, named, claim, units, layer.periods_of(samples))


def add_period_basis(layer: Projected, named: dict[str, Block], claim: Claim, units: Array, places: Array) -> None:
    """<P, units x places>, places over (period, place)."""
    if layer.spec.is_committed:
        add_signed(claim, named[f"basis{layer.layer}"], 1, units, places)
    else:
        claim.add_constant(field.evaluate_small(layer.public_basis, units, places))


def add_direction(layer: Projected, named: dict[str, Block], claim: Claim, units: Array, samples: Array) -> None:
    """<U, units x samples>."""
    name = "direction" if layer.spec.is_adam else "projected"
    add_signed(claim, named[f"{name}{layer.layer}"], 1, units, samples)


def claims(s: Statement, named: dict[str, Block], channel: Channel) -> list[Claim]:
    """Root, quotient and moments of all layers."""
    return [x for layer in layers(s) if layer.moments is not None for x in layer.moments.claims(named, channel)]
