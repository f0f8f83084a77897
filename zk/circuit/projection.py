"""GaLore's projected gradients and the orthonormality of its bases.

    projection       P^T [A, 2^f]^T G = 2^shift R + rest - 2^(shift-1)      ("right": the roles of the two factors change)
    orthonormality   P^T P = 2^(2p) I + E, every |E| <= 2^(p+2)                 committed bases only

A projection is weighed with v over (step, place) and u over kept units; P v is a vector over (inner unit, step). Then

    sum over samples (step, row) of ([A, 2^f] (P v)[step]) (G u)

is one sumcheck, and the value of its left factor at the point it ends at is a second one, over (inner unit, step), of the
activations' fold and P v: what is left are claims on A, G and P. Orthonormality is one sumcheck over (inner unit, period). All
layers run together, each scaled by a power of a challenge. Error: (3 layers + 8 n) / |F|."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zkaudit.zk import field, sumcheck
from zkaudit.zk.backend import contiguous, place_of
from zkaudit.zk.block import padded
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.circuit import galore
from zkaudit.zk.circuit.arithmetic import add_limbs, add_signed
from zkaudit.zk.circuit.galore import Projected
from zkaudit.zk.circuit.step import Tensor
from zkaudit.zk.claims import Claim
from zkaudit.zk.field import Array
from zkaudit.zk.linear import Linear
from zkaudit.zk.mle import random_weights
from zkaudit.zk.network import Network
from zkaudit.zk.stack import Stack, stack
from zkaudit.zk.witness import Witness


def prove(network: Network, witness: Witness, channel: ProverChannel) -> list[Claim]:
    """Prove all projections, and bases where they are committed; returns the claims left on tensors and blocks."""
    s = network.layout.statement
    layers = galore.layers(s)
    if not layers:
        return []
    drawn = _draw(layers, channel)
    left, right = _sample_tables(witness, drawn)
    result = _result(channel.send([field.dot(left, right)], "projection")[0], network, drawn)
    point, spread, kept = sumcheck.prove_product(left, right, result.value, channel, "projection")
    folds = _folds(drawn, point)
    left, right = _inner_tables(witness, drawn, folds)
    inner, over, basis = sumcheck.prove_product(left, right, spread, channel, "projection inside")
    claims = [result, _kept(kept, network, drawn, point), *_inside(over, basis, network, drawn, folds, inner)]
    if layers[0].spec.is_committed:
        pairs = _draw_pairs(layers, channel)
        left, right = _basis_tables(witness, pairs)
        result = _products(channel.send([field.dot(left, right)], "basis")[0], network, pairs)
        left_over = sumcheck.prove_product(left, right, result.value, channel, "basis")
        claims += [result, *_sides(network, pairs, left_over)]
    return claims


def verify(network: Network, channel: VerifierChannel) -> list[Claim]:
    """The verifier's side: the same claims."""
    s = network.layout.statement
    layers = galore.layers(s)
    if not layers:
        return []
    drawn = _draw(layers, channel)
    result = _result(channel.receive(1, "projection")[0], network, drawn)
    variables = drawn.sample_stack.variables
    point, spread, kept = sumcheck.verify_product(variables, result.value, channel, "projection")
    folds = _folds(drawn, point)
    inner, over, basis = sumcheck.verify_product(drawn.inner_stack.variables, spread, channel, "projection inside")
    claims = [result, _kept(kept, network, drawn, point), *_inside(over, basis, network, drawn, folds, inner)]
    if layers[0].spec.is_committed:
        pairs = _draw_pairs(layers, channel)
        result = _products(channel.receive(1, "basis")[0], network, pairs)
        claims += [
            result,
            *_sides(network, pairs, sumcheck.verify_product(pairs.stack.variables, result.value, channel, "basis")),
        ]
    return claims


@dataclass(frozen=True)
class _Drawn:
    """The challenges of the projections; lists run over layers."""

    layers: list[Projected]
    units: list[Array]  # weights of kept units
    places: list[Array]  # weights of (step, place)
    scales: list[int]

    @property
    def sample_stack(self) -> Stack:
        """One table a layer over samples."""
        s = self.layers[0].statement
        return stack([padded(s.steps * s.batch)] * len(self.layers))

    @property
    def inner_stack(self) -> Stack:
        """One table a layer over (inner unit, step), the step lowest."""
        return stack([padded(layer.over) * padded(layer.statement.steps) for layer in self.layers])


