"""A ReCIT-style attack: the context and the personal data of the same record, from one update of a federated PEFT round.

Four stages, each with its options: a filter narrows the tokens (filter.py, or any attack that ranks tokens), pairing puts them
in order (pairing.py), the attacker's own records tell owner, kind and prefix of what was recovered (formats.py), and the
updated model is asked for the values (channel.py). The base model should have been poisoned (poison.py) before the round.

After Xie et al. 2025 (arXiv 2504.20570), of which only the abstract and reviews could be read: that the server poisons the base
with personal notes, filters tokens and pairs them is the paper's; every score, threshold and prompt is inferred, and an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zkaudit.attacks.attack import Attack, Progress, Recovery, Secret, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.recit.channel import ChannelOptions, Target, ask, choose, mean_gain
from zkaudit.attacks.recit.filter import Candidates, FilterOptions, ranked_filter, span_filter
from zkaudit.attacks.recit.formats import Fit, Format, fit, frames, learn
from zkaudit.attacks.recit.pairing import Paired, PairingOptions, pair
from zkaudit.attacks.threat import Capability, Observation


@dataclass(frozen=True)
class RecitOptions:
    """`poisoned` False is the ablation with a clean base, which needs no choice of the base model.

    `read`: values that stand in a recovered sequence are guesses too. `asked`: the updated model is asked for values.
    `guesses`: secrets reported for each value.
    """

    poisoned: bool = True
    read: bool = True
    asked: bool = True
    guesses: int = 5
    filter: FilterOptions = field(default_factory=FilterOptions)
    pairing: PairingOptions = field(default_factory=PairingOptions)
    channel: ChannelOptions = field(default_factory=ChannelOptions)

    def __post_init__(self) -> None:
        if not (self.read or self.asked):
            raise AuditError("a ReCIT-style attack must read values in sequences or ask the model for them, or both")


class Recit:
    """`tokens_from` is another attack whose ranking is the filter (pursuit, for instance); its own span filter if None."""

    name = "recit"

    def __init__(self, options: RecitOptions = RecitOptions(), tokens_from: Attack | None = None) -> None:
        self.options = options
        self.tokens_from = tokens_from

    @property
    def needs(self) -> Capability:
        own = Capability.UPDATE | Capability.AUXILIARY
        own |= Capability.BASE_MODEL if self.options.poisoned else Capability(0)
        return own | self.tokens_from.needs if self.tokens_from is not None else own

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """AuditError without the capabilities, for a model that is not causal, or if no first-layer module is trained.

        The sequences are the recovered records, each with the best value joined to its prefix. Evidence counts what is left
        after each stage.
        """
        observation.require(self.needs)
        if observation.model.task != "causal_lm":
            raise AuditError("a ReCIT-style attack needs a causal language model; this one is not")
        candidates = self._candidates(observation, progress)
        paired = pair(observation, candidates, self.options.pairing, progress)
        known, formats = frames(observation.auxiliary), learn(observation.auxiliary, observation.model.tokenizer)
        texts = [observation.model.tokenizer.decode(one.ids) for one in paired]
        fits = [fit(text, known) for text in texts]
        targets = [self._target(text, fitted, formats) for text, fitted in zip(texts, fits, strict=True)]
        guesses, move = self._guesses(observation, targets, formats)
        progress("asking the updated model", 1.0)
        secrets = [guess for own in guesses for guess in own[: self.options.guesses]]
        evidence = {
            **candidates.evidence,
            "regime": candidates.regime,
            "poisoned": self.options.poisoned,
            "funnel": {
                "candidates": candidates.count,
                "sequences": len(paired),
                "framed": sum(fitted is not None for fitted in fits),
                "read": sum(len(target.values) for target in targets),
                "guessed": sum(bool(own) for own in guesses),
            },
            "scores": [one.score for one in paired],
            "distances of sequences": [one.distance for one in paired],
            "move": move,
            "gain": mean_gain(guesses),
        }
        sequences = self._joined(observation, paired, targets, guesses)
        return Recovery(self.name, candidates.ranking, sequences, secrets, evidence)

    def _candidates(self, observation: Observation, progress: Progress) -> Candidates:
        if self.tokens_from is None:
            return span_filter(observation, self.options.filter, progress)
        return ranked_filter(self.tokens_from.run(observation, progress), observation)

    def _target(self, text: str, fitted: Fit | None, formats: dict[str, Format]) -> Target:
        if fitted is None:
            return Target("")
        value = formats[fitted.frame.kind].read(text[len(fitted.prefix) :]) if self.options.read else None
        return Target(fitted.frame.kind, fitted.owner, fitted.prefix, (value,) if value else ())

    def _guesses(
        self, observation: Observation, targets: Sequence[Target], formats: dict[str, Format]
    ) -> tuple[list[list[Secret]], float]:
        if not self.options.asked:
            return [[Secret(t.kind, value, t.owner) for value in t.values] for t in targets], 0.0
        state, move = choose(observation, [target.prefix for target in targets], self.options.channel.moves)
        return ask(observation, targets, formats, state, self.options.channel), move

    def _joined(
        self,
        observation: Observation,
        paired: Sequence[Paired],
        targets: Sequence[Target],
        guesses: Sequence[Sequence[Secret]],
    ) -> list[list[int]]:
        """Sequences as recovered, but prefix and best value of the same record where the sequence itself held no value."""
        result = []
        for one, target, own in zip(paired, targets, guesses, strict=True):
            if own and not target.values:
                result.append(observation.model.tokenizer(f"{target.prefix} {own[0].value}")["input_ids"])
            else:
                result.append(list(one.ids))
        return result
