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

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zkaudit.zk import field, kernels, mle
from zkaudit.zk.backend import place_of, set_aside
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.claims import Claim
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.layout import Layout, table_bits, table_columns
from zkaudit.zk.leaves import KEPT, WRITTEN, Leaves, Part, count_words
from zkaudit.zk.linear import Linear, combination, polynomial_at
from zkaudit.zk.stack import Stack, stack


def count(layout: Layout, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Multiplicity tables: how often each table row is looked up."""
    looked_up: dict[int, list[Any]] = {table: [] for table in layout.tables}
    for lookup in layout.lookups:
        looked_up[lookup.table].append(tables[lookup.blocks[0].name][lookup.part])
    return {f"count.{table}": count_words(values, 1 << table_bits(table)).reshape(1, -1) for table, values in looked_up.items()}


def prove(layout: Layout, tables: Mapping[str, Any], channel: ProverChannel) -> list[Claim]:
    """Prove all lookups of the layout; returns the claims on blocks and multiplicities."""
    gamma, beta = channel.challenges("lookup", 2)
    laid = _stack(layout)
    leaves = _leaves(layout, tables, laid, gamma, beta)
    fractions, kept = leaves.written(KEPT), list[tuple[Array, Array]]()
    while len(kept) < laid.variables - KEPT:
        above = kernels.fraction_layer(*fractions)
        kept.append((set_aside(fractions[0]), set_aside(fractions[1])))
        fractions = above
    numerator, denominator = Linear(), channel.send(field.to_ints(fractions[1]), "root")[0]
    point: list[int] = []
    level: _Stored | Leaves
    for level in _descending(kept, leaves):
        batch, claim = _begin_layer(numerator, denominator, channel)
        bound: list[int] = []
        at_zero, leading = level.round(batch, point[1:]) if point else (0, 0)
        for i, w in enumerate(point):
            at_one = (channel.value(claim) - (1 - w) * at_zero) * pow(w, -1, MODULUS)
            message = channel.send([at_zero, at_one - at_zero - leading, leading], "fractions")
            r, claim = _fold_claim(message, w, claim, channel)
            if i + 1 < len(point):
                level, (at_zero, leading) = _fold_round(level, r, batch, point[i + 2 :])
            else:
                level = _folded(level, r)
            bound.append(r)
        assert isinstance(level, _Stored)  # the stack holds 2^16 leaves or more: the largest table's rows
        p0, p1, q0, q1 = level.last()
        message = channel.send([p0, p1, q0, q1, p0 * q1, q0 * (p1 + batch * q1)], "gate")
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
    sizes = [lookup.size for lookup in layout.lookups]
    return stack(sizes + [1 << table_bits(table) for table in layout.tables])


class _Stored:
    """A level in memory: children of a sumcheck's gates. An odd last fraction gets the neutral 0 / 1 beside it."""

    def __init__(self, p: Array, q: Array) -> None:
        if len(p) % 2:
            p, q = _appended(p, 0), _appended(q, 1)
        self.p, self.q = p, q

    def round(self, batch: int, rest: Sequence[int]) -> tuple[int, int]:
        """h(0) and h's leading coefficient, the gates' lowest variable being free and `rest` the claim's point after it."""
        low, high = mle.eq_halves(rest)
        return kernels.fraction_round(self.p, self.q, batch, low, high)

    def fold(self, r: int) -> tuple[Array, Array]:
        """Bind the gates' lowest variable."""
        return kernels.fraction_fold(self.p, self.q, r)

    def last(self) -> tuple[int, int, int, int]:
        """The children p0, p1, q0, q1 of the only gate."""
        p0, p1, q0, q1 = (x for fractions in (self.p, self.q) for x in field.to_ints(fractions))
        return p0, p1, q0, q1


def _folded(level: _Stored | Leaves, r: int) -> _Stored | Leaves:
    """The gates' lowest variable bound."""
    folded = level.fold(r)
    return folded if isinstance(folded, Leaves) else _Stored(*folded)


def _fold_round(level: _Stored | Leaves, r: int, batch: int, rest: Sequence[int]) -> tuple[_Stored | Leaves, tuple[int, int]]:
    """The same with the next round's values, in one pass over a level in memory that has whole pairs of gates afterwards."""
    if isinstance(level, Leaves) or len(level.p) % 8:
        folded = _folded(level, r)
        return folded, folded.round(batch, rest)
    low, high = mle.eq_halves(rest)
    p, q, values = kernels.fraction_fold_round(level.p, level.q, r, batch, low, high)
    return _Stored(p, q), values


def _appended(values: Array, last: int) -> Array:
    at = place_of(values)
    out: Array = at.empty(len(values) + 1, 4)
    out[:-1], out[-1:] = values, at.put(field.full(1, last))
    return out


def _descending(kept: list[tuple[Array, Array]], leaves: Leaves) -> Iterator[_Stored | Leaves]:
    """The tree's levels from below the root down; each is given up once it is handed on."""
    while kept:
        yield _Stored(*(leaves.beside(x) for x in kept.pop()))
    yield _Stored(*leaves.written(WRITTEN))
    yield from (leaves.above().above(), leaves.above(), leaves)


def _leaves(layout: Layout, tables: Mapping[str, Any], laid: Stack, gamma: int, beta: int) -> Leaves:
    """The stack's leaves, in its order."""
    rows = [[tables[block.name][lookup.part] for block in lookup.blocks] for lookup in layout.lookups]
    rows += [table_columns(layout.statement, table) for table in layout.tables]
    numbers = [lookup.table for lookup in layout.lookups] + layout.tables
    counts = [None] * len(layout.lookups) + [tables[f"count.{table}"].reshape(-1) for table in layout.tables]
    parts = []
    for i in laid.order:
        columns = list(zip((1, beta), rows[i], strict=False))
        parts.append(Part(laid.offsets[i], (gamma - beta * beta * numbers[i]) % MODULUS, columns, counts[i]))
    return Leaves.of(parts)


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
    parts: dict[str, Array] = {}
    for lookup, prefix in zip(layout.lookups, prefixes, strict=False):
        values.add_constant(prefix * (gamma - beta * beta * lookup.table))
        for scale, block in zip((1, beta), lookup.blocks, strict=False):
            high = equality(block.low_variables, (lookup.size // block.lows - 1).bit_length())
            if lookup.highs is None:
                values.add_block(block, -prefix * scale, high, equality(0, block.low_variables))
            else:  # all parts of a block are one weight
                parts.setdefault(block.name, field.zeros(block.highs))[lookup.part] = field.mul(high, -prefix * scale)
    for name, high in parts.items():
        block = layout.named[name]
        values.add_block(block, 1, high, equality(0, block.low_variables))
    for table, prefix in zip(layout.tables, prefixes[lookups : lookups + tables], strict=True):
        eq = equality(0, table_bits(table))
        columns = [field.dot_small(eq, column) for column in table_columns(layout.statement, table)]
        fingerprint = columns[0] + (beta * columns[1] if len(columns) > 1 else 0) + beta * beta * table
        values.add_constant(prefix * (gamma - fingerprint))
        block = layout.named[f"count.{table}"]
        counts.add_block(block, -prefix, field.full(1, 1), eq)
    return [counts, values]
