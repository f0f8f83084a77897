"""Property tests for protocols: strategies, cheating provers and checkers, for zkaudit's own protocols and for others.

docs/testing.md teaches it; `pytest --zk-cheats=all` runs a protocol's whole suite. Needs the extra `testing`."""

from zkaudit.zk.testing.canonical import assert_canonical
from zkaudit.zk.testing.channels import ChannelProtocol
from zkaudit.zk.testing.cheats import GENERIC, Attempt, Cheat, Scene, cheating_prover
from zkaudit.zk.testing.checkers import NotApplicable, assert_bound, assert_complete, assert_sound
from zkaudit.zk.testing.kinds import Bytes, Element, EncodedPoints, EncodedScalars, Kind, Scalars, Table
from zkaudit.zk.testing.line import Coins, Message, ProverLine, Rejected, VerifierLine
from zkaudit.zk.testing.protocol import CounterExample, Protocol
from zkaudit.zk.testing.sessions import assert_sessions, session_machine
from zkaudit.zk.testing.zero_knowledge import assert_hiding

__all__ = [
    "GENERIC",
    "Attempt",
    "Bytes",
    "ChannelProtocol",
    "Cheat",
    "Coins",
    "CounterExample",
    "Element",
    "EncodedPoints",
    "EncodedScalars",
    "Kind",
    "Message",
    "NotApplicable",
    "Protocol",
    "ProverLine",
    "Rejected",
    "Scalars",
    "Scene",
    "Table",
    "VerifierLine",
    "assert_bound",
    "assert_canonical",
    "assert_complete",
    "assert_hiding",
    "assert_sessions",
    "assert_sound",
    "cheating_prover",
    "session_machine",
]
