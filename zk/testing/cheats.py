"""Ways to cheat that fit any protocol. A cheat is a strategy: hypothesis tries it and shrinks what succeeds.

Some alter a finished proof, others the prover's own words, so that it goes on from them and every later message and
challenge fits. A cheat of your own is a `Cheat`, too: `cheating_prover` makes one of another prover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from zkaudit.zk.testing.kinds import Altered
from zkaudit.zk.testing.line import Coins, Message, ProverLine
from zkaudit.zk.testing.protocol import Protocol, Run, challenges_of, refusal, run, simulated

GRINDS = 32  # messages tried for one challenge: half of all challenge spaces of 700 values show a collision
GUESSES = 8  # simulated proofs tried in one example


@dataclass(frozen=True)
class Scene:
    """What a cheat works with: a statement, true or not, an honest prover's run on it, and a run on another statement."""

    protocol: Protocol
    statement: Any
    witness: Any
    run: Run
    other: Run
    true: bool


@dataclass(frozen=True)
class Attempt:
    """Messages that must not be accepted for the statement. Where no verifier need be asked, `found` says what is wrong; it is
    empty where nothing is."""

    what: str
    statement: Any
    messages: tuple[Message, ...] = ()
    coins: Coins | None = None
    found: str | None = None

    def __repr__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Cheat:
    """`sites` are the places of a scene where it can be tried (none: it does not apply), `attempt` tries one."""

    name: str
    what: str
    sites: Callable[[Scene], Sequence[Any]]
    attempt: Callable[[DrawFn, Scene, Any], Attempt | None]


def attempts(cheat: Cheat, scenes: SearchStrategy[Scene]) -> SearchStrategy[Attempt | None]:
    """What the cheat does on these scenes; None where it does not apply or came to nothing."""

    @st.composite
    def tried(draw: DrawFn) -> Attempt | None:
        scene = draw(scenes)
        sites = cheat.sites(scene)
        return cheat.attempt(draw, scene, draw(st.sampled_from(sites))) if sites else None

    return tried()


def cheating_prover(name: str, what: str, prove: Callable[[Any, Any, ProverLine], None]) -> Cheat:
    """The cheat that lets another prover speak. If its statement is true and its proof is, it does not cheat: do not use it."""

    def attempt(draw: DrawFn, scene: Scene, site: Any) -> Attempt:
        line = ProverLine()
        prove(scene.statement, scene.witness, line)
        return Attempt(what, scene.statement, tuple(line.messages), line.coins)

    return Cheat(name, what, lambda scene: [None], attempt)


def _positions(scene: Scene) -> list[int]:
    """Messages that may not be altered without being refused."""
    return [i for i, message in enumerate(scene.run.messages) if message.name not in scene.protocol.malleable]


def _label(scene: Scene, i: int) -> str:
    return f"message {i} '{scene.run.messages[i].name}'"


def _replaced(scene: Scene, what: str, messages: Sequence[Message]) -> Attempt | None:
    if scene.true and tuple(messages) == scene.run.messages:
        return None
    return Attempt(what, scene.statement, tuple(messages), scene.run.coins)


def _altered_at(scene: Scene, i: int, altered: Altered) -> Attempt | None:
    what, value = altered
    messages = list(scene.run.messages)
    messages[i] = messages[i].carrying(value)
    return _replaced(scene, f"{_label(scene, i)}: {what}", messages)


