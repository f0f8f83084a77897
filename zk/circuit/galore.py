"""GaLore (Zhao et al. 2024): updates in a subspace, with SGD or Adam there. Blocks, relations and virtual tensors.

With D = [A, 2^f]^T G of a layer and step, P its basis in period k (of `gap` steps), side "left"; "right" is its transpose:

    P^T D     = 2^shift R + rest - 2^(shift-1)                    projection.py; R in 16 bits, signed
    M         = decay[i + 1] m_k + sum of weights[l] R[i - l]     step i of the period; an average with b fractional bits
    V         = the same of R^2 and v_k, with the second kernel
    S         = floor(sqrt(V / 2^b)),   U = floor(M / (S + epsilon))                     arithmetic.py
    m_{k+1}   = floor(M / 2^b), v_{k+1} = floor(V / 2^b) after the period's last step;   m_0 = v_0 = 0
    W[t + 1]  = W[t] - c_t P U                                    history.py

M and V are never committed: an average is a linear map of what it averages, so a claim on M is one on R and m with weights
averaged backwards, and one on V is one on products R R. Only a period's beginning is committed. SGD has U = R. A basis is
committed and nearly orthonormal (projection.py), or made of signs that the batch seed fixes. Left: kept units are the outputs
and P lies over the inputs with the bias; right: the other way round."""

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
from zkaudit.zk.circuit.arithmetic import Quotient, Root, Shape, add_limbs, add_signed
from zkaudit.zk.claims import Claim, Form
from zkaudit.zk.field import Array
from zkaudit.zk.linear import Linear
from zkaudit.zk.methods import GaLore, Kernel
from zkaudit.zk.statement import SIGNED, Statement

