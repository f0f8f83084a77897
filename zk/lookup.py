"""Lookups by logUp, proved by GKR. Claim: every looked-up entry lies in its table. Reduces to claims on the blocks at one
point.

With challenges gamma, beta a row (v0, v1) looked up in table number k has the fingerprint v0 + beta v1 + beta^2 k, and

    sum over looked-up rows of 1 / (gamma - fingerprint) = sum over table rows of count / (gamma - fingerprint)

holds as an identity in gamma exactly if every looked-up row is a table row (fewer rows than the characteristic). Both sides
form one tree of fractions whose root must have numerator zero; multiplicities are committed before gamma is drawn. The root's
denominator need not be opened: it is the true product of the leaves, which are fixed before gamma, so it vanishes with
probability rows / |F|. A layer of the tree is one sumcheck over its gates with the eq factor taken out of the messages (Gruen
2024). Sources: Haböck 2022 (logUp), Papini and Haböck 2023 (with GKR). Error: (rows + 3 layers^2) / |F|."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zkaudit.zk import field, kernels, mle
from zkaudit.zk.backend import empty
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.claims import Claim
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.layout import EXPONENTIAL, Layout, exponential_table, table_bits
from zkaudit.zk.linear import Linear, combination, polynomial_at
from zkaudit.zk.stack import Stack, stack


def count(layout: Layout, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Multiplicity tables: how often each table row is looked up."""
    counts = {table: np.zeros(1 << table_bits(table), np.int64) for table in layout.tables}
    for lookup in layout.lookups:
        values, size = tables[lookup.blocks[0].name].reshape(-1), len(counts[lookup.table])
        inside = values[(values >= 0) & (values < size)] if values.dtype.kind == "i" else values[values < size]
        counts[lookup.table] += np.bincount(inside, minlength=size)
    return {f"count.{table}": values.reshape(1, -1) for table, values in counts.items()}


