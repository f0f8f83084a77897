"""Update history: claims on weights at any step, settled without committing weights between start and end.

Training whose update is linear in a history of pairs (X, Y) with public coefficients has

    W_j[t] = W_j[0] - sum over s < t of c_s X_j[s]^T Y_j[s]

so that a claim on weights at all steps at once,

    sum over t of tau[t] <W_j[t], x x y> = (sum of tau) <W_j[0], x x y> - sum over samples of kappa (X_j x)(Y_j y),
    kappa[s, b] = c_s * sum over t > s of tau[t],

is a claim on the start weights and a sumcheck over (claim, layer, sample): its cost depends on samples, not on parameters.
Another linear optimizer is another kernel kappa; SGD's pairs are X = [A, 2^f] and Y = G, and other methods' are in
circuit/step.py. The end weights are one more claim,
with all of tau on the last step. Error: (claims + 2 n + 2 log2 width + layers) / |F|."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zkaudit.zk import field, sumcheck
from zkaudit.zk.backend import place_of
from zkaudit.zk.block import padded
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.circuit import step
from zkaudit.zk.circuit.step import Pair
from zkaudit.zk.claims import Claim
from zkaudit.zk.field import Array
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear, combination
from zkaudit.zk.mle import random_weights
from zkaudit.zk.network import Network
from zkaudit.zk.stack import Stack, stack
from zkaudit.zk.witness import Witness


@dataclass(frozen=True)
class WeightTerm:
    """sum over t of taus[t] <W[t], inputs x outputs>: taus (steps + 1, 4), inputs (rows, 4), outputs (columns, 4)."""

    matrix: int
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
    """One term with its kernel: kappa (its pair's samples, 4), the claim's power included, and that power times the sum of
    taus. Frozen matrices have no pair and no history."""

    term: WeightTerm
    pair: Pair | None
    kappa: Array
    start: int


def prove(network: Network, witness: Witness, weight_claims: list[WeightClaim], channel: ProverChannel) -> list[Claim]:
    """Settle claims on weights at all steps and the end weights; returns the claims left on tensors and committed weights."""
    end = _draw_end(network.layout, channel)
    value = channel.send([_evaluate_end(witness, end)], "end weights")[0]
    entries, powers = _entries(network, [*weight_claims, WeightClaim(value, end)], channel)
    updated = [entry for entry in entries if entry.pair]
    laid = _stack(updated)
    at, shape = place_of(witness.activation(0)), (1 << laid.variables, 4)
    left, right = at.zeros(shape, np.uint64), at.zeros(shape, np.uint64)
    for entry, offset in zip(updated, laid.offsets, strict=True):
        assert entry.pair
        span = slice(offset, offset + len(entry.kappa))
        pairs = field.combine(entry.term.inputs, witness.tensor(entry.pair.left))[: len(entry.kappa)]
        left[span] = at.put(field.mul(entry.kappa, pairs))
        right[span] = at.put(field.combine(entry.term.outputs, witness.tensor(entry.pair.right))[: len(entry.kappa)])
    history = channel.send([field.dot(left, right)], "update history")[0]
    left_over = sumcheck.prove_product(left, right, history, channel, "update history")
    weights = _weight_claims(network, entries, [*weight_claims, WeightClaim(value, end)], powers, history)
    return [*weights, *_split(left_over, laid, updated, network)]


def verify(network: Network, weight_claims: list[WeightClaim], channel: VerifierChannel) -> list[Claim]:
    """The verifier's side: the same claims."""
    end = _draw_end(network.layout, channel)
    value = channel.receive(1, "end weights")[0]
    entries, powers = _entries(network, [*weight_claims, WeightClaim(value, end)], channel)
    updated = [entry for entry in entries if entry.pair]
    laid = _stack(updated)
    history = channel.receive(1, "update history")[0]
    left_over = sumcheck.verify_product(laid.variables, history, channel, "update history")
    weights = _weight_claims(network, entries, [*weight_claims, WeightClaim(value, end)], powers, history)
    return [*weights, *_split(left_over, laid, updated, network)]


def random_matrices(layout: Layout, chosen: Sequence[int], channel: Channel, label: str) -> list[tuple[int, int, Array, Array]]:
    """For each chosen matrix its number, a scale, and random weights of its rows and of its columns."""
    matrices = [layout.matrices[m] for m in chosen]
    inputs = channel.challenges(f"{label} inputs", (max(matrix.rows for matrix in matrices) - 1).bit_length())
    outputs = channel.challenges(f"{label} outputs", (max(matrix.columns for matrix in matrices) - 1).bit_length())
    scales = field.to_ints(field.powers(channel.challenge(f"{label} layers"), len(matrices)))
    drawn = []
    for m, matrix, scale in zip(chosen, matrices, scales, strict=True):
        drawn.append((m, scale, random_weights(inputs, matrix.rows), random_weights(outputs, matrix.columns)))
    return drawn


def _draw_end(layout: Layout, channel: Channel) -> list[WeightTerm]:
    terms = []
    for m, scale, inputs, outputs in random_matrices(layout, layout.trained, channel, "end weights"):
        taus = np.concatenate([field.zeros(layout.statement.steps), field.from_ints([scale])])
        terms.append(WeightTerm(m, taus, inputs, outputs))
    return terms


def _evaluate_end(witness: Witness, end: list[WeightTerm]) -> int:
    values = [field.evaluate_small(witness.end[term.matrix], term.inputs, term.outputs) for term in end]
    return sum(field.to_ints(term.taus[-1:])[0] * value for term, value in zip(end, values, strict=True))


def _entries(network: Network, weight_claims: list[WeightClaim], channel: Channel) -> tuple[list[_Entry], list[int]]:
    powers = field.to_ints(field.powers(channel.challenge("weight claims"), len(weight_claims)))
    pairs, entries = step.pairs(network.layout), []
    for power, claim in zip(powers, weight_claims, strict=True):
        for term in claim.terms:
            total, pair = field.total(term.taus), pairs.get(term.matrix)
            if pair is None:
                entries.append(_Entry(term, None, field.zeros(0), power * total))
                continue
            before = field.exclusive_cumsum(term.taus[None])[0]
            later = field.sub(field.full(len(pair.rates), total), before[1:])
            kappa = field.mul(field.mul(later, field.from_ints(pair.rates)), power)
            entries.append(_Entry(term, pair, np.repeat(kappa, pair.per_step, axis=0), power * total))
    return entries, powers


def _stack(updated: list[_Entry]) -> Stack:
    """One table an entry over its pair's samples."""
    return stack([padded(len(entry.kappa)) for entry in updated])


def _weight_claims(
    network: Network, entries: list[_Entry], weight_claims: list[WeightClaim], powers: list[int], history: Linear
) -> list[Claim]:
    """The claims' values plus the history are claims on the start weights; the last of them is about the end weights."""
    values = [(power, claim.value) for power, claim in zip(powers, weight_claims, strict=True)]
    start, end = Claim(combination([*values, (1, history)])), Claim(weight_claims[-1].value)
    for entry in entries:
        network.weights(start, "start", entry.term.matrix, entry.start, entry.term.inputs, entry.term.outputs)
    for term in weight_claims[-1].terms:
        network.weights(end, "end", term.matrix, field.to_ints(term.taus[-1:])[0], term.inputs, term.outputs)
    return [start, end]


def _split(left_over: tuple[list[int], Linear, Linear], laid: Stack, updated: list[_Entry], network: Network) -> list[Claim]:
    """The history's last claim is a product of two values: one of the X side with its kernel, one of the Y side."""
    point, left, right = left_over
    x, y = Claim(left), Claim(right)
    for entry, prefix in zip(updated, laid.prefixes(point), strict=True):
        assert entry.pair
        samples = random_weights(point, len(entry.kappa))
        network.add(x, entry.pair.left, field.mul(entry.term.inputs, prefix), field.mul(entry.kappa, samples))
        network.add(y, entry.pair.right, field.mul(entry.term.outputs, prefix), samples)
    return [x, y]