AVERAGED = 1 << 18  # entries, at most, of a matrix that averages weights: a statement may have long periods and many places
SECOND_BITS = 31  # of v: the square of a signed 16-bit number, and some


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
        if self.spec.is_adam:
            before, inside, bits = (
                padded((self.periods + 1) * self.rank),
                padded(self.periods * self.rank),
                self.spec.moment_bits,
            )
            found += [*self.root.ranges(), *self.quotient.ranges()]
            found += [(Block(f"first{j}", highs, before), LIMB), (Block(f"first{j}.rest", highs, inside), bits)]
            found += [*limbs(f"second{j}", highs, before, SECOND_BITS), (Block(f"second{j}.rest", highs, inside), bits)]
        return found

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

    def averaged(self, kernel: Kernel, samples: Array) -> tuple[Array, Array]:
        """Weights on averages as weights on what is averaged, over (step, place), and on periods' beginnings."""
        fresh, before = [], []
        for first in range(0, self.statement.steps, self.spec.gap):
            steps = min(self.spec.gap, self.statement.steps - first)
            here = np.ascontiguousarray(samples.reshape(-1, self.rank, 4)[first : first + steps].transpose(1, 0, 2))
            rows = max(1, AVERAGED // steps)
            for source in range(0, steps, rows):
                lags = np.arange(steps) - np.arange(source, min(source + rows, steps))[:, None]  # [source, step]
                matrix = np.where(lags >= 0, np.array(kernel.weights)[np.maximum(lags, 0)], 0)
                fresh.append(_mixed(matrix, here).reshape(-1, 4))
            before.append(_mixed(np.array(kernel.decay)[None, 1 : steps + 1], here)[0])
        return np.concatenate(fresh), np.concatenate([*before, field.zeros(self.rank)])

    def verifier_work(self) -> int:
        """What a verifier's time grows with beyond the tables' sides: averaging weights, and bases that it makes itself."""
        averaged = self.samples * min(self.spec.gap, self.statement.steps) // 32 if self.spec.is_adam else 0
        return averaged + (0 if self.spec.is_committed else self.over * self.rank * self.periods)

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


def _mixed(matrix: NDArray[np.int64], weights: Array) -> Array:
    """out[h, i] = sum over t of matrix[h, t] weights[i, t], for weights (places, steps, 4): (rows, places, 4)."""
    places, steps = weights.shape[:2]
    together = max(1, min(places, AVERAGED // matrix.size))
    tiled, parts = np.tile(matrix, (1, together)), []
    for place in range(0, places, together):
        some = weights[place : place + together]
        given = tiled if len(some) == together else np.ascontiguousarray(tiled[:, : len(some) * steps])
        parts.append(field.segment_dot(some.reshape(-1, 4), given, len(some), steps))
    return np.concatenate(parts, axis=1)


def layers(s: Statement) -> list[Projected]:
    """All of them; none without GaLore."""
    return [Projected(s, s.galore, j) for j in range(s.layers)] if s.galore is not None else []


def ranges(s: Statement) -> list[tuple[Block, int]]:
    """GaLore's blocks with the bits of their ranges."""
    return [x for layer in layers(s) for x in layer.ranges()]


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
    """Root and quotient, moments handed on from period to period, and from and to other segments."""
    found: list[Claim] = []
    for layer in layers(s):
        if layer.spec.is_adam:
            moments = _Moments(layer, named)
            found += layer.root.claims(named, channel, moments.add_second)
            found += layer.quotient.claims(named, channel, moments.add_first)
            found += moments.handed_on(channel)
    return found


@dataclass(frozen=True)
class _Moments:
    """M and V in terms of blocks, and what ties their beginnings together."""

    layer: Projected
    named: dict[str, Block]

    def add_first(self, claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <M, units x samples>."""
        layer, j = self.layer, self.layer.layer
        fresh, before = layer.averaged(layer.spec.first_kernel, samples)
        add_signed(claim, self.named[f"projected{j}"], coefficient, units, fresh)
        add_signed(claim, self.named[f"first{j}"], coefficient, units, before)

    def add_second(self, claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <V, units x samples>."""
        layer, j = self.layer, self.layer.layer
        fresh, before = layer.averaged(layer.spec.second_kernel, samples)
        signed = Form(-SIGNED, ((1, f"projected{j}"),))
        claim.add_product(self.named[f"projected{j}"], signed, signed, coefficient, units, fresh)
        add_limbs(claim, self.named, f"second{j}", coefficient, SECOND_BITS, units, before)

    def handed_on(self, channel: Channel) -> list[Claim]:
        """A period's end is the next one's beginning; the first and last are the segment's; a chain begins with zeros."""
        return [claim for kind in ("first", "second") for claim in self._kind(kind, channel)]

    def _kind(self, kind: str, channel: Channel) -> list[Claim]:
        layer, name = self.layer, f"{kind}{self.layer.layer}"
        rank, periods = layer.rank, layer.periods
        units = channel.random_weights("moment units", layer.kept)
        places = channel.random_weights("moment places", periods * rank)
        rounded = Claim(Linear())
        (self.add_first if kind == "first" else self.add_second)(rounded, 1, units, layer.last_steps(places))
        self._add_state(rounded, kind, -(1 << layer.spec.moment_bits), units, np.concatenate([field.zeros(rank), places]))
        rounded.add_block(self.named[f"{name}.rest"], -1, units, places)
        edges = channel.random_weights("moment edges", rank)
        found = [rounded]
        for place, edge in ((0, "start"), (periods, "end")):
            same = Claim(Linear())
            same.add_block(self.named[f"{edge}.{name}"], -1, units, edges)
            self._add_state(same, kind, 1, units, np.concatenate([field.zeros(place * rank), edges]))
            found.append(same)
        if layer.statement.segment == 0:
            nothing = Claim(Linear())
            nothing.add_block(self.named[f"start.{name}"], 1, units, edges)
            found.append(nothing)
        return found

    def _add_state(self, claim: Claim, kind: str, coefficient: int, units: Array, places: Array) -> None:
        if kind == "first":
            add_signed(claim, self.named[f"first{self.layer.layer}"], coefficient, units, places)
        else:
            add_limbs(claim, self.named, f"second{self.layer.layer}", coefficient, SECOND_BITS, units, places)