def prove(layout: Layout, tables: Mapping[str, Any], channel: ProverChannel) -> list[Claim]:
    """Prove all lookups of the layout; returns the claims on blocks and multiplicities."""
    gamma, beta = channel.challenges("lookup", 2)
    laid = _stack(layout)
    levels = [_leaves(layout, tables, laid, gamma, beta)]
    for _ in range(laid.variables):
        levels.append(kernels.fraction_layer(*levels[-1]))
    numerator, denominator = Linear(), channel.send(field.to_ints(levels.pop()[1]), "root")[0]
    point: list[int] = []
    while levels:
        p, q = _paired(*levels.pop())
        batch, claim = _begin_layer(numerator, denominator, channel)
        bound: list[int] = []
        for i in range(len(point)):
            rest = point[i + 1 :]
            low, high = mle.eq_table(rest[: len(rest) // 2]), mle.eq_table(rest[len(rest) // 2 :])
            at_zero, leading = kernels.fraction_round(p, q, batch, low, high)
            at_one = (channel.value(claim) - (1 - point[i]) * at_zero) * pow(point[i], -1, MODULUS)
            message = channel.send([at_zero, at_one - at_zero - leading, leading], "fractions")
            r, claim = _fold_claim(message, point[i], claim, channel)
            p, q = kernels.fraction_fold(p, q, r)
            bound.append(r)
        values = [*field.to_ints(p), *field.to_ints(q)]
        message = channel.send([*values, values[0] * values[3], values[2] * (values[1] + batch * values[3])], "gate")
        numerator, denominator, child = _end_layer(message, batch, claim, channel)
        point = [child, *bound]
    return _leaf_claims(layout, laid, point, gamma, beta, numerator, denominator)


def verify(layout: Layout, channel: VerifierChannel) -> list[Claim]:
    """The verifier's side: the same claims."""
    gamma, beta = channel.challenges("lookup", 2)
    laid = _stack(layout)
    numerator, denominator = Linear(), channel.receive(1, "root")[0]
    point: list[int] = []
    for _ in range(laid.variables):
        batch, claim = _begin_layer(numerator, denominator, channel)
        bound: list[int] = []
        for w in point:
            r, claim = _fold_claim(channel.receive(3, "fractions"), w, claim, channel)
            bound.append(r)
        numerator, denominator, child = _end_layer(channel.receive(6, "gate"), batch, claim, channel)
        point = [child, *bound]
    return _leaf_claims(layout, laid, point, gamma, beta, numerator, denominator)


def _begin_layer(numerator: Linear, denominator: Linear, channel: Channel) -> tuple[int, Linear]:
    batch = channel.challenge("fraction batch")
    return batch, combination([(1, numerator), (batch, denominator)])


def _fold_claim(message: list[Linear], w: int, claim: Linear, channel: Channel) -> tuple[int, Linear]:
    """The round polynomial is eq(w, X) h(X); `message` holds the coefficients of h, and the next claim is h(r)."""
    at_one = combination([(1, c) for c in message])
    channel.require_zero(combination([(1 - w, message[0]), (w, at_one), (-1, claim)]), "fractions")
    r = channel.challenge("fraction round")
    return r, polynomial_at(message, r)


def _end_layer(message: list[Linear], batch: int, claim: Linear, channel: Channel) -> tuple[Linear, Linear, int]:
    """The last gate: claim = p0 q1 + q0 (p1 + batch q1); then the two children become one point."""
    p0, p1, q0, q1, first, second = message
    channel.require_product(p0, q1, first, "fraction gate")
    channel.require_product(q0, combination([(1, p1), (batch, q1)]), second, "fraction gate")
    channel.require_zero(first + second - claim, "fraction gate")
    child = channel.challenge("fraction child")
    return combination([(1 - child, p0), (child, p1)]), combination([(1 - child, q0), (child, q1)]), child


def _stack(layout: Layout) -> Stack:
    """Lookups first, then tables, in one stack of leaves."""
    sizes = [lookup.blocks[0].size for lookup in layout.lookups]
    return stack(sizes + [1 << table_bits(table) for table in layout.tables])


def _leaves(layout: Layout, tables: Mapping[str, Any], laid: Stack, gamma: int, beta: int) -> tuple[Array, Array]:
    shape = (laid.length + laid.length % 2, 4)  # whole gates: an odd last leaf gets the neutral 0 / 1 beside it
    p, q = empty(*shape), empty(*shape)
    p[:], q[laid.length :], p[laid.length :] = field.full(1, 1), field.full(1, 1), field.zeros(1)
    for i, lookup in enumerate(layout.lookups):
        columns = [tables[block.name].reshape(-1) for block in lookup.blocks]
        _denominators(gamma, beta, lookup.table, columns, q[laid.span(i)])
    for i, table in enumerate(layout.tables, len(layout.lookups)):
        _denominators(gamma, beta, table, _table_columns(layout, table), q[laid.span(i)])
        p[laid.span(i)] = field.neg(field.from_small(tables[f"count.{table}"].reshape(-1)))
    return p, q


def _paired(p: Array, q: Array) -> tuple[Array, Array]:
    """Children of whole gates: an odd last fraction gets the neutral 0 / 1 beside it."""
    if len(p) % 2 == 0:
        return p, q
    wider = empty(len(p) + 1, 4), empty(len(p) + 1, 4)
    for out, values, neutral in zip(wider, (p, q), (0, 1), strict=True):
        out[:-1], out[-1:] = values, field.full(1, neutral)
    return wider


def _denominators(gamma: int, beta: int, table: int, columns: list[Any], out: Array) -> None:
    constant = (gamma - beta * beta * table) % MODULUS
    terms = [(-scale % MODULUS, np.ascontiguousarray(column)) for scale, column in zip((1, beta), columns, strict=False)]
    field.affine(constant, terms, len(out), out)


def _table_columns(layout: Layout, table: int) -> list[Any]:
    index = np.arange(1 << table_bits(table), dtype=np.int32)
    return [index, exponential_table(layout.statement.activation_bits)] if table == EXPONENTIAL else [index]


def _leaf_claims(
    layout: Layout, laid: Stack, point: list[int], gamma: int, beta: int, numerator: Linear, denominator: Linear
) -> list[Claim]:
    """The leaves' extension at `point`: public tables are evaluated, blocks become claims, the tail is the fraction 0/1."""
    counts, values = Claim(numerator), Claim(denominator)
    prefixes = laid.prefixes(point)
    equalities: dict[tuple[int, int], Array] = {}

    def equality(first: int, variables: int) -> Array:
        if (first, variables) not in equalities:
            equalities[first, variables] = mle.eq_table(point[first : first + variables])
        return equalities[first, variables]

    lookups, tables = len(layout.lookups), len(layout.tables)
    values.add_constant(1 - sum(prefixes))
    counts.add_constant(sum(prefixes[:lookups]))
    for lookup, prefix in zip(layout.lookups, prefixes, strict=False):
        values.add_constant(prefix * (gamma - beta * beta * lookup.table))
        for scale, block in zip((1, beta), lookup.blocks, strict=False):
            high = equality(block.low_variables, block.variables - block.low_variables)
            values.add_block(block, -prefix * scale, high, equality(0, block.low_variables))
    for table, prefix in zip(layout.tables, prefixes[lookups : lookups + tables], strict=True):
        eq = equality(0, table_bits(table))
        columns = [field.dot_small(eq, column) for column in _table_columns(layout, table)]
        fingerprint = columns[0] + (beta * columns[1] if len(columns) > 1 else 0) + beta * beta * table
        values.add_constant(prefix * (gamma - fingerprint))
        block = layout.named[f"count.{table}"]
        counts.add_block(block, -prefix, field.full(1, 1), eq)
    return [counts, values]
