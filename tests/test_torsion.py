"""Points may have parts of small order: these neither help a prover nor change what is accepted."""

from typing import Any

import numpy as np
import pytest
from curve_points import of_small_order, ours

from zkaudit.zk import curve, field, mle
from zkaudit.zk.block import Block
from zkaudit.zk.channel import Blinder
from zkaudit.zk.curve import Points
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.hiding import HidingProver, HidingVerifier
from zkaudit.zk.linear import Linear
from zkaudit.zk.testing.strategies import SMALL_ORDERS

BLOCKS = [Block("t", 2, 16)]
TABLES = {"t": np.arange(32, dtype=np.int32).reshape(2, 16)}
POINT = [5, 6, 7, 8, 9]


class WithTorsion(HidingProver):
    """Adds a point of small order to whatever it commits to and sends."""

    def __init__(self, small: Points) -> None:
        super().__init__(b"torsion", 4, Blinder(), check=False)
        self.small = small

    def _write_points(self, points: Points, name: str) -> None:
        super()._write_points(curve.add(points, np.repeat(self.small, len(points), axis=0)), name)


def dialogue(channel: Any, take: Any, value: int) -> None:
    """The product of two sent numbers is a third, and that is `value`; the table is opened as it is."""
    x, y, z = take(channel)
    channel.require_product(x, y, z, "product")
    channel.require_zero(z - value, "claim")
    channel.open(BLOCKS, [1], POINT, opened())
    channel.settle()


def opened() -> Linear:
    low, high = mle.eq_table(POINT[:4]), mle.eq_table(POINT[4:])
    return Linear({}, field.evaluate_small(TABLES["t"], high, low))


def verdict(small: Points, product: int, claimed: int) -> bool:
    prover = WithTorsion(small)
    prover.commit(BLOCKS, TABLES, "table")
    dialogue(prover, lambda channel: channel.send([3, 4, product], "numbers"), claimed)
    verifier = HidingVerifier(b"torsion", 4, bytes(prover.proof))
    verifier.receive_commitment(BLOCKS, "table")
    try:
        dialogue(verifier, lambda channel: channel.receive(3, "numbers"), claimed)
    except InvalidProof:
        return False
    return True


@pytest.mark.parametrize("order", SMALL_ORDERS)
def test_parts_of_small_order_do_not_change_the_verdict(order: int) -> None:
    small = ours(of_small_order(order)[:1])
    assert verdict(small, 12, 12)
    assert not verdict(small, 13, 13)  # not the product
    assert not verdict(small, 12, 13)  # not what was sent
