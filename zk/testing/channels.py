"""Protocols written against zkaudit's channels, put on the line: in the clear, where every message can be read and altered, and
hidden, as they are shipped.

    class Ours(ChannelProtocol):
        def prover(self, statement, witness, channel): ...      what argument.py or sumcheck.py would do
        def verifier(self, statement, channel): ...

Both channels let the line carry each message and each challenge, and are otherwise those of the product."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from zkaudit.zk import curve
from zkaudit.zk.block import Block
from zkaudit.zk.channel import Blinder, Channel, ClearProver, ClearVerifier, ProverChannel, Tables, VerifierChannel
from zkaudit.zk.curve import Points
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.field import MODULUS
from zkaudit.zk.hiding import POINT_BYTES, SCALAR_BYTES, HidingProver, HidingVerifier
from zkaudit.zk.linear import Linear
from zkaudit.zk.testing.kinds import EncodedPoints, EncodedScalars, Scalars, Table
from zkaudit.zk.testing.line import ProverLine, VerifierLine
from zkaudit.zk.testing.protocol import Protocol
from zkaudit.zk.testing.simulator import HidingSimulator


class ChannelProtocol(Protocol):
    """`columns` is the logarithm of a committed row's length, for the hidden form; None puts the protocol on the clear channel.

    `prover` and `verifier` begin by absorbing the statement into `channel.transcript` and end with `channel.settle()`.
    """

    rejections = (InvalidProof,)
    domain = b"zkaudit test"

    def __init__(self, columns: int | None = None) -> None:
        self.columns = columns

    @property
    def name(self) -> str:
        return f"{type(self).__name__} ({'clear' if self.columns is None else 'hidden'})"

    @property
    def simulable(self) -> bool:
        return self.columns is not None

    @abstractmethod
    def prover(self, statement: Any, witness: Any, channel: ProverChannel) -> None:
        """The prover's side."""

    @abstractmethod
    def verifier(self, statement: Any, channel: VerifierChannel) -> None:
        """The verifier's side."""

    def prove(self, statement: Any, witness: Any, line: ProverLine) -> None:
        channel = _ClearProver(self.domain, line) if self.columns is None else _HidingProver(self.domain, self.columns, line)
        self.prover(statement, witness, channel)

    def verify(self, statement: Any, line: VerifierLine) -> None:
        channel = (
            _ClearVerifier(self.domain, line) if self.columns is None else _HidingVerifier(self.domain, self.columns, line)
        )
        self.verifier(statement, channel)
        line.finish()

    def simulate(self, statement: Any, line: ProverLine) -> None:
        """In the clear nothing is hidden; hidden, every protocol has this simulator."""
        if self.columns is None:
            raise NotImplementedError
        self.verifier(statement, HidingSimulator(self.domain, self.columns, line))


class _OnLine(Channel):
    """A channel whose challenges the line sees and may program."""

    _line: ProverLine | VerifierLine

    def challenge(self, label: str) -> int:
        return self._line.challenge(label, MODULUS, lambda: super(_OnLine, self).challenge(label))


class _ClearProver(_OnLine, ClearProver):
    _line: ProverLine

    def __init__(self, domain: bytes, line: ProverLine) -> None:
        super().__init__(domain)
        self._line = line

    def send(self, values: Sequence[int], name: str) -> list[Linear]:
        sent = self._line.send(name, tuple(value % MODULUS for value in values), Scalars(MODULUS))
        return super().send(sent, name)

    def commit(self, blocks: Sequence[Block], tables: Tables, name: str) -> None:
        for block in blocks:
            table = np.ascontiguousarray(tables[block.name])
            sent = self._line.send(f"{name} {block.name}", table, Table((block.highs, block.lows)))
            super().commit([block], {block.name: sent}, name)


class _ClearVerifier(_OnLine, ClearVerifier):
    _line: VerifierLine

    def __init__(self, domain: bytes, line: VerifierLine) -> None:
        self._heard: list[Any] = []
        super().__init__(domain, self._heard)
        self._line = line

    def receive(self, count: int, name: str) -> list[Linear]:
        self._heard.append(list(self._line.receive(name, Scalars(MODULUS, count))))
        return super().receive(count, name)

    def receive_commitment(self, blocks: Sequence[Block], name: str) -> None:
        for block in blocks:
            self._heard.append(self._line.receive(f"{name} {block.name}", Table((block.highs, block.lows))))
            super().receive_commitment([block], name)

    def require_zero(self, expression: Linear, name: str) -> None:
        self._line.require(self._value(expression) == 0, name)


class _HidingProver(_OnLine, HidingProver):
    _line: ProverLine

    def __init__(self, domain: bytes, columns: int, line: ProverLine) -> None:
        super().__init__(domain, columns, Blinder(), check=False)
        self._line = line

    def _write_points(self, points: Points, name: str) -> None:
        self._send(curve.compress(points), name, EncodedPoints(len(points)))

    def _write_scalars(self, scalars: Sequence[int], name: str) -> None:
        data = b"".join(x.to_bytes(SCALAR_BYTES, "little") for x in scalars)
        self._send(data, name, EncodedScalars(MODULUS, len(scalars)))

    def _send(self, data: bytes, name: str, kind: EncodedPoints | EncodedScalars) -> None:
        sent = self._line.send(name, data, kind)
        self.transcript.absorb(name.encode(), sent)
        self.proof += sent


class _HidingVerifier(_OnLine, HidingVerifier):
    _line: VerifierLine

    def __init__(self, domain: bytes, columns: int, line: VerifierLine) -> None:
        super().__init__(domain, columns, b"")
        self._line = line

    def _take(self, size: int, name: str) -> bytes:
        points = size % POINT_BYTES == 0
        kind = EncodedPoints(size // POINT_BYTES) if points else EncodedScalars(MODULUS, size // SCALAR_BYTES)
        self._proof += self._line.receive(name, kind)
        return super()._take(size, name)
