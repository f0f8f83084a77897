"""FAC4DNN: all matrix products of all layers and steps, folded into one sumcheck forward and one backward.

    forward    Z_j[t]  = [A_j[t], 2^f] W_j[t]
    backward   G_{j+1}[t] W_{j+1}[t]^T = 2^w GA'_j[t] + RG_j[t] - 2^(w-1)          (without the bias row)

Each relation is weighed with a random vector over samples and one over units; the sum over layers takes powers of one
challenge. The left factor is folded over the samples of each step, the right one over its outer unit, and the sumcheck runs
over (layer, inner unit, step). What is left is one value of each: the left one is a claim on activations or gradients, the
right one a claim on the weights at all steps, which history.py settles. Source: zkDL (Sun et al. 2023). Error: (3 layers + 3
n) / |F| for each direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from zkaudit.zk import field, sumcheck
from zkaudit.zk.backend import contiguous, place_of
from zkaudit.zk.block import padded
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.circuit import step
from zkaudit.zk.circuit.step import Equation, Pair, Tensor
from zkaudit.zk.claims import Claim, extended
from zkaudit.zk.field import Array
from zkaudit.zk.history import WeightClaim, WeightTerm
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear
from zkaudit.zk.mle import random_weights
from zkaudit.zk.network import Network
from zkaudit.zk.stack import Stack, stack
from zkaudit.zk.witness import Witness


def prove(network: Network, witness: Witness, channel: ProverChannel) -> tuple[list[Claim], list[WeightClaim]]:
    """Prove all products; returns the claims left on tensors and on weights."""
    claims: list[Claim] = []
    weight_claims: list[WeightClaim] = []
    for direction in _directions(network.layout, channel):
        left, right = _product_tables(witness, direction)
        outputs = _output_claim(channel.send([field.dot(left, right)], direction.name)[0], network, direction)
        left_over = sumcheck.prove_product(left, right, outputs.value, channel, direction.name)
        inner, weights = _split(left_over, network, direction)
        claims += [outputs, inner]
        weight_claims.append(weights)
    return claims, weight_claims


def verify(network: Network, channel: VerifierChannel) -> tuple[list[Claim], list[WeightClaim]]:
    """The verifier's side: the same claims."""
    claims: list[Claim] = []
    weight_claims: list[WeightClaim] = []
    for direction in _directions(network.layout, channel):
        outputs = _output_claim(channel.receive(1, direction.name)[0], network, direction)
        left_over = sumcheck.verify_product(direction.stack.variables, outputs.value, channel, direction.name)
        inner, weights = _split(left_over, network, direction)
        claims += [outputs, inner]
        weight_claims.append(weights)
    return claims, weight_claims


@dataclass(frozen=True)
class _Product:
    """One product of an equation, which is weighed with `units` over outer units and scaled with the equation's `scale`."""

    tensor: Tensor
    matrix: int
    inner: int  # units summed over: inputs, with the bias, forward; outputs backward
    units: Array
    scale: int


@dataclass(frozen=True)
class _Direction:
    """Forward or backward, with the challenges of the relation."""

    forward: bool
    layout: Layout
    samples: Array  # weights of samples, (steps * batch, 4)
    equations: list[Equation]
    units: list[Array]  # weights of each equation's outer units
    scales: list[int]  # powers of the layer challenge

    @property
    def name(self) -> str:
        return "forward product" if self.forward else "backward product"

    @cached_property
    def products(self) -> list[_Product]:
        """Those of all equations."""
        found = []
        for equation, units, scale in zip(self.equations, self.units, self.scales, strict=True):
            for tensor, m in equation.products:
                matrix = self.layout.matrices[m]
                found.append(_Product(tensor, m, matrix.rows if self.forward else matrix.columns, units, scale))
        return found

    @cached_property
    def stack(self) -> Stack:
        """One table a product over (inner unit, step), the step lowest."""
        steps = padded(self.layout.statement.steps)
        return stack([padded(product.inner) * steps for product in self.products])


def _directions(layout: Layout, channel: Channel) -> Iterator[_Direction]:
    """The two relations in order; each draws its challenges when its turn comes."""
    s = layout.statement
    for forward, equations in ((True, step.forward(layout)), (False, step.backward(layout))):
        if not equations:
            return
        samples = channel.random_weights("product samples", s.steps * s.batch)
        widths = [_outer(layout, equation, forward) for equation in equations]
        coordinates = channel.challenges("product units", (max(widths) - 1).bit_length())
        units = [random_weights(coordinates, width) for width in widths]
        scales = field.to_ints(field.powers(channel.challenge("product layers"), len(equations)))
        yield _Direction(forward, layout, samples, equations, units, scales)


