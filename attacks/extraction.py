"""Extraction of memorised values: the updated model continues texts in the records' format, and what it learnt most is kept.

No span of a gradient is used, and the base model is as it is: the baseline that says what a poisoned base, or recovered
prefixes, add. An attacker with records of his own knows the format of texts and values; one without asks in plain words.
Candidates are decoded under the updated model and ranked by gain, log p_after(s) - log p_before(s) (Carlini et al. 2021,
arXiv 2012.07805, rank by a ratio of two models' likelihoods in the same spirit).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from zkaudit.attacks.attack import Progress, Recovery, Secret, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.lab.records import KINDS
from zkaudit.attacks.recit.channel import ChannelOptions, Target, ask, choose, mean_gain
from zkaudit.attacks.recit.decoding import decode, log_likelihoods
from zkaudit.attacks.recit.formats import Format, Frame, frames, learn
from zkaudit.attacks.recit.notes import stem
from zkaudit.attacks.threat import Capability, Observation

PLAIN = re.compile(r"[\w@+][\w@.+\- ]*")  # a value in an unknown format
NAME_TOKENS = 16


@dataclass(frozen=True)
class ExtractionOptions:
    """`owners`: people whom the attacker knows to be clients' (a staff list); without them `people` names a frame are decoded.

    `guesses` secrets are kept for each owner and kind, `longest` tokens decoded for a value of unknown format.
    """

    owners: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    people: int = 8
    guesses: int = 5
    longest: int = 20
    channel: ChannelOptions = field(default_factory=lambda: ChannelOptions(prompts=("continuation",)))

    def __post_init__(self) -> None:
        if self.people < 1 or self.guesses < 1 or self.longest < 1:
            raise AuditError("extraction decodes at least one name, one guess and one token")


class Extraction:
    """Passive: needs the update only, and uses the attacker's own records if the threat model gives any."""

    name = "extraction"
    needs = Capability.UPDATE

    def __init__(self, options: ExtractionOptions = ExtractionOptions()) -> None:
        self.options = options

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """AuditError for a model that is not causal. The sequences are prompts with their best values, by decreasing gain."""
        observation.require(self.needs)
        model = observation.model
        if model.task != "causal_lm":
            raise AuditError("extraction decodes from a causal language model; this one is not")
        informed = Capability.AUXILIARY in observation.capabilities
        known = frames(observation.auxiliary) if informed else []
        formats = learn(observation.auxiliary, model.tokenizer) if informed else {}
        if not known:
            formats = {kind: Format(kind, (), PLAIN, (), self.options.longest) for kind in self.options.kinds}
        starts = [frame.fill("") for frame in known if not frame.named or frame.before]
        state, move = choose(observation, [text for text in starts if text], self.options.channel.moves)
        progress("extracting memorised values", 0.1)
        targets = self._targets(observation, known, state)
        guesses = ask(observation, targets, formats, state, self.options.channel)
        progress("extracting memorised values", 1.0)
        paired = [(guess, target) for target, own in zip(targets, guesses, strict=True) for guess in own]
        secrets = _best(paired, self.options.guesses)
        sequences = [
            model.tokenizer(f"{target.prefix} {own[0].value}")["input_ids"]
            for target, own in sorted(zip(targets, guesses, strict=True), key=lambda one: -one[1][0].score if one[1] else 0.0)
            if own
        ]
        evidence = {"informed": informed, "prompts": len(targets), "move": move, "gain": mean_gain(guesses)}
        return Recovery(self.name, None, sequences, secrets, evidence)

    def _targets(self, observation: Observation, known: Sequence[Frame], state: Mapping[str, Tensor]) -> list[Target]:
        owners = self.options.owners
        if not known:
            return [Target(kind, owner, stem(owner, kind)) for kind in self.options.kinds for owner in owners or ("",)]
        targets: dict[Target, None] = {}
        for frame in known:
            if not frame.named:
                people: Sequence[str] = ("",)
            else:
                people = owners or _people(observation, frame, state, self.options.people)
            targets.update((Target(frame.kind, person, frame.fill(person)), None) for person in people)
        return list(targets)


def _people(observation: Observation, frame: Frame, state: Mapping[str, Tensor], count: int) -> list[str]:
    """Names that the updated model puts into a frame, those that it learnt most first.

    A causal model never learns the first token of a text: where a name stands there, the attacker's own names begin it.
    """
    model = observation.model
    own = [model.tokenizer(record.owner)["input_ids"][:1] for record in observation.auxiliary if record.owner]
    prompts = (
        [model.tokenizer(frame.before.rstrip())["input_ids"]]
        if frame.before.strip()
        else list(map(list, sorted({*map(tuple, own)})))
    )
    with model.holding(state):
        decoded = decode(model, prompts, NAME_TOKENS, -(-2 * count // len(prompts)))
        pairs = [(prompt, ids) for prompt, beams in zip(prompts, decoded, strict=True) for ids, _ in beams if ids]
        after = log_likelihoods(model, [prompt for prompt, _ in pairs], [ids for _, ids in pairs])
    with model.holding(observation.rounds[0].start):
        gain = after - log_likelihoods(model, [prompt for prompt, _ in pairs], [ids for _, ids in pairs])
    texts = [model.tokenizer.decode([*prompt, *ids]) for prompt, ids in pairs]
    names = [_name(frame, texts[number]) for number in gain.argsort(descending=True).tolist()]
    return list(dict.fromkeys(name for name in names if name))[:count]


def _name(frame: Frame, text: str) -> str:
    """The name in a decoded text: up to the frame's next word, where that was decoded."""
    rest = text[len(frame.before) :] if text.startswith(frame.before.rstrip()) else ""
    following = frame.between.split()
    if following and f" {following[0]}" in rest:
        return rest.partition(f" {following[0]}")[0].strip()
    return " ".join(rest.split()[:2])


def _best(paired: Sequence[tuple[Secret, Target]], count: int) -> list[Secret]:
    """The `count` best different values of each owner and kind, by decreasing score."""
    kept: dict[tuple[str, str], dict[str, Secret]] = {}
    for guess, _ in sorted(paired, key=lambda one: -one[0].score):
        own = kept.setdefault((guess.owner, guess.kind), {})
        if len(own) < count:
            own.setdefault(guess.value, guess)
    return sorted((guess for own in kept.values() for guess in own.values()), key=lambda guess: -guess.score)
