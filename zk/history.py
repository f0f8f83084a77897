"""Update history: claims on weights at any step, settled without committing weights between start and end.

Training whose update is linear in a history of pairs (X, Y) with public coefficients has

    W_j[t] = W_j[0] - sum over s < t of c_s X_j[s]^T Y_j[s]

so that a claim on weights at all steps at once,

    sum over t of tau[t] <W_j[t], x x y> = (sum of tau) <W_j[0], x x y> - sum over samples of kappa (X_j x)(Y_j y),
    kappa[s, b] = c_s * sum over t > s of tau[t],

is a claim on the start weights and a sumcheck over (claim, layer, sample): its cost depends on samples, not on parameters.
Another linear optimizer is another kernel kappa; SGD's pairs are X = [A, 2^f] and Y = G. The end weights are one more claim,
with all of tau on the last step. Error: (claims + 2 n + 2 log2 width + layers) / |F|."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zkaudit.zk import field, mle, sumcheck
from zkaudit.zk.backend import place_of
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.claims import Claim
from zkaudit.zk.field import Array
from zkaudit.zk.linear import Linear, combination
from zkaudit.zk.mle import random_weights
from zkaudit.zk.network import Network
from zkaudit.zk.stack import Stack, stack
from zkaudit.zk.statement import Statement
from zkaudit.zk.witness import Witness


@dataclass(frozen=True)
class WeightTerm:
    """sum over t of taus[t] <W_layer[t], inputs x outputs>: taus (steps + 1, 4), inputs (d + 1, 4), outputs (d', 4)."""

    layer: int
    taus: Array
    inputs: Array
    outputs: Array


@dataclass(frozen=True)
class WeightClaim:
    """The terms add up to `value`."""

    value: Linear
    terms: list[WeightTerm]


@dataclass(frozen=True)
class _Entry:
    """One term with its kernel: kappa (steps * batch, 4), the claim's power included, and that power times the sum of taus."""

    term: WeightTerm
    kappa: Array
    start: int


def prove(network: Network, witness: Witness, weight_claims: list[WeightClaim], channel: ProverChannel) -> list[Claim]:
    """Settle claims on weights at all steps and the end weights; returns the claims left on tensors and committed weights."""
    end = _draw_end(network.layout.statement, channel)
    value = channel.send([_evaluate_end(witness, end)], "end weights")[0]
    entries, laid, powers = _entries(network, [*weight_claims, WeightClaim(value, end)], channel)
    used = network.layout.statement.steps * network.layout.statement.batch
    at, shape = place_of(witness.activation(0)), (1 << laid.variables, 4)
    left, right = at.zeros(shape, np.uint64), at.zeros(shape, np.uint64)
    for entry, offset in zip(entries, laid.offsets, strict=True):
        term = entry.term
        pairs = field.combine(term.inputs, witness.activation(term.layer))[:used]
        left[offset : offset + used] = at.put(field.mul(entry.kappa, pairs))
        right[offset : offset + used] = at.put(field.combine(term.outputs, witness.gradient(term.layer))[:used])
    history = channel.send([field.dot(left, right)], "update history")[0]
    point, rest = sumcheck.prove([sumcheck.Products([left, right], [(0, 1)])], 2, history, channel, "update history")
    values = [mle.evaluate(left, point), mle.evaluate(right, point)]
    message = channel.send([*values, values[0] * values[1]], "update history")
    weights = _weight_claims(network, entries, [*weight_claims, WeightClaim(value, end)], powers, history)
    return [*weights, *_split(message, rest, point, laid, entries, network, channel)]


def verify(network: Network, weight_claims: list[WeightClaim], channel: VerifierChannel) -> list[Claim]:
    """The verifier's side: the same claims."""
    end = _draw_end(network.layout.statement, channel)
    value = channel.receive(1, "end weights")[0]
    entries, laid, powers = _entries(network, [*weight_claims, WeightClaim(value, end)], channel)
    history = channel.receive(1, "update history")[0]
    point, rest = sumcheck.verify(laid.variables, 2, history, channel, "update history")
    message = channel.receive(3, "update history")
    weights = _weight_claims(network, entries, [*weight_claims, WeightClaim(value, end)], powers, history)
    return [*weights, *_split(message, rest, point, laid, entries, network, channel)]


def random_layers(s: Statement, channel: Channel, label: str) -> list[tuple[int, Array, Array]]:
    """For each layer a scale and random weights of its inputs with the bias, and of its outputs."""
    inputs = channel.challenges(f"{label} inputs", max(s.widths[:-1]).bit_length())
    outputs = channel.challenges(f"{label} outputs", (max(s.widths[1:]) - 1).bit_length())
    scales = field.to_ints(field.powers(channel.challenge(f"{label} layers"), s.layers))
    drawn = []
    for scale, d, units in zip(scales, s.widths, s.widths[1:], strict=False):
        drawn.append((scale, random_weights(inputs, d + 1), random_weights(outputs, units)))
    return drawn


def _draw_end(s: Statement, channel: Channel) -> list[WeightTerm]:
    terms = []
    for j, (scale, inputs, outputs) in enumerate(random_layers(s, channel, "end weights")):
        taus = np.concatenate([field.zeros(s.steps), field.from_ints([scale])])
        terms.append(WeightTerm(j, taus, inputs, outputs))
    return terms


def _evaluate_end(witness: Witness, end: list[WeightTerm]) -> int:
    values = [field.evaluate_small(witness.end[term.layer], term.inputs, term.outputs) for term in end]
    return sum(field.to_ints(term.taus[-1:])[0] * value for term, value in zip(end, values, strict=True))


def _entries(network: Network, weight_claims: list[WeightClaim], channel: Channel) -> tuple[list[_Entry], Stack, list[int]]:
    s = network.layout.statement
    powers = field.to_ints(field.powers(channel.challenge("weight claims"), len(weight_claims)))
    rates, entries = field.from_ints(s.rates), []
    for power, claim in zip(powers, weight_claims, strict=True):
        for term in claim.terms:
            total = field.total(term.taus)
            before = field.exclusive_cumsum(term.taus[None])[0]
            later = field.sub(field.full(s.steps, total), before[1:])
            kappa = field.mul(field.mul(later, rates), power)
            entries.append(_Entry(term, np.repeat(kappa, s.batch, axis=0), power * total))
    return entries, stack([network.layout.samples] * len(entries)), powers


def _weight_claims(
    network: Network, entries: list[_Entry], weight_claims: list[WeightClaim], powers: list[int], history: Linear
) -> list[Claim]:
    """The claims' values plus the history are claims on the start weights; the last of them is about the end weights."""
    values = [(power, claim.value) for power, claim in zip(powers, weight_claims, strict=True)]
    start, end = Claim(combination([*values, (1, history)])), Claim(weight_claims[-1].value)
    for entry in entries:
        network.weights(start, "start", entry.term.layer, entry.start, entry.term.inputs, entry.term.outputs)
    for term in weight_claims[-1].terms:
        network.weights(end, "end", term.layer, field.to_ints(term.taus[-1:])[0], term.inputs, term.outputs)
    return [start, end]


def _split(
    message: list[Linear],
    rest: Linear,
    point: list[int],
    laid: Stack,
    entries: list[_Entry],
    network: Network,
    channel: Channel,
) -> list[Claim]:
    """The history's last claim is a product of two values: one of the X side with its kernel, one of the Y side."""
    left, right, product = message
    channel.require_product(left, right, product, "update history")
    channel.require_zero(product - rest, "update history")
    s = network.layout.statement
    samples = random_weights(point, s.steps * s.batch)
    x, y = Claim(left), Claim(right)
    for entry, prefix in zip(entries, laid.prefixes(point), strict=True):
        network.activation(x, entry.term.layer, field.mul(entry.term.inputs, prefix), field.mul(entry.kappa, samples))
        network.gradient(y, entry.term.layer, field.mul(entry.term.outputs, prefix), samples)
    return [x, y]
