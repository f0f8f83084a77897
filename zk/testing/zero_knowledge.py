"""Whether a protocol hides: what its prover says must look like what a simulator says that has no witness.

The simulator knows the challenges beforehand, as one does who programs the oracle. Its proofs must be accepted under those
challenges, and a comparison of many runs must find no difference: in the bytes of any number or element of any message, in how
often one repeats, and in how often the difference of two numbers of one message size repeats (blindings used twice). The
prover runs on two different witnesses where the strategy of instances gives two. This finds gross leaks; it proves nothing."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from zkaudit.zk.testing.checkers import search
from zkaudit.zk.testing.line import Coins
from zkaudit.zk.testing.protocol import CounterExample, Protocol, Run, Simulator, refusal, run, simulated

THRESHOLD = 12.0  # standard deviations of a chi-square statistic: by chance one pair of bytes in 10^10 differs more
PAIRS = 400  # differences that are compared


def assert_hiding(protocol: Protocol, simulator: Simulator | None = None, runs: int | None = None, examples: int = 2) -> None:
    """CounterExample if proofs and simulated proofs differ. Without `simulator` the protocol's own is taken."""

    def hidden(instance: tuple[Any, Any]) -> None:
        statement, witness = instance
        real, made = [], []
        for _ in range(runs or protocol.runs):
            made.append(simulated(protocol, statement, Coins(programmed=True), simulator))
            real.append(run(protocol, statement, witness, coins=Coins(programmed=True)))
            for kind, one in (("simulated", made[-1]), ("honest", real[-1])):
                if (reason := refusal(protocol, statement, one.messages, one.coins)) is not None:
                    raise CounterExample(
                        f"{protocol.name}: a {kind} proof is refused under programmed challenges\n"
                        f"  statement  {statement!r}\n  refused    {reason}"
                    )
        secrets = protocol.secrets_of(witness) if protocol.secrets_of else []
        if leak := leaked(real, made, secrets):
            raise CounterExample(f"{protocol.name} does not hide\n  statement  {statement!r}\n  found      {leak}")

    search(hidden, protocol.instances(), examples)


def leaked(real: Sequence[Run], made: Sequence[Run], secrets: Sequence[bytes] = ()) -> str:
    """How the two lots of runs differ, in words; empty if they do not."""
    names = [[message.name for message in one.messages] for one in (*real, *made)]
    if any(other != names[0] for other in names):
        return "not all proofs consist of the same messages"
    columns, labels = _columns(real), _labels(real[0])
    simulated = _columns(made)
    if len(columns) != len(simulated) or len({len(part) for column in columns for part in column}) > len(labels):
        return "messages have other sizes than simulated ones"
    for label, said, invented in zip(labels, columns, simulated, strict=True):
        for secret in secrets:
            if secret in said:
                return f"{label} is a secret"
        if {len(part) for part in said} != {len(part) for part in invented}:
            return f"{label} has another size than the simulated one"
        if _repeats(said, invented):
            return f"{label} takes {len(set(said))} values in {len(said)} runs, simulated {len(set(invented))}"
        for i in range(len(said[0])):
            if _apart([part[i] for part in said], [part[i] for part in invented]):
                return f"byte {i} of {label} is distributed otherwise than the simulated one"
    return _related(labels, columns, simulated)


def _columns(runs: Sequence[Run]) -> list[list[bytes]]:
    """For each number or element of a proof, its encodings over the runs."""
    rows = [[part for message in one.messages for part in message.kind.parts(message.value)] for one in runs]
    return [list(column) for column in zip(*rows, strict=True)] if len({len(row) for row in rows}) == 1 else []


def _labels(one: Run) -> list[str]:
    return [
        f"part {k} of message {i} '{message.name}'"
        for i, message in enumerate(one.messages)
        for k, _ in enumerate(message.kind.parts(message.value))
    ]


def _repeats(said: Sequence[Any], invented: Sequence[Any]) -> bool:
    """Whether one lot repeats itself far more than the other."""
    few, many = sorted((len(set(said)), len(set(invented))))
    return few < many / 2 and many > 16


def _apart(said: Sequence[int], invented: Sequence[int]) -> bool:
    """A two-sample chi-square test on 16 classes of a byte, for each of its halves."""
    for shift in (0, 4):
        one, other = (Counter((byte >> shift) & 15 for byte in lot) for lot in (said, invented))
        seen = one.keys() | other.keys()
        scale = math.sqrt(len(said) / len(invented))
        statistic = sum((one[c] / scale - other[c] * scale) ** 2 / (one[c] + other[c]) for c in seen)
        freedom = max(1, len(seen) - 1)
        if statistic > freedom + THRESHOLD * math.sqrt(2 * freedom):
            return True
    return False


def _related(labels: Sequence[str], columns: Sequence[list[bytes]], simulated: Sequence[list[bytes]]) -> str:
    """Two parts whose difference repeats share a mask."""
    pairs = [(i, k) for i, k in itertools.combinations(range(len(columns)), 2) if len(columns[i][0]) == len(columns[k][0])]
    for i, k in pairs[:PAIRS]:
        said, invented = (
            [int.from_bytes(a, "big") - int.from_bytes(b, "big") for a, b in zip(lot[i], lot[k], strict=True)]
            for lot in (columns, simulated)
        )
        if _repeats(said, invented):
            return f"{labels[i]} and {labels[k]} share a mask: their difference repeats"
    return ""
