"""GaLore's field `energy` = k: a basis captures at least k / 256 of the gradient's energy in the step at which it begins.

    2^(2 shift) sum of R^2  >=  k / 256 * 2^(2p) sum of D^2,      D = [A, 2^f]^T G of a period's first step, in each layer

R is the committed projected gradient, so what is proved is that of P^T D rounded to multiples of 2^shift; that of P^T D itself
is (|R| +- sqrt(entries of R) / 2)^2 2^(2 shift). P's columns have the length 2^p up to what projection.py proves. In integers

    2^a sum of R^2 - k 2^c sum of D^2 = slack >= 0                        one slack a layer and period, in limbs

with the common power of two taken out. Weighed over layers and periods by w, the sum of w D^2 is one sumcheck over (input,
output, period) of w D times D. Both factors' values at its point are linear in D; joined by a challenge they are a second
sumcheck, over the samples of these steps, that leaves claims on A and G. Proving takes 96 bytes a weight and period.

Nothing wraps: in no statement that is in range does either side of the equation reach 2^210. Error: (2 layers + 6 n) / |F|."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zkaudit.zk import exact, field, sumcheck
from zkaudit.zk.backend import contiguous, place_of
from zkaudit.zk.block import padded
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.circuit import galore
from zkaudit.zk.circuit.arithmetic import Integers, add_limbs, split
from zkaudit.zk.circuit.galore import Projected
from zkaudit.zk.circuit.step import Tensor
from zkaudit.zk.claims import Claim, Form
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.linear import Linear
from zkaudit.zk.mle import random_weights
from zkaudit.zk.network import Network
from zkaudit.zk.stack import Stack, stack
from zkaudit.zk.statement import SIGNED, Statement

if TYPE_CHECKING:
    from zkaudit.zk.witness import Witness


def tables(witness: Witness) -> dict[str, Integers]:
    """The slacks' limbs, (1, periods) each; BadInput if a basis captures too little."""
    found: dict[str, Integers] = {}
    for layer in _layers(witness.layout.statement):
        values = slacks(witness, layer)
        for k, value in enumerate(values):
            if value < 0:
                step = layer.statement.first_step + k * layer.spec.gap
                share = f"{layer.spec.energy}/256 of its gradient's energy"
                raise BadInput(f"the basis of layer {layer.layer} that begins at step {step} captures less than {share}")
        found |= split(f"energy{layer.layer}", np.array([values], object), layer.energy_bits)
    return found


def slacks(witness: Witness, layer: Projected) -> list[int]:
    """By how much each period's basis captures more than it must; negative where it captures less."""
    projected = witness.tables[f"projected{layer.layer}"]
    signed = place_of(projected).get(projected)[: layer.kept].astype(np.int64) - SIGNED
    many, few = layer.energy_factors
    found = []
    for k in range(layer.periods):
        first = k * layer.spec.gap * layer.rank
        captured = int((signed[:, first : first + layer.rank] ** 2).sum())
        gradient = field.from_small(_gradient(witness, layer, k)).reshape(-1, 4)
        found.append(many * captured - few * field.dot(gradient, gradient))  # a sum below the modulus
    return found


def table_bytes(s: Statement) -> int:
    """Memory of the first sumcheck's tables and of what they are folded into."""
    layers = _layers(s)
    return 3 * 32 << _Drawn(layers, []).gradient_stack.variables if layers else 0


def prove(network: Network, witness: Witness, channel: ProverChannel) -> list[Claim]:
    """Prove that all bases capture enough; returns the claims left on tensors and blocks."""
    layers = _layers(network.layout.statement)
    if not layers:
        return []
    drawn = _draw(layers, channel)
    left, right = _gradient_tables(witness, drawn)
    total = channel.send([field.dot(left, right)], "energy")[0]
    point, first, second = sumcheck.prove_product(left, right, total, channel, "energy")
    folds = _folds(drawn, point, channel.challenge("energy sides"))
    left, right = _sample_tables(witness, drawn, folds)
    value = first + second * folds.join
    return [
        _result(total, network, drawn),
        *_sides(network, drawn, folds, sumcheck.prove_product(left, right, value, channel, "energy inside")),
    ]