def _change_message(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
    message = scene.run.messages[i]
    return _altered_at(scene, i, draw(message.kind.altered(message.value)))


def _change_round(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
    altered: list[Altered] = []

    def intrude(number: int, message: Message) -> Any:
        if number != i:
            return message.value
        altered.append(draw(message.kind.altered(message.value)))
        return altered[0][1]

    original = scene.run.messages[i]
    try:
        spoken = run(scene.protocol, scene.statement, scene.witness, intrude, scene.run.coins)
    except Exception:  # the honest prover's own code may not survive what it never meant to say
        return None
    if scene.true and spoken.messages[i].kind.parts(spoken.messages[i].value) == original.kind.parts(original.value):
        return None
    what = f"{_label(scene, i)}: {altered[0][0]}; the prover goes on from there"
    return Attempt(what, scene.statement, spoken.messages, spoken.coins)


def _lie(draw: DrawFn, scene: Scene, site: Any) -> Attempt:
    return Attempt("a false statement, proved as if it were true", scene.statement, scene.run.messages, scene.run.coins)


def _pairs(scene: Scene) -> list[tuple[int, int]]:
    """Messages that fit each other's place."""
    spoken = scene.run.messages
    return [(i, k) for i in range(len(spoken)) for k in range(i) if spoken[i].kind.admits(spoken[k].value)]


def _swap(draw: DrawFn, scene: Scene, pair: tuple[int, int]) -> Attempt | None:
    i, k = pair
    messages = list(scene.run.messages)
    messages[i], messages[k] = messages[i].carrying(messages[k].value), messages[k].carrying(messages[i].value)
    return _replaced(scene, f"{_label(scene, k)} and {_label(scene, i)} swapped", messages)


def _replay(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
    """One message, or everything, of a proof of another statement."""
    if scene.other.statement == scene.statement or i > len(scene.other.messages):
        return None
    if i == len(scene.run.messages):
        return _replaced(scene, "the proof of another statement", scene.other.messages)
    if i >= len(scene.other.messages):
        return None
    messages = list(scene.run.messages)
    messages[i] = messages[i].carrying(scene.other.messages[i].value)
    return _replaced(scene, f"{_label(scene, i)} from a proof of another statement", messages)


def _truncate(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
    if draw(st.booleans()):
        return _replaced(scene, f"everything from {_label(scene, i)} on left out", scene.run.messages[:i])
    left = scene.run.messages[:i] + scene.run.messages[i + 1 :]
    return _replaced(scene, f"{_label(scene, i)} left out", left)


def _extend(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
    spoken = scene.run.messages
    at = draw(st.sampled_from([i + 1, len(spoken)]))
    return _replaced(scene, f"{_label(scene, i)} once more, as message {at}", (*spoken[:at], spoken[i], *spoken[at:]))


def _resizable(scene: Scene) -> list[int]:
    return [i for i, message in enumerate(scene.run.messages) if message.kind.resized(message.value)]


def _wrong_degree(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
    message = scene.run.messages[i]
    return _altered_at(scene, i, draw(st.sampled_from(message.kind.resized(message.value))))


def _of_kind(commitment: bool) -> Callable[[Scene], list[int]]:
    return lambda scene: [i for i in _positions(scene) if scene.run.messages[i].kind.commitment == commitment]


def _zeroed(word: str) -> Callable[[DrawFn, Scene, int], Attempt | None]:
    def attempt(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
        """One message, or each of its name, or each of its kind."""
        first = scene.run.messages[i]
        which = draw(st.sampled_from(["one", "name", "kind"]))

        def hit(k: int, message: Message) -> bool:
            by_name = which == "name" and message.name == first.name
            return k == i or by_name or (which == "kind" and type(message.kind) is type(first.kind))

        spoken = [m.carrying(m.kind.zeroed(m.value)) if hit(k, m) else m for k, m in enumerate(scene.run.messages)]
        many = {"one": "", "name": " and all of that name", "kind": " and all of that kind"}[which]
        return _replaced(scene, f"{_label(scene, i)}{many}: {word}", spoken)

    return attempt


def _before_challenges(scene: Scene) -> list[int]:
    """Messages after which a challenge is derived."""
    last = max((c.after for c in scene.run.challenges if c.derived), default=0)
    return list(range(last))


def _foresee(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
    """A derived challenge that stays the same when an earlier message changes can be known before that message is chosen."""
    original = scene.run.messages[i]
    what, value = draw(original.kind.altered(original.value))
    if original == original.carrying(value) or not original.kind.admits(value):
        return None
    messages = list(scene.run.messages)
    messages[i] = original.carrying(value)
    before = challenges_of(scene.protocol, scene.statement, scene.run.messages, scene.run.coins)
    after = challenges_of(scene.protocol, scene.statement, messages, scene.run.coins)
    for number, (old, new) in enumerate(zip(before, after, strict=False)):
        if old.derived and old.after > i and old.value == new.value:
            found = f"challenge {number} '{old.name}' does not depend on {_label(scene, i)}, which can be chosen to suit it"
            return Attempt(f"{_label(scene, i)}: {what}", scene.statement, found=found)
    return Attempt("nothing found", scene.statement, found="")


def _grind(draw: DrawFn, scene: Scene, i: int) -> Attempt | None:
    """Try many values of a message for a challenge that suits, and many simulated proofs for one that passes."""
    original, seen = scene.run.messages[i], dict[int, bytes]()
    values = [draw(original.kind.altered(original.value))[1] for _ in range(GRINDS)]  # all draws first: none may hang on luck
    if (won := _simulate_and_hope(scene)) is not None:
        return won
    number = next(n for n, c in enumerate(scene.run.challenges) if c.derived and c.after > i)
    for value in values:
        messages = list(scene.run.messages)
        messages[i] = original.carrying(value)
        drawn = challenges_of(scene.protocol, scene.statement, messages, scene.run.coins)
        if len(drawn) <= number or not original.kind.admits(value):
            continue
        encoded = b"".join(original.kind.parts(value))
        if seen.setdefault(drawn[number].value, encoded) != encoded:
            name = drawn[number].name
            found = f"two of at most {GRINDS} values share challenge {number} '{name}': its space is small enough to search"
            return Attempt(f"{_label(scene, i)} ground", scene.statement, found=found)
    return Attempt("nothing found", scene.statement, found="")


def _simulate_and_hope(scene: Scene) -> Attempt | None:
    """Whoever guesses the challenges can simulate; the guess must not come true."""
    if not scene.protocol.simulable or not any(c.derived for c in scene.run.challenges):
        return None
    for _ in range(GUESSES):
        made = simulated(scene.protocol, scene.statement, Coins(programmed=True))
        if refusal(scene.protocol, scene.statement, made.messages, Coins()) is None:
            return Attempt("simulated until the challenge came out as guessed", scene.statement, made.messages, Coins())
    return None


_ALWAYS = [None]

GENERIC: dict[str, Cheat] = {
    cheat.name: cheat
    for cheat in (
        Cheat("change-message", "alter one message of a finished proof", _positions, _change_message),
        Cheat("change-round", "alter one message as it is sent; the prover goes on from it", _positions, _change_round),
        Cheat("lie", "prove a false statement", lambda scene: [] if scene.true else _ALWAYS, _lie),
        Cheat("swap", "exchange two messages of one form", _pairs, _swap),
        Cheat(
            "replay", "use a message, or all, of another statement's proof", lambda s: range(len(s.run.messages) + 1), _replay
        ),
        Cheat("truncate", "leave a message out, or all from one on", lambda s: range(len(s.run.messages)), _truncate),
        Cheat("extend", "say a message once more", lambda s: range(len(s.run.messages)), _extend),
        Cheat("wrong-degree", "a coefficient too many or too few", _resizable, _wrong_degree),
        Cheat("zero-polynomial", "zeros in place of numbers", _of_kind(False), _zeroed("zeros")),
        Cheat("identity-commitment", "the identity in place of commitments", _of_kind(True), _zeroed("the identity")),
        Cheat("foresee", "find a challenge that leaves an earlier message free", _before_challenges, _foresee),
        Cheat("grind", "search for messages whose challenge suits", _before_challenges, _grind),
    )
}
"""Every generic cheat by name."""


def chosen(protocol: Protocol, names: str | Sequence[str] = "all") -> list[Cheat]:
    """Generic cheats and the protocol's own: "all", or a list of names, with commas or as a sequence. ValueError for others."""
    known = GENERIC | {cheat.name: cheat for cheat in protocol.cheats()}
    if names == "all":
        return list(known.values())
    wanted = names.split(",") if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"{protocol.name} knows no cheat {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in wanted]
