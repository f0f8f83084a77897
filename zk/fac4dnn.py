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

import numpy as np

from zkaudit.zk import field, mle, sumcheck
from zkaudit.zk.backend import contiguous, place_of
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.claims import Claim
from zkaudit.zk.field import Array
from zkaudit.zk.history import WeightClaim, WeightTerm
from zkaudit.zk.layout import padded
from zkaudit.zk.linear import Linear
from zkaudit.zk.mle import random_weights
from zkaudit.zk.network import Network
from zkaudit.zk.stack import Stack, stack
from zkaudit.zk.statement import Statement
from zkaudit.zk.witness import Witness


def prove(network: Network, witness: Witness, channel: ProverChannel) -> tuple[list[Claim], list[WeightClaim]]:
    """Prove all products; returns the claims left on tensors and on weights."""
    claims: list[Claim] = []
    weight_claims: list[WeightClaim] = []
    for direction in _directions(network.layout.statement, channel):
        laid = _product_stack(direction)
        left, right = _product_tables(witness, direction, laid)
        outputs = _output_claim(channel.send([field.dot(left, right)], direction.name)[0], network, direction)
        products = sumcheck.Products([left, right], [(0, 1)])
        point, rest = sumcheck.prove([products], 2, outputs.value, channel, direction.name)
        values = [mle.evaluate(left, point), mle.evaluate(right, point)]
        message = channel.send([*values, values[0] * values[1]], direction.name)
        inner, weights = _split(message, rest, point, laid, network, direction, channel)
        claims += [outputs, inner]
        weight_claims.append(weights)
    return claims, weight_claims


def verify(network: Network, channel: VerifierChannel) -> tuple[list[Claim], list[WeightClaim]]:
    """The verifier's side: the same claims."""
    claims: list[Claim] = []
    weight_claims: list[WeightClaim] = []
    for direction in _directions(network.layout.statement, channel):
        laid = _product_stack(direction)
        outputs = _output_claim(channel.receive(1, direction.name)[0], network, direction)
        point, rest = sumcheck.verify(laid.variables, 2, outputs.value, channel, direction.name)
        message = channel.receive(3, direction.name)
        inner, weights = _split(message, rest, point, laid, network, direction, channel)
        claims += [outputs, inner]
        weight_claims.append(weights)
    return claims, weight_claims


@dataclass(frozen=True)
class _Direction:
    """Forward or backward, with the challenges of the relation; lists run over `layers`, those whose weights take part."""

    forward: bool
    statement: Statement
    layers: list[int]
    samples: Array  # weights of samples, (steps * batch, 4)
    units: list[Array]  # weights of the product's outer units
    scales: list[int]  # powers of the layer challenge

    @property
    def name(self) -> str:
        return "forward product" if self.forward else "backward product"

    def inner(self, j: int) -> int:
        """Units summed over in layer j's product: inputs and the bias column forward, outputs backward."""
        return self.statement.widths[j] + 1 if self.forward else self.statement.widths[j + 1]


def _directions(s: Statement, channel: Channel) -> Iterator[_Direction]:
    """The two relations in order; each draws its challenges when its turn comes."""
    for forward in (True, False):
        layers = list(range(s.layers)) if forward else list(range(1, s.layers))
        if not layers:
            return
        samples = channel.random_weights("product samples", s.steps * s.batch)
        widths = [s.widths[j + 1] if forward else s.widths[j] for j in layers]
        coordinates = channel.challenges("product units", (max(widths) - 1).bit_length())
        units = [random_weights(coordinates, width) for width in widths]
        scales = field.to_ints(field.powers(channel.challenge("product layers"), len(layers)))
        yield _Direction(forward, s, layers, samples, units, scales)


def _product_stack(direction: _Direction) -> Stack:
    """One table a layer over (inner unit, step), the step lowest."""
    steps = padded(direction.statement.steps)
    return stack([padded(direction.inner(j)) * steps for j in direction.layers])


def _product_tables(witness: Witness, direction: _Direction, laid: Stack) -> tuple[Array, Array]:
    """The left factors, times their layer's scale, and the right factors, each a stack over (layer, inner unit, step)."""
    s = direction.statement
    at, shape = place_of(witness.activation(0)), (1 << laid.variables, 4)
    left, right = at.zeros(shape, np.uint64), at.zeros(shape, np.uint64)
    for i, (j, units, scale) in enumerate(zip(direction.layers, direction.units, direction.scales, strict=True)):
        activation, gradient, start = witness.activation(j), witness.gradient(j), witness.start[j]
        inner, outer, folded_start = (
            (activation, gradient, start.T) if direction.forward else (gradient, activation[:-1], start[:-1])
        )
        factor = field.segment_dot(field.mul(direction.samples, scale), inner, s.steps, s.batch)
        folded_outer = field.combine(units, outer)[: s.steps * s.batch]
        updates = field.segment_dot(folded_outer, inner, s.steps, s.batch)
        weights = _running(field.combine(units, contiguous(folded_start)), updates, s.rates)
        for table, values in ((left, factor), (right, weights)):
            block = table[laid.offsets[i] : laid.offsets[i] + laid.sizes[i]].reshape(-1, padded(s.steps), 4)
            block[: len(values), : s.steps] = at.put(values)
    return left, right


def _running(start: Array, updates: Array, rates: Sequence[int]) -> Array:
    """start (d, 4) minus, at each step, the rate-weighted sum of the earlier updates (d, steps, 4)."""
    at = place_of(updates)
    scaled = field.mul(updates, contiguous(np.broadcast_to(at.put(field.from_ints(rates)), updates.shape)))
    spread = contiguous(np.broadcast_to(at.put(start)[:, None], updates.shape))
    return field.sub(spread, field.exclusive_cumsum(scaled))


def _output_claim(value: Linear, network: Network, direction: _Direction) -> Claim:
    """The weighed sum of all products' results is `value`."""
    claim = Claim(value)
    for j, units, scale in zip(direction.layers, direction.units, direction.scales, strict=True):
        if direction.forward:
            network.preactivation(claim, j, scale, units, direction.samples)
        else:
            network.activation_gradient(claim, j - 1, scale, units, direction.samples)
    return claim


def _split(
    message: list[Linear],
    rest: Linear,
    point: list[int],
    laid: Stack,
    network: Network,
    direction: _Direction,
    channel: Channel,
) -> tuple[Claim, WeightClaim]:
    """The sumcheck's last claim is the product of the two factors' values; each factor's value is a claim of its own."""
    left, right, product = message
    channel.require_product(left, right, product, direction.name)
    channel.require_zero(product - rest, direction.name)
    s = direction.statement
    step_variables = (s.steps - 1).bit_length()
    steps = random_weights(point, s.steps)
    samples = field.mul(direction.samples, np.repeat(steps, s.batch, axis=0))
    claim, terms = Claim(left), []
    for j, units, scale, prefix in zip(direction.layers, direction.units, direction.scales, laid.prefixes(point), strict=True):
        width = direction.inner(j)
        inner = random_weights(point[step_variables:], width)
        taus = np.concatenate([field.mul(steps, prefix), field.zeros(1)])
        if direction.forward:
            network.activation(claim, j, field.mul(inner, prefix * scale), samples)
            terms.append(WeightTerm(j, taus, inner, units))
        else:
            network.gradient(claim, j, field.mul(inner, prefix * scale), samples)
            terms.append(WeightTerm(j, taus, np.concatenate([units, field.zeros(1)]), inner))
    return claim, WeightClaim(right, terms)