def verify(network: Network, channel: VerifierChannel) -> list[Claim]:
    """The verifier's side: the same claims."""
    layers = _layers(network.layout.statement)
    if not layers:
        return []
    drawn = _draw(layers, channel)
    total = channel.receive(1, "energy")[0]
    point, first, second = sumcheck.verify_product(drawn.gradient_stack.variables, total, channel, "energy")
    folds = _folds(drawn, point, channel.challenge("energy sides"))
    value = first + second * folds.join
    left_over = sumcheck.verify_product(drawn.sample_stack.variables, value, channel, "energy inside")
    return [_result(total, network, drawn), *_sides(network, drawn, folds, left_over)]


def _layers(s: Statement) -> list[Projected]:
    """Those whose bases must capture something."""
    return [layer for layer in galore.layers(s) if layer.spec.energy]


@dataclass(frozen=True)
class _Drawn:
    """The weights of layers and periods; lists run over layers."""

    layers: list[Projected]
    periods: list[list[int]]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Inputs with the bias, and outputs."""
        widths = self.layers[0].statement.widths
        return [(widths[layer.layer] + 1, widths[layer.layer + 1]) for layer in self.layers]

    @property
    def gradient_stack(self) -> Stack:
        """One table a layer over (input, output, period), the period lowest."""
        count = padded(self.layers[0].periods)
        return stack([padded(inputs) * padded(outputs) * count for inputs, outputs in self.sizes])

    @property
    def sample_stack(self) -> Stack:
        """One table a layer over the samples of the periods' first steps."""
        return stack([padded(len(self.samples))] * len(self.layers))

    @property
    def samples(self) -> Integers:
        """The numbers of the samples of the periods' first steps."""
        layer = self.layers[0]
        return _samples(layer, range(layer.periods))


def _draw(layers: list[Projected], channel: Channel) -> _Drawn:
    weights = field.to_ints(channel.random_weights("energy periods", layers[0].periods))
    scales = field.to_ints(field.powers(channel.challenge("energy layers"), len(layers)))
    return _Drawn(layers, [[scale * weight % MODULUS for weight in weights] for scale in scales])


def _samples(layer: Projected, periods: Sequence[int]) -> Integers:
    batch = layer.statement.batch
    return (np.array(periods, np.int64)[:, None] * layer.spec.gap * batch + np.arange(batch)).reshape(-1)


def _gradient(witness: Witness, layer: Projected, k: int) -> Integers:
    """D of period k's first step, (inputs and bias, outputs)."""
    activation, gradient = (
        _at(witness, Tensor(kind, layer.layer), _samples(layer, [k])) for kind in ("activation", "gradient")
    )
    return contiguous(exact.product(activation.astype(np.int64), gradient.astype(np.int64).T))  # type: ignore[no-any-return]


def _at(witness: Witness, tensor: Tensor, samples: Integers) -> Any:
    """A tensor at some samples."""
    table = witness.tensor(tensor)
    return contiguous(place_of(table).get(table)[:, samples])


def _gradient_tables(witness: Witness, drawn: _Drawn) -> tuple[Array, Array]:
    """w D and D: stacks over (input, output, period)."""
    laid, count = drawn.gradient_stack, padded(drawn.layers[0].periods)
    left, right = (field.zeros(1 << laid.variables) for _ in range(2))
    for i, (layer, (inputs, outputs)) in enumerate(zip(drawn.layers, drawn.sizes, strict=True)):
        for k, weight in enumerate(drawn.periods[i]):
            values = field.from_small(_gradient(witness, layer, k))
            for table, scaled in ((left, field.mul(values.reshape(-1, 4), weight).reshape(values.shape)), (right, values)):
                table[laid.span(i)].reshape(-1, padded(outputs), count, 4)[:inputs, :outputs, k] = scaled
    return left, right


