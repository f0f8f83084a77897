"""Adam's moments of a layer with GaLore, exact within a period: never committed, and rounded where a period ends.

    M        = decay[i + 1] m_k + sum of weights[l] R[i - l]      step i of period k; an average with b fractional bits
    V        = the same of R^2 and v_k, with the second kernel
    m_{k+1}  = floor(M / 2^b), v_{k+1} = floor(V / 2^b) after the period's last step;   m_0 = v_0 = 0

An average is a linear map of what it averages, so a claim on M is one on R and m with weights averaged backwards, and one on V
is one on products R R. Only a period's beginning is committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk import field
from zkaudit.zk.backend import place_of
from zkaudit.zk.block import LIMB, SIGN_OFFSET, Block, limb_bits, limbs, padded
from zkaudit.zk.channel import Channel
from zkaudit.zk.circuit.arithmetic import Integers, add_limbs, add_signed, split
from zkaudit.zk.claims import Claim, Form
from zkaudit.zk.field import Array
from zkaudit.zk.linear import Linear
from zkaudit.zk.methods import Kernel

if TYPE_CHECKING:
    from zkaudit.zk.circuit.galore import Projected

AVERAGED = 1 << 18  # entries, at most, of a matrix that averages weights: a statement may have long periods and many places
SECOND_BITS = 31  # of v: the square of a signed 16-bit number, and some


@dataclass(frozen=True)
class ExactMoments:
    """M and V in terms of blocks, and what ties their beginnings together."""

    layer: Projected

    def ranges(self) -> list[tuple[Block, int]]:
        """Blocks with the bits of their ranges, those of root and quotient first."""
        layer, j, bits = self.layer, self.layer.layer, self.layer.spec.moment_bits
        highs, inside = padded(layer.kept), padded(layer.periods * layer.rank)
        before = padded((layer.periods + 1) * layer.rank)
        return [
            *layer.root.ranges(),
            *layer.quotient.ranges(),
            (Block(f"first{j}", highs, before), LIMB),
            (Block(f"first{j}.rest", highs, inside), bits),
            *limbs(f"second{j}", highs, before, SECOND_BITS),
            (Block(f"second{j}.rest", highs, inside), bits),
        ]

    def verifier_work(self) -> int:
        """What a verifier's time grows with beyond the tables' sides: averaging weights."""
        return self.layer.samples * min(self.layer.spec.gap, self.layer.statement.steps) // 32

    def claims(self, named: dict[str, Block], channel: Channel) -> list[Claim]:
        """Root and quotient; then a period's end is the next one's beginning, the first and last are the segment's, and a chain
        begins with zeros."""
        claiming = _Claiming(self.layer, named)
        found = self.layer.root.claims(named, channel, claiming.add_second)
        found += self.layer.quotient.claims(named, channel, claiming.add_first)
        return found + [claim for kind in ("first", "second") for claim in claiming.handed_on(kind, channel)]

    def tables(self, projected: Integers, first: Integers, second: Integers) -> dict[str, Integers]:
        """The blocks' contents from projected gradients, (kept units, steps * rank), and moments before, (kept units, rank)."""
        layer, spec, rank, steps = self.layer, self.layer.spec, self.layer.rank, self.layer.statement.steps
        firsts, seconds = [first], [second]
        first_rests, second_rests, means, squares = (list[Integers]() for _ in range(4))
        for begin in range(0, steps, spec.gap):
            count = min(spec.gap, steps - begin)
            fresh = projected[:, begin * rank : (begin + count) * rank].reshape(-1, count, rank)
            mean, square = averages(spec.first_kernel, fresh, firsts[-1]), averages(spec.second_kernel, fresh**2, seconds[-1])
            for moments, rests, average in ((firsts, first_rests, mean), (seconds, second_rests, square)):
                last = average[:, -1]
                moments.append(last >> spec.moment_bits)
                rests.append(last - (moments[-1] << spec.moment_bits))
            means.append(mean.reshape(len(projected), -1))
            squares.append(square.reshape(len(projected), -1))
        root = layer.root.tables(np.concatenate(squares, axis=1))
        quotient = layer.quotient.tables(np.concatenate(means, axis=1), root[layer.root.name] + spec.epsilon)
        made = {f"first{layer.layer}": np.concatenate(firsts, axis=1) + SIGN_OFFSET}
        made[f"first{layer.layer}.rest"] = np.concatenate(first_rests, axis=1)
        made |= split(f"second{layer.layer}", np.concatenate(seconds, axis=1), SECOND_BITS)
        return {**root, **quotient, **made, f"second{layer.layer}.rest": np.concatenate(second_rests, axis=1)}

    def after(self, tables: Mapping[str, Any]) -> list[Integers]:
        """Both moments after the witness's last step, (kept units, rank) each."""
        layer, j = self.layer, self.layer.layer
        last = slice(layer.periods * layer.rank, (layer.periods + 1) * layer.rank)

        def at_end(name: str) -> Integers:
            table = tables[name]
            return place_of(table).get(table)[: layer.kept, last].astype(np.int64)  # type: ignore[no-any-return]

        parts = [at_end(f"second{j}.{k}") << (LIMB * k) for k, _ in enumerate(limb_bits(SECOND_BITS))]
        return [at_end(f"first{j}") - SIGN_OFFSET, np.sum(parts, axis=0)]


