"""Adam's moments of a layer with GaLore, stored in 8 bits after every step, as COAT stores them (Xi et al. 2024).

    M_t     = decay_1 m_t + weight_1 R_t,                           x_t = floor((M_t + offset) / 2^b),  m_{t+1} = cast(x_t)
    V_t     = decay_2 (s_t^2 + s_t) + weight_2 R_t^2 + quarter,     S_t = floor(sqrt(V_t / 2^b)),       s_{t+1} = cast(S_t)
    U_t     = floor(M_t / (S_t + epsilon));                             m_0 = s_0 = 0

The second moment is stored through its root. Each step has public coefficients of its own, so that small changes are not lost
in rounding (dither.py). cast is E4M3 after range expansion (expanded.py), looked up (casts.py), which is the range check of x
and S as well. M and V are not committed: with rest = M + offset - 2^b x, M is 2^b x + rest - offset, so one relation says what
M is and the quotient takes it from there. What a step begins with is what the step before stored, so a claim on M is one on R,
on m one step earlier, and on the segment's start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from zkaudit.zk import field
from zkaudit.zk.backend import place_of
from zkaudit.zk.block import SIGN_OFFSET, Block
from zkaudit.zk.channel import Channel
from zkaudit.zk.circuit import casts
from zkaudit.zk.circuit.arithmetic import Integers, add_signed, floor_root
from zkaudit.zk.circuit.dither import Coefficients
from zkaudit.zk.claims import Claim, Form
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import Array
from zkaudit.zk.linear import Linear

if TYPE_CHECKING:
    from zkaudit.zk.circuit.galore import Projected


@dataclass(frozen=True)
class StoredMoments:
    """M and V in terms of blocks, and what is stored of them."""

    layer: Projected

    def ranges(self) -> list[tuple[Block, int]]:
        """Blocks with the bits of their ranges; those of pairs are not among them."""
        layer = self.layer
        rest = Block(f"first{layer.layer}.rest", layer.shape.highs, layer.shape.lows)
        return [*layer.root.slack_ranges(), *layer.quotient.ranges(), (rest, layer.spec.moment_bits)]

    def cast_blocks(self) -> list[Block]:
        """What is looked up in pairs: x, its cast, S, its cast."""
        j, shape = self.layer.layer, self.layer.shape
        return [Block(name, shape.highs, shape.lows) for name in (f"first{j}.exact", f"first{j}", f"root{j}", f"second{j}")]

    @cached_property
    def coefficients(self) -> Coefficients:
        """Those of the segment's steps."""
        s, spec = self.layer.statement, self.layer.spec
        return Coefficients.of(spec.beta1, spec.beta2, spec.moment_bits, s.first_step, s.steps)

    def verifier_work(self) -> int:
        """What a verifier's time grows with beyond the tables' sides."""
        return 0

    def claims(self, named: dict[str, Block], channel: Channel) -> list[Claim]:
        """Root, what M is, quotient; then what is stored last is the segment's end, and a chain begins with zeros."""
        layer, claiming = self.layer, _Claiming(self.layer, named, self.coefficients)
        found = layer.root.claims(named, channel, claiming.add_second)
        units, samples = layer.shape.weights(channel, "moment")
        rounded = Claim(Linear())
        claiming.add_first(rounded, units, samples)
        claiming.add_mean(rounded, -1, units, samples)
        found += [rounded, *layer.quotient.claims(named, channel, claiming.add_mean)]
        return found + [claim for kind in ("first", "second") for claim in claiming.edges(kind, channel)]

    def tables(self, projected: Integers, first: Integers, second: Integers) -> dict[str, Integers]:
        """The blocks' contents but for casts, from projected gradients, (kept units, steps * rank), and moments before, (kept
        units, rank); BadInput if a number leaves 16 bits."""
        layer, spec, j = self.layer, self.layer.spec, self.layer.layer
        steps = np.ascontiguousarray(projected.reshape(len(projected), -1, layer.rank).transpose(1, 0, 2))
        means, squares = np.empty_like(steps), np.empty_like(steps)
        store_first, store_second, c = self._storing("first"), self._storing("second"), self.coefficients
        for t, fresh in enumerate(steps):
            means[t] = c.decay_1[t] * first + c.weight_1[t] * fresh
            squares[t] = c.decay_2[t] * (second * second + second) + c.weight_2[t] * fresh * fresh + c.quarter[t]
            first = store_first((means[t] + c.offset[t]) >> spec.moment_bits)
            second = store_second(floor_root(squares[t] >> spec.moment_bits))
        mean, square = (values.transpose(1, 0, 2).reshape(projected.shape) for values in (means, squares))
        root = layer.root.tables(square)
        rounded = mean + np.repeat(c.offset, layer.rank)
        exact = rounded >> spec.moment_bits
        made = {f"first{j}.exact": exact + SIGN_OFFSET, f"first{j}.rest": rounded - (exact << spec.moment_bits)}
        return {**root, **layer.quotient.tables(mean, root[layer.root.name] + spec.epsilon), **made}

    def after(self, tables: Mapping[str, Any]) -> list[Integers]:
        """Both moments after the witness's last step, (kept units, rank) each."""
        layer = self.layer
        last = slice(layer.samples - layer.rank, layer.samples)
        first, second = (tables[f"{kind}{layer.layer}"] for kind in ("first", "second"))
        stored = [place_of(table).get(table)[: layer.kept, last].astype(np.int64) for table in (first, second)]
        return [stored[0] - SIGN_OFFSET, stored[1]]

    def _storing(self, kind: str) -> Callable[[Integers], Integers]:
        """What casts a step's numbers, (kept units, rank)."""
        s, layer, offset = self.layer.statement, self.layer, SIGN_OFFSET if kind == "first" else 0
        casting = casts.casting(s, casts.of_layer(s, kind, layer.layer), layer.kept)

        def store(numbers: Integers) -> Integers:
            stored = numbers + offset
            if stored.size and (int(stored.min()) < 0 or int(stored.max()) >= 1 << 16):
                raise BadInput(f"the {kind} moment of layer {layer.layer} leaves 16 bits")
            return casting(stored).astype(np.int64) - offset

        return store


