"""The loss layer's relations, over classes o and samples, and the ranges that hold once a chain.

Softmax cross-entropy (committed: maximum m, distance d, exponential e, one-hot h, sum S, quotient q, remainders rho and sigma):

    m - Z'_o = d_o in [0, 2^16),  h_o a bit,  sum_o h_o = 1,  sum_o h_o d_o = 0             m is the maximum of Z'
    e_o = floor(2^16 exp(-d_o / 2^f))                                                     by lookup of the pair (d, e)
    S_o = sum of all e,  2^g e_o = q_o S_o + rho_o,  rho_o >= 0,  sigma_o = S_o - 1 - rho_o >= 0

and the gradient is q_o - 2^g y_o. S, one number a sample, stands beside each class: products join blocks of one shape. The
square loss has no relation of its own: its gradient is (Z' - Y) 2^(g-f). In the first segment start weights are recomposed
from their range-checked limbs, and targets of cross-entropy are one-hot. Each claim below is weighed with fresh random vectors
over valid entries. Error: (claims + n) / |F|."""

from __future__ import annotations

from zkaudit.zk import field
from zkaudit.zk.block import LIMB
from zkaudit.zk.channel import Channel
from zkaudit.zk.circuit.arithmetic import add_limbs
from zkaudit.zk.claims import Claim, Form
from zkaudit.zk.field import Array
from zkaudit.zk.history import random_matrices
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear
from zkaudit.zk.network import Network
from zkaudit.zk.statement import WEIGHT_MARGIN


def loss_claims(layout: Layout, channel: Channel) -> list[Claim]:
    """Softmax cross-entropy's relations; none for the square loss."""
    s, named = layout.statement, layout.named
    if s.loss == "square":
        return []
    classes = s.widths[-1]
    count = s.steps * s.batch
    every = field.full(classes, 1)

    def weights() -> tuple[Array, Array]:
        units = channel.random_weights("loss units", classes)
        return units, channel.random_weights("loss samples", count)

    def claim(value: int = 0) -> Claim:
        return Claim(Linear({}, value))

    units, samples = weights()
    bit = claim()
    bit.add_product(named["h"], Form(0, ((1, "h"),)), Form(1, ((-1, "h"),)), 1, units, samples)

    _, samples = weights()
    one_hot = claim(field.total(samples))
    one_hot.add_block(named["h"], 1, every, samples)

    _, samples = weights()
    at_maximum = claim()
    at_maximum.add_product(named["h"], Form(0, ((1, "h"),)), Form(0, ((1, "d"),)), 1, every, samples)

    units, samples = weights()
    total = claim()
    total.add_block(named["e"], field.total(units), every, samples)
    total.add_block(named["s"], -1, units, samples)

    units, samples = weights()
    division = claim()
    division.add_block(named["e"], 1 << s.gradient_bits, units, samples)
    division.add_product(named["q"], Form(0, ((1, "q"),)), Form(0, ((1, "s"),)), -1, units, samples)
    add_limbs(division, named, "rho", -1, 2 * LIMB, units, samples)

    units, samples = weights()
    below = claim(field.total(units) * field.total(samples))
    below.add_block(named["s"], 1, units, samples)
    add_limbs(below, named, "rho", -1, 2 * LIMB, units, samples)
    add_limbs(below, named, "sigma", -1, 2 * LIMB, units, samples)
    return [bit, one_hot, at_maximum, total, division, below]


def first_segment_claims(network: Network, channel: Channel) -> list[Claim]:
    """Start weights equal their limbs minus the offset; targets of cross-entropy have one one a row."""
    layout = network.layout
    s, named = layout.statement, layout.named
    if s.segment:
        return []
    width = s.weight_bits + WEIGHT_MARGIN + 1
    start, every = Claim(Linear()), list(range(len(layout.matrices)))
    for m, scale, inputs, outputs in random_matrices(layout, every, channel, "start weights"):
        network.weights(start, "start", m, scale, inputs, outputs)
        matrix = layout.matrices[m]
        name, units = f"{layout.prefix(m, 'start')}{matrix.name}", inputs[:-1] if matrix.has_bias else inputs
        add_limbs(start, named, name, -scale, width, outputs, units)
        if matrix.has_bias:
            bias = field.to_ints(inputs[-1:])[0]
            add_limbs(start, named, f"{name}.bias", -(scale * bias), width, field.full(1, 1), outputs)
        start.add_constant((scale << (width - 1)) * field.total(inputs) * field.total(outputs))
    if s.loss == "square":
        return [start]
    rows = channel.random_weights("label rows", s.rows)
    labels = Claim(Linear({}, field.total(rows)))
    labels.add_block(named["y"], 1, field.full(s.widths[-1], 1), rows)
    return [start, labels]