def _result(total: Linear, network: Network, drawn: _Drawn) -> Claim:
    """The weighed sum of 2^a R^2 less the slacks is k 2^c times that of D^2."""
    many, few = drawn.layers[0].energy_factors
    claim, named, one = Claim(total * few), network.layout.named, field.full(1, 1)
    for layer, weights in zip(drawn.layers, drawn.periods, strict=True):
        name, periods = f"projected{layer.layer}", field.from_ints(weights)
        signed, every = Form(-SIGNED, ((1, name),)), field.full(layer.kept, 1)
        places = layer.first_steps(np.repeat(periods, layer.rank, axis=0))
        claim.add_product(named[name], signed, signed, many, every, places)
        add_limbs(claim, named, f"energy{layer.layer}", -1, layer.energy_bits, one, periods)
    return claim


@dataclass(frozen=True)
class _Folds:
    """With what D enters the first sumcheck's joined values: the weights of inputs, outputs and periods; lists over layers."""

    join: int
    inputs: list[Array]
    outputs: list[Array]
    periods: list[Array]


def _folds(drawn: _Drawn, point: Sequence[int], join: int) -> _Folds:
    folds, count = _Folds(join, [], [], []), drawn.layers[0].periods
    at_output = (count - 1).bit_length()
    periods = field.to_ints(random_weights(point, count))
    for (inputs, outputs), weights, prefix in zip(
        drawn.sizes, drawn.periods, drawn.gradient_stack.prefixes(point), strict=True
    ):
        at_input = at_output + (outputs - 1).bit_length()
        folds.inputs.append(random_weights(point[at_input:], inputs))
        folds.outputs.append(random_weights(point[at_output:], outputs))
        folds.periods.append(field.from_ints([prefix * p * (w + join) for p, w in zip(periods, weights, strict=True)]))
    return folds


def _sample_tables(witness: Witness, drawn: _Drawn, folds: _Folds) -> tuple[Array, Array]:
    """The activations times the inputs' and periods' weights, and the gradients times the outputs': stacks over samples."""
    laid, samples, batch = drawn.sample_stack, drawn.samples, drawn.layers[0].statement.batch
    left, right = (field.zeros(1 << laid.variables) for _ in range(2))
    for i, layer in enumerate(drawn.layers):
        used = slice(laid.offsets[i], laid.offsets[i] + len(samples))
        activation, gradient = (_at(witness, Tensor(kind, layer.layer), samples) for kind in ("activation", "gradient"))
        left[used] = field.mul(field.combine(folds.inputs[i], activation), np.repeat(folds.periods[i], batch, axis=0))
        right[used] = field.combine(folds.outputs[i], gradient)
    return left, right


def _sides(
    network: Network, drawn: _Drawn, folds: _Folds, left_over: tuple[Sequence[int], Linear, Linear]
) -> tuple[Claim, Claim]:
    """The values of the second sumcheck's factors, of the activations and of the gradients."""
    point, over, beside = left_over
    s, samples = drawn.layers[0].statement, drawn.samples
    first, second = Claim(over), Claim(beside)
    weights = random_weights(point, len(samples))
    for i, (layer, prefix) in enumerate(zip(drawn.layers, drawn.sample_stack.prefixes(point), strict=True)):
        here = field.mul(weights, prefix)
        scaled = field.mul(here, np.repeat(folds.periods[i], s.batch, axis=0))
        for claim, kind, units, values in (
            (first, "activation", folds.inputs[i], scaled), (second, "gradient", folds.outputs[i], here),
        ):  # fmt: skip
            spread = field.scatter_add(values, samples, s.steps * s.batch)
            network.add(claim, Tensor(kind, layer.layer), units, spread)
    return first, second