def _draw(layers: list[Projected], channel: Channel) -> _Drawn:
    units = channel.challenges("projection units", (max(layer.kept for layer in layers) - 1).bit_length())
    places = channel.challenges("projection places", (max(layer.samples for layer in layers) - 1).bit_length())
    scales = field.to_ints(field.powers(channel.challenge("projection layers"), len(layers)))
    kept = [random_weights(units, layer.kept) for layer in layers]
    return _Drawn(layers, kept, [random_weights(places, layer.samples) for layer in layers], scales)


def _over(layer: Projected) -> Tensor:
    """The factor that the basis is multiplied with."""
    return Tensor("activation" if layer.is_left else "gradient", layer.layer)


def _beside(layer: Projected) -> Tensor:
    """The factor whose units are kept."""
    return Tensor("gradient" if layer.is_left else "activation", layer.layer)


def _sample_tables(witness: Witness, drawn: _Drawn) -> tuple[Array, Array]:
    """The activations times P v, scaled, and the gradients times u: stacks over samples."""
    s, laid = drawn.layers[0].statement, drawn.sample_stack
    at = place_of(witness.tensor(_over(drawn.layers[0])))
    left, right = (at.zeros((1 << laid.variables, 4), np.uint64) for _ in range(2))
    for i, layer in enumerate(drawn.layers):
        basis = field.mul(_weighed_basis(witness, drawn, i), drawn.scales[i])
        over, begin, count = witness.tensor(_over(layer)), laid.offsets[i], s.steps * s.batch
        for t in range(s.steps):
            rows = contiguous(over[:, t * s.batch : (t + 1) * s.batch])
            left[begin + t * s.batch : begin + (t + 1) * s.batch] = at.put(field.combine(contiguous(basis[:, t]), rows))
        right[begin : begin + count] = at.put(field.combine(drawn.units[i], witness.tensor(_beside(layer)))[:count])
    return left, right


def _weighed_basis(witness: Witness, drawn: _Drawn, i: int) -> Array:
    """P v of layer i: (inner units, steps, 4)."""
    layer = drawn.layers[i]
    return field.segment_dot(drawn.places[i], witness.tensor(Tensor("basis", layer.layer)), layer.statement.steps, layer.rank)


def _result(value: Linear, network: Network, drawn: _Drawn) -> Claim:
    """The weighed sum of all projected gradients is `value`."""
    claim, named = Claim(value), network.layout.named
    for layer, units, places, scale in zip(drawn.layers, drawn.units, drawn.places, drawn.scales, strict=True):
        name, shift = f"projected{layer.layer}", layer.spec.shift
        add_signed(claim, named[name], scale << shift, units, places)
        add_limbs(claim, named, f"{name}.rest", scale, shift, units, places)
        claim.add_constant(-(scale << (shift - 1)) * field.total(units) * field.total(places))
    return claim


def _kept(value: Linear, network: Network, drawn: _Drawn, point: list[int]) -> Claim:
    """The right factor's value at the point, of the kept tensors."""
    s, claim = drawn.layers[0].statement, Claim(value)
    samples = random_weights(point, s.steps * s.batch)
    for layer, units, prefix in zip(drawn.layers, drawn.units, drawn.sample_stack.prefixes(point), strict=True):
        network.add(claim, _beside(layer), field.mul(units, prefix), samples)
    return claim


def _folds(drawn: _Drawn, point: list[int]) -> list[Array]:
    """With what each sample of each layer enters the left factor's value at the point."""
    s = drawn.layers[0].statement
    samples = random_weights(point, s.steps * s.batch)
    prefixes = drawn.sample_stack.prefixes(point)
    return [field.mul(samples, prefix * scale) for prefix, scale in zip(prefixes, drawn.scales, strict=True)]


def _inner_tables(witness: Witness, drawn: _Drawn, folds: list[Array]) -> tuple[Array, Array]:
    """The activations folded over each step's samples, and P v: stacks over (inner unit, step)."""
    s, laid = drawn.layers[0].statement, drawn.inner_stack
    at = place_of(witness.tensor(_over(drawn.layers[0])))
    left, right = (at.zeros((1 << laid.variables, 4), np.uint64) for _ in range(2))
    for i, layer in enumerate(drawn.layers):
        folded = field.segment_dot(folds[i], witness.tensor(_over(layer)), s.steps, s.batch)
        for table, values in ((left, folded), (right, _weighed_basis(witness, drawn, i))):
            table[laid.span(i)].reshape(-1, padded(s.steps), 4)[: len(values), : s.steps] = at.put(values)
    return left, right


