"""Sessions: a verifier that reads message after message, from anybody, in any order, in several dialogues at a time.

The machine delivers honest messages, altered ones, ones out of order and ones of another session, to two sessions in turns.
A session accepts exactly if it got an honest prover's messages, all of them, in order and nothing else; it refuses at once or
later, but for good; and it draws the same challenges whenever it is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from zkaudit.zk.testing.line import Coins, Message, VerifierLine, Waiting
from zkaudit.zk.testing.protocol import CounterExample, Protocol, Run, run

SESSIONS = 2


class Session:
    """One verifier's side: its coins, and what it has been sent. `state` is "waiting", "accepted" or why it refused."""

    def __init__(self, protocol: Protocol, statement: Any, coins: Coins) -> None:
        self.protocol, self.statement, self.coins = protocol, statement, coins
        self.delivered: list[Message] = []
        self.challenges: list[int] = []
        self.state = "waiting"

    def deliver(self, message: Message) -> None:
        """Hand over the next message."""
        self.delivered.append(message)
        self.listen()

    def listen(self) -> None:
        """Let the verifier go through what it has; CounterExample if it changes its mind."""
        line = VerifierLine(self.delivered, self.coins, patient=True)
        state = "accepted"
        try:
            self.protocol.verify(self.statement, line)
        except Waiting:
            state = "waiting"
        except self.protocol.refusals as error:
            state = f"refused: {error}"
        except Exception as error:
            raise CounterExample(f"the verifier of {self.protocol.name} fails with {type(error).__name__}: {error}") from error
        drawn = [challenge.value for challenge in line.challenges]
        if drawn[: len(self.challenges)] != self.challenges:
            raise CounterExample(f"the verifier of {self.protocol.name} draws other challenges when a message follows")
        if self.state.startswith("refused") and not state.startswith("refused"):
            raise CounterExample(f"the verifier of {self.protocol.name} is {state} after it {self.state}")
        self.challenges, self.state = drawn, state


def session_machine(protocol: Protocol) -> type[RuleBasedStateMachine]:
    """The machine, for those who want to add rules."""

    class Machine(RuleBasedStateMachine):
        @initialize(data=st.data())
        def begin(self, data: st.DataObject) -> None:
            self.sessions: list[Session] = []
            self.runs: list[Run] = []
            for _ in range(SESSIONS):
                statement, witness = data.draw(protocol.instances(), label="statement and witness")
                spoken = run(protocol, statement, witness)
                self.runs.append(spoken)
                self.sessions.append(Session(protocol, statement, spoken.coins))

        def next_honest(self, i: int) -> Message | None:
            done, honest = len(self.sessions[i].delivered), self.runs[i].messages
            return honest[done] if done < len(honest) else None

        @rule(i=st.integers(0, SESSIONS - 1))
        def deliver_next(self, i: int) -> None:
            if (message := self.next_honest(i)) is not None:
                self.sessions[i].deliver(message)

        @rule(i=st.integers(0, SESSIONS - 1))
        def deliver_all(self, i: int) -> None:
            while (message := self.next_honest(i)) is not None:
                self.sessions[i].deliver(message)

        @rule(i=st.integers(0, SESSIONS - 1), data=st.data())
        def deliver_altered(self, i: int, data: st.DataObject) -> None:
            message = self.next_honest(i)
            if message is not None and message.name not in protocol.malleable:
                _, value = data.draw(message.kind.altered(message.value), label="alteration")
                self.sessions[i].deliver(message.carrying(value))

        @rule(i=st.integers(0, SESSIONS - 1), k=st.integers(0, 40))
        def deliver_out_of_order(self, i: int, k: int) -> None:
            honest = self.runs[i].messages
            self.sessions[i].deliver(honest[k % len(honest)])

        @rule(i=st.integers(0, SESSIONS - 1), k=st.integers(0, 40))
        def deliver_what_another_session_got(self, i: int, k: int) -> None:
            others = self.runs[1 - i].messages
            self.sessions[i].deliver(others[k % len(others)])

        @precondition(lambda self: bool(self.sessions))
        @rule(i=st.integers(0, SESSIONS - 1))
        def ask_again(self, i: int) -> None:
            self.sessions[i].listen()

        @invariant()
        def only_honest_dialogues_are_accepted(self) -> None:
            for i, session in enumerate(getattr(self, "sessions", [])):
                judge(session, self.runs[i], self.runs)

    return Machine


def assert_sessions(protocol: Protocol, examples: int | None = None, steps: int = 12) -> None:
    """Run the machine; CounterExample with the steps that led there."""
    chosen = settings(
        max_examples=examples or protocol.examples or 30,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(session_machine(protocol), settings=chosen)
    except Flaky as error:  # what is said is the same each time, but for the provers' coins
        raise CounterExample(
            f"{protocol.name} does not always answer alike: a verifier must not remember\n  found      {error}"
        ) from None


def judge(session: Session, own: Run, runs: Sequence[Run]) -> None:
    """CounterExample if a session accepted what no honest prover said to it, or not what its own prover did.

    A proof whose challenges are all derived may be shown again wherever its statement is asked for.
    """
    name, statement = session.protocol.name, f"  statement  {session.statement!r}"
    again = [run.messages for run in runs if run.statement == own.statement and all(c.derived for c in run.challenges)]
    led = any(_of_one_dialogue(session.protocol, session.delivered, honest) for honest in [own.messages, *again])
    if session.state == "accepted" and not led:
        delivered = ", ".join(message.name for message in session.delivered)
        raise CounterExample(f"{name} accepts a dialogue that no honest prover led\n{statement}\n  delivered  {delivered}")
    if tuple(session.delivered) == own.messages and session.state != "accepted":
        raise CounterExample(f"{name}: an honest dialogue is {session.state}\n{statement}")


def _of_one_dialogue(protocol: Protocol, delivered: list[Message], honest: tuple[Message, ...]) -> bool:
    """Equal but for messages that may be altered."""
    if len(delivered) != len(honest):
        return False
    return all(a == b or b.name in protocol.malleable for a, b in zip(delivered, honest, strict=True))
