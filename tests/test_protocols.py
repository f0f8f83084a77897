"""Our sub-protocols under the property-test kit: every `Protocol` here is a suite of its own (`--zk-cheats`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zkaudit.zk import field, mle, sumcheck
from zkaudit.zk.block import Block
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.field import MODULUS
from zkaudit.zk.linear import Linear
from zkaudit.zk.testing import ChannelProtocol
from zkaudit.zk.testing.strategies import Multilinear, multilinears, scalars, small_tables

BLOCK, POINT = Block("table", 2, 16), [3, 5, 7, 11, 13]


@dataclass(frozen=True)
class Product:
    """The claimed sum over the cube of f times g, both public."""

    f: Multilinear
    g: Multilinear
    claim: int


class Sumcheck(ChannelProtocol):
    """Reduces to f(r) g(r), which both sides can compute."""

    examples = 25

    def instances(self) -> SearchStrategy[tuple[Product, None]]:
        def true(pair: tuple[Multilinear, Multilinear]) -> tuple[Product, None]:
            f, g = pair
            return Product(f, g, total(f, g)), None

        return st.integers(1, 4).flatmap(lambda n: st.tuples(*[multilinears(n, n)] * 2)).map(true)

    def lies(self) -> SearchStrategy[tuple[Product, None]]:
        return st.builds(
            lambda instance, error: (replace(instance[0], claim=(instance[0].claim + error) % MODULUS), None),
            self.instances(),
            st.integers(1, MODULUS - 1),
        )

    def holds(self, statement: Product) -> bool:
        return statement.f.variables == statement.g.variables and total(statement.f, statement.g) == statement.claim % MODULUS

    def mutations(self, statement: Product) -> Iterator[tuple[str, Product]]:
        yield "'claim' plus 1", replace(statement, claim=statement.claim + 1)
        for name in ("f", "g"):
            values = getattr(statement, name).values
            for i, value in enumerate(values):
                changed = Multilinear((*values[:i], (value + 1) % MODULUS, *values[i + 1 :]))
                yield f"'{name}' entry {i} plus 1", replace(statement, **{name: changed})

    def prover(self, statement: Product, witness: None, channel: ProverChannel) -> None:
        absorb(channel, statement)
        products = sumcheck.Products([statement.f.table, statement.g.table], [(0, 1)])
        point, claim = sumcheck.prove([products], 2, Linear({}, statement.claim), channel, "sum")
        channel.require_zero(claim - statement.f.at(point) * statement.g.at(point), "value at the point")
        channel.settle()

    def verifier(self, statement: Product, channel: VerifierChannel) -> None:
        absorb(channel, statement)
        point, claim = sumcheck.verify(statement.f.variables, 2, Linear({}, statement.claim), channel, "sum")
        channel.require_zero(claim - statement.f.at(point) * statement.g.at(point), "value at the point")
        channel.settle()


def total(f: Multilinear, g: Multilinear) -> int:
    return sum(a * b for a, b in zip(f.values, g.values, strict=True)) % MODULUS


def absorb(channel: Channel, statement: object) -> None:
    channel.transcript.absorb(b"statement", repr(statement).encode())


@dataclass(frozen=True)
class Opened:
    """What a dialogue about a committed table and two numbers says in public: the difference of z and the table's value."""

    difference: int


class ProductAndOpening(ChannelProtocol):
    """Numbers x, y, z with x y = z, and a table whose value at a point is z minus the public difference."""

    examples = 15

    def instances(self) -> SearchStrategy[tuple[Opened, Any]]:
        return st.builds(self.instance, small_tables(BLOCK.highs, BLOCK.lows), scalars(), scalars(), st.just(0))

    def lies(self) -> SearchStrategy[tuple[Opened, Any]]:
        error = st.integers(1, MODULUS - 1)
        return st.builds(self.instance, small_tables(BLOCK.highs, BLOCK.lows), scalars(), scalars(), error)

    def instance(self, table: Any, x: int, y: int, error: int) -> tuple[Opened, Any]:
        """The point is fixed, so that the public difference can be told beforehand."""
        value = field.evaluate_small(table, mle.eq_table(POINT[4:]), mle.eq_table(POINT[:4]))
        return Opened((x * y - value + error) % MODULUS), (table, x, y)

    def prover(self, statement: Opened, witness: Any, channel: ProverChannel) -> None:
        absorb(channel, statement)
        table, x, y = witness
        channel.commit([BLOCK], {"table": table}, "commitment")
        self.settled(statement, channel.send([x, y, x * y], "factors"), channel)

    def verifier(self, statement: Opened, channel: VerifierChannel) -> None:
        absorb(channel, statement)
        channel.receive_commitment([BLOCK], "commitment")
        self.settled(statement, channel.receive(3, "factors"), channel)

    def settled(self, statement: Opened, message: list[Linear], channel: Channel) -> None:
        x, y, z = message
        channel.require_product(x, y, z, "product")
        channel.open([BLOCK], [1], POINT, z - statement.difference)
        channel.settle()


sumcheck_in_the_clear = Sumcheck()
product_and_opening_in_the_clear = ProductAndOpening()
product_and_opening = ProductAndOpening(columns=4)