def _inside(
    over: Linear, basis: Linear, network: Network, drawn: _Drawn, folds: list[Array], point: list[int]
) -> tuple[Claim, Claim]:
    """The two values that the second sumcheck leaves, of the activations and of the bases."""
    s = drawn.layers[0].statement
    steps = random_weights(point, s.steps)
    first, second = Claim(over), Claim(basis)
    for layer, places, fold, prefix in zip(drawn.layers, drawn.places, folds, drawn.inner_stack.prefixes(point), strict=True):
        inner = field.mul(random_weights(point[(s.steps - 1).bit_length() :], layer.over), prefix)
        network.add(first, _over(layer), inner, field.mul(fold, np.repeat(steps, s.batch, axis=0)))
        network.add(second, Tensor("basis", layer.layer), inner, field.mul(places, np.repeat(steps, layer.rank, axis=0)))
    return first, second


@dataclass(frozen=True)
class _Pairs:
    """The challenges of orthonormality; lists run over layers."""

    layers: list[Projected]
    firsts: list[Array]  # weights of (period, place)
    seconds: list[Array]  # weights of places
    scales: list[int]

    @property
    def stack(self) -> Stack:
        """One table a layer over (inner unit, period), the period lowest."""
        return stack([padded(layer.over) * padded(layer.periods) for layer in self.layers])


def _draw_pairs(layers: list[Projected], channel: Channel) -> _Pairs:
    periods = layers[0].periods
    firsts = channel.challenges("basis places", (periods * max(layer.rank for layer in layers) - 1).bit_length())
    seconds = channel.challenges("basis pairs", (max(layer.rank for layer in layers) - 1).bit_length())
    scales = field.to_ints(field.powers(channel.challenge("basis layers"), len(layers)))
    weights = [random_weights(firsts, periods * layer.rank) for layer in layers]
    return _Pairs(layers, weights, [random_weights(seconds, layer.rank) for layer in layers], scales)


def _basis_tables(witness: Witness, pairs: _Pairs) -> tuple[Array, Array]:
    """P times each of the two weights: stacks over (inner unit, period)."""
    laid, periods = pairs.stack, pairs.layers[0].periods
    left, right = (field.zeros(1 << laid.variables) for _ in range(2))
    for i, layer in enumerate(pairs.layers):
        basis = witness.bases(layer)
        seconds = np.tile(pairs.seconds[i], (periods, 1))
        for table, weights in ((left, field.mul(pairs.firsts[i], pairs.scales[i])), (right, seconds)):
            values = field.segment_dot(weights, basis, periods, layer.rank)
            table[laid.span(i)].reshape(-1, padded(periods), 4)[: layer.over, :periods] = place_of(values).get(values)
    return left, right


def _products(value: Linear, network: Network, pairs: _Pairs) -> Claim:
    """The weighed sum of all products of two columns is `value`."""
    claim, named = Claim(value), network.layout.named
    for layer, firsts, seconds, scale in zip(pairs.layers, pairs.firsts, pairs.seconds, pairs.scales, strict=True):
        claim.add_block(named[f"basis{layer.layer}.products"], scale, seconds, firsts)
        claim.add_constant(-scale * layer.spec.product_bound * field.total(seconds) * field.total(firsts))
        same = field.dot(firsts, np.tile(seconds, (layer.periods, 1)))
        claim.add_constant((scale << (2 * layer.spec.basis_bits)) * same)
    return claim


def _sides(network: Network, pairs: _Pairs, left_over: tuple[Sequence[int], Linear, Linear]) -> tuple[Claim, Claim]:
    """The values of P times either weight at the point."""
    point, first, second = left_over
    named, periods = network.layout.named, pairs.layers[0].periods
    at_period = random_weights(point, periods)
    left, right = Claim(first), Claim(second)
    for layer, firsts, seconds, scale, prefix in zip(
        pairs.layers, pairs.firsts, pairs.seconds, pairs.scales, pairs.stack.prefixes(point), strict=True
    ):
        inner = field.mul(random_weights(point[(periods - 1).bit_length() :], layer.over), prefix)
        spread = np.repeat(at_period, layer.rank, axis=0)
        galore.add_period_basis(layer, named, left, inner, field.mul(field.mul(firsts, spread), scale))
        galore.add_period_basis(layer, named, right, inner, field.mul(np.tile(seconds, (periods, 1)), spread))
    return left, right
