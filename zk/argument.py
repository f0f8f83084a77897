"""The argument for one segment, in order; prover and verifier line against line.

    absorb      the statement, with the commitments of data, start and end weights
    commit      witness tables, then how often each table row is looked up
    lookup      every range and the exponential                     lookup.py
    products    all matrix products of all layers and steps         fac4dnn.py
    weights     the update history and the end weights              history.py
    projection  GaLore's projected gradients and bases              circuit/projection.py
    energy      how much of a gradient they capture                 circuit/energy.py
    elements    sign bits, loss, moments, first segment's ranges    relu.py, loss.py, circuit/galore.py
    gather      every claim so far, zkReLU's products included      gather.py
    settle      the channel's end: one inner-product argument       hiding.py

The caller adopts the statement's commitments into the channel first, in the order data, start, end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zkaudit.zk import fac4dnn, gather, history, lookup, loss, relu
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.circuit import energy, galore, projection
from zkaudit.zk.layout import Layout
from zkaudit.zk.network import Network
from zkaudit.zk.sampling import batches
from zkaudit.zk.statement import POINT_BYTES, Statement
from zkaudit.zk.witness import Witness

DOMAIN = b"zkaudit proof of training v1"

Progress = Callable[[str, float], None]  # phase, share of the whole done


class Phases:
    """Seconds spent in each phase; tells `progress` when one begins."""

    def __init__(
        self, progress: Progress | None = None, first: float = 0.0, share: float = 1.0, seconds: dict[str, float] | None = None
    ) -> None:
        self.seconds = {} if seconds is None else seconds
        self._progress, self._first, self._share = progress, first, share

    @contextmanager
    def phase(self, name: str, begins: float) -> Iterator[None]:
        """Time a phase that begins when about `begins` of the work is done."""
        if self._progress:
            self._progress(name, self._first + begins * self._share)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def prove(statement: Statement, witness: Witness, channel: ProverChannel, phases: Phases) -> None:
    """Prove `statement`; with the channel's check on, a trace that does not satisfy it is BadInput."""
    layout, tables = witness.layout, dict(witness.tables)
    network = Network(layout, witness.batches)
    _absorb(statement, channel)
    with phases.phase("commit", 0.0):
        channel.commit(layout.witness, tables, "witness")
        tables |= lookup.count(layout, tables)
        channel.commit(layout.multiplicities, tables, "multiplicities")
    with phases.phase("lookup", 0.35):
        claims = lookup.prove(layout, tables, channel)
    with phases.phase("matmul", 0.7):
        product_claims, weight_claims = fac4dnn.prove(network, witness, channel)
        claims += product_claims
        claims += history.prove(network, witness, weight_claims, channel)
        claims += projection.prove(network, witness, channel)
        claims += energy.prove(network, witness, channel)
    with phases.phase("relu", 0.75):
        claims += relu.sign_claims(layout, channel)
        claims += loss.loss_claims(layout, channel)
        claims += galore.claims(statement, layout.named, channel)
        claims += loss.first_segment_claims(network, channel)
        gather.prove(claims, tables, layout, channel)
    with phases.phase("opening", 0.9):
        channel.settle()


def verify(statement: Statement, channel: VerifierChannel) -> None:
    """Check a proof of `statement`; InvalidProof names the check that failed."""
    layout = Layout(statement)
    network = Network(layout, batches(statement))
    _absorb(statement, channel)
    channel.receive_commitment(layout.witness, "witness")
    channel.receive_commitment(layout.multiplicities, "multiplicities")
    claims = lookup.verify(layout, channel)
    product_claims, weight_claims = fac4dnn.verify(network, channel)
    claims += product_claims
    claims += history.verify(network, weight_claims, channel)
    claims += projection.verify(network, channel)
    claims += energy.verify(network, channel)
    claims += relu.sign_claims(layout, channel)
    claims += loss.loss_claims(layout, channel)
    claims += galore.claims(statement, layout.named, channel)
    claims += loss.first_segment_claims(network, channel)
    gather.verify(claims, layout, channel)
    channel.settle()


def soundness_bits(statement: Statement) -> int:
    """Bits of the soundness error: the statistical part, and at most what the discrete logarithm gives.

    The statistical error is at most (number of field elements that could be unlucky) / r, counted generously from the shapes;
    117 bits is the lowest published estimate for discrete logarithms of this curve (through its pairing's target field).
    """
    layout = Layout(statement)
    entries = sum(block.size for block in layout.blocks)
    rounds = entries.bit_length()
    unlucky = 2 * entries + 8 * rounds**2 + 64 * (len(layout.blocks) + len(layout.lookups)) * rounds
    return min(117, 254 - unlucky.bit_length())


def committed_bytes(statement: Statement, layout: Layout) -> tuple[int, int, int, int]:
    """Bytes of the row commitments of data, start weights, end weights, and of all tables inside the proof."""
    groups = (layout.data, layout.start, layout.end, [*layout.witness, *layout.multiplicities])
    data, start, end, inside = (POINT_BYTES * sum(b.rows(statement.columns) for b in group) for group in groups)
    return data, start, end, inside


def _absorb(statement: Statement, channel: Channel) -> None:
    for name, data in statement.sections():
        channel.transcript.absorb(name, data)