def _outer(layout: Layout, equation: Equation, forward: bool) -> int:
    """Units of the equation's result."""
    matrix = layout.matrices[equation.products[0][1]]
    return matrix.columns if forward else matrix.rows - matrix.has_bias


def _product_tables(witness: Witness, direction: _Direction) -> tuple[Array, Array]:
    """The left factors, times their equation's scale, and the right factors, each a stack over (product, inner unit, step)."""
    s, laid = direction.layout.statement, direction.stack
    at, shape = place_of(witness.activation(0)), (1 << laid.variables, 4)
    left, right = at.zeros(shape, np.uint64), at.zeros(shape, np.uint64)
    pairs = step.pairs(direction.layout)
    for i, product in enumerate(direction.products):
        factor = field.segment_dot(
            field.mul(direction.samples, product.scale), witness.tensor(product.tensor), s.steps, s.batch
        )
        weights = _folded_weights(witness, direction, product, pairs.get(product.matrix))
        for table, values in ((left, factor), (right, weights)):
            block = table[laid.offsets[i] : laid.offsets[i] + laid.sizes[i]].reshape(-1, padded(s.steps), 4)
            block[: len(values), : s.steps] = at.put(values)
    return left, right


def _folded_weights(witness: Witness, direction: _Direction, product: _Product, pair: Pair | None) -> Array:
    """The matrix before each step with its outer units weighed: (inner units, steps, 4)."""
    s, start = direction.layout.statement, witness.start[product.matrix]
    folded = field.combine(product.units, contiguous(start.T if direction.forward else start[: len(product.units)]))
    if pair is None:
        return np.repeat(place_of(folded).get(folded)[:, None], s.steps, axis=1)
    left, right = witness.tensor(pair.left), witness.tensor(pair.right)
    inner, outer = (left, right) if direction.forward else (right, left[: len(product.units)])
    folded_outer = field.combine(product.units, contiguous(outer))[: s.steps * pair.per_step]
    return _running(folded, field.segment_dot(folded_outer, inner, s.steps, pair.per_step), pair.rates)


def _running(start: Array, updates: Array, rates: Sequence[int]) -> Array:
    """start (d, 4) minus, at each step, the rate-weighted sum of the earlier updates (d, steps, 4)."""
    at = place_of(updates)
    scaled = field.mul(updates, contiguous(np.broadcast_to(at.put(field.from_ints(rates)), updates.shape)))
    spread = contiguous(np.broadcast_to(at.put(start)[:, None], updates.shape))
    return field.sub(spread, field.exclusive_cumsum(scaled))


def _output_claim(value: Linear, network: Network, direction: _Direction) -> Claim:
    """The weighed sum of all products' results is `value`."""
    claim = Claim(value)
    for equation, units, scale in zip(direction.equations, direction.units, direction.scales, strict=True):
        network.add_result(claim, equation.result, scale, units, direction.samples)
    return claim


def _split(left_over: tuple[list[int], Linear, Linear], network: Network, direction: _Direction) -> tuple[Claim, WeightClaim]:
    """The two factors' values at the point are a claim on tensors and one on weights."""
    point, left, right = left_over
    s = network.layout.statement
    step_variables = (s.steps - 1).bit_length()
    steps = random_weights(point, s.steps)
    samples = field.mul(direction.samples, np.repeat(steps, s.batch, axis=0))
    claim, terms = Claim(left), []
    for product, prefix in zip(direction.products, direction.stack.prefixes(point), strict=True):
        inner = random_weights(point[step_variables:], product.inner)
        taus = np.concatenate([field.mul(steps, prefix), field.zeros(1)])
        network.add(claim, product.tensor, field.mul(inner, prefix * product.scale), samples)
        if direction.forward:
            terms.append(WeightTerm(product.matrix, taus, inner, product.units))
        else:
            rows = network.layout.matrices[product.matrix].rows
            terms.append(WeightTerm(product.matrix, taus, extended(product.units, rows), inner))
    return claim, WeightClaim(right, terms)