@dataclass(frozen=True)
class _Claiming:
    layer: Projected
    named: dict[str, Block]
    coefficients: Coefficients

    def add_first(self, claim: Claim, units: Array, samples: Array) -> None:
        """<M, units x samples>."""
        j, c = self.layer.layer, self.coefficients
        at_start, earlier = self._earlier(self._scaled(samples, c.decay_1))
        add_signed(claim, self.named[f"projected{j}"], 1, units, self._scaled(samples, c.weight_1))
        add_signed(claim, self.named[f"first{j}"], 1, units, earlier)
        claim.add_block(self.named[f"start.first{j}"], 1, units, at_start)

    def add_second(self, claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <V, units x samples>."""
        j, c = self.layer.layer, self.coefficients
        at_start, earlier = self._earlier(self._scaled(samples, c.decay_2))
        projected, fresh = Form(-SIGN_OFFSET, ((1, f"projected{j}"),)), self._scaled(samples, c.weight_2)
        claim.add_product(self.named[f"projected{j}"], projected, projected, coefficient, units, fresh)
        for name, places in ((f"second{j}", earlier), (f"start.second{j}", at_start)):
            root, above = (Form(constant, ((1, name),)) for constant in (0, 1))
            claim.add_product(self.named[name], root, above, coefficient, units, places)
        claim.add_constant(coefficient * field.total(units) * field.total(self._scaled(samples, c.quarter)))

    def add_mean(self, claim: Claim, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <M, units x samples> from what it was rounded to: 2^b x + rest - offset."""
        j, bits = self.layer.layer, self.layer.spec.moment_bits
        add_signed(claim, self.named[f"first{j}.exact"], coefficient << bits, units, samples)
        claim.add_block(self.named[f"first{j}.rest"], coefficient, units, samples)
        offsets = field.total(self._scaled(samples, self.coefficients.offset))
        claim.add_constant(-coefficient * field.total(units) * offsets)

    def edges(self, kind: str, channel: Channel) -> list[Claim]:
        layer, name = self.layer, f"{kind}{self.layer.layer}"
        units = channel.random_weights("moment units", layer.kept)
        edges = channel.random_weights("moment edges", layer.rank)
        same = Claim(Linear())
        same.add_block(self.named[f"end.{name}"], -1, units, edges)
        last = np.concatenate([field.zeros(layer.samples - layer.rank), edges])
        if kind == "first":
            add_signed(same, self.named[name], 1, units, last)
        else:
            same.add_block(self.named[name], 1, units, last)
        if layer.statement.segment:
            return [same]
        nothing = Claim(Linear())
        nothing.add_block(self.named[f"start.{name}"], 1, units, edges)
        return [same, nothing]

    def _scaled(self, samples: Array, numbers: Integers) -> Array:
        """Weights over (step, place), each step's times its number."""
        return field.mul(samples, field.from_small(np.repeat(numbers, self.layer.rank)))

    def _earlier(self, samples: Array) -> tuple[Array, Array]:
        """Weights over (step, place) as those on what a step begins with: on the start, and on what each step stored."""
        rank = self.layer.rank
        return samples[:rank], np.concatenate([samples[rank:], field.zeros(rank)])