def averages(kernel: Kernel, fresh: Integers, before: Integers) -> Integers:
    """A period's averages, (units, steps, rank), of what arises in it and of what was before, (units, rank)."""
    steps = fresh.shape[1]
    lags = np.arange(steps)[:, None] - np.arange(steps)
    matrix = np.where(lags >= 0, np.array(kernel.weights)[np.maximum(lags, 0)], 0)
    decayed = np.array(kernel.decay)[1 : steps + 1, None] * before[:, None]
    # Exact in float64, whose products are faster: fresh numbers have 31 bits, and a kernel's weights add up to 2^15 at most.
    return np.asarray((matrix.astype(np.float64) @ fresh.astype(np.float64)).astype(np.int64) + decayed)


def averaged(layer: Projected, kernel: Kernel, samples: Array) -> tuple[Array, Array]:
    """Weights on averages as weights on what is averaged, over (step, place), and on periods' beginnings."""
    rank, gap, steps = layer.rank, layer.spec.gap, layer.statement.steps
    fresh, before, begin = [], [], 0
    for periods, length in ((steps // gap, gap), (1, steps % gap)):  # all whole ones at once, then what is left of the last
        if periods * length == 0:
            continue
        these = samples[begin * rank : (begin + periods * length) * rank].reshape(periods, length, rank, 4)
        here, begin = these.transpose(0, 2, 1, 3).reshape(-1, length, 4), begin + periods * length
        rows, parts = max(1, AVERAGED // length), []
        for source in range(0, length, rows):
            lags = np.arange(length) - np.arange(source, min(source + rows, length))[:, None]  # [source, step]
            parts.append(_mixed(np.where(lags >= 0, np.array(kernel.weights)[np.maximum(lags, 0)], 0), here))
        fresh.append(np.concatenate(parts).reshape(length, periods, rank, 4).transpose(1, 0, 2, 3).reshape(-1, 4))
        before.append(_mixed(np.array(kernel.decay)[None, 1 : length + 1], here)[0])
    return np.concatenate(fresh), np.concatenate([*before, field.zeros(rank)])


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


@dataclass(frozen=True)
class _Claiming:
    layer: Projected
    named: dict[str, Block]

    def add_first(self, claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <M, units x samples>."""
        layer, j = self.layer, self.layer.layer
        fresh, before = averaged(layer, layer.spec.first_kernel, samples)
        add_signed(claim, self.named[f"projected{j}"], coefficient, units, fresh)
        add_signed(claim, self.named[f"first{j}"], coefficient, units, before)

    def add_second(self, claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <V, units x samples>."""
        layer, j = self.layer, self.layer.layer
        fresh, before = averaged(layer, layer.spec.second_kernel, samples)
        signed = Form(-SIGN_OFFSET, ((1, f"projected{j}"),))
        claim.add_product(self.named[f"projected{j}"], signed, signed, coefficient, units, fresh)
        add_limbs(claim, self.named, f"second{j}", coefficient, SECOND_BITS, units, before)

    def handed_on(self, kind: str, channel: Channel) -> list[Claim]:
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
