"""The value channel: what the updated model answers when it is asked for a person's data.

Prompts are a record's text up to the value ("continuation"), the stem of a personal note ("note"), or one after the other
("both"). Decoded values are ranked by their gain, log p(value | prompt) under the updated model minus that under the model
handed out: what the update taught, not what the language likes. (ReCIT's stage C. That ranks, prompts and the number of beams
are as here is inferred; `prompts`, `beams`, `constrained` and `rank` can each be varied.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zkaudit.attacks.attack import Secret
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.recit.decoding import decode, log_likelihoods
from zkaudit.attacks.recit.formats import Format
from zkaudit.attacks.recit.notes import stem
from zkaudit.attacks.threat import Observation

Prompt = Literal["continuation", "note", "both"]


@dataclass(frozen=True)
class ChannelOptions:
    """`moves`, for gradients only: how far the entry that moves most goes; the one that explains prefixes best is taken."""

    prompts: tuple[Prompt, ...] = ("continuation", "note", "both")
    beams: int = 4
    constrained: bool = True  # values of few spellings are decoded within these
    rank: Literal["gain", "likelihood"] = "gain"
    moves: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)

    def __post_init__(self) -> None:
        if not self.prompts or not self.moves or self.beams < 1:
            raise AuditError("the value channel needs a prompt, a move and at least one beam")


@dataclass(frozen=True)
class Target:
    """Whose value of which kind is asked for; `prefix` is the text of the record up to it, as far as known.

    `values` are guesses from elsewhere (a recovered sequence), ranked together with those that are decoded.
    """

    kind: str
    owner: str = ""
    prefix: str = ""
    values: tuple[str, ...] = ()


def updated(observation: Observation, move: float) -> dict[str, Tensor]:
    """The trainable tensors after the last round: start + delta, or down the gradient, its largest entry being `move`."""
    last = observation.last
    tensors = last.update.tensors
    if last.update.kind == "delta":
        return {name: value + tensors[name].to(value) for name, value in last.start.items()}
    largest = max((float(g.abs().max()) for g in tensors.values()), default=0.0)
    step = move / largest if largest > 0 else 0.0
    return {name: value - step * tensors[name].to(value) for name, value in last.start.items()}


def choose(observation: Observation, prefixes: Sequence[str], moves: Sequence[float]) -> tuple[dict[str, Tensor], float]:
    """The updated tensors, and the move that made them: of several, the one under which known prefixes are likeliest."""
    if observation.last.update.kind == "delta":
        return updated(observation, 0.0), 0.0
    model = observation.model
    known = [ids for ids in (_encode(model, prefix) for prefix in prefixes) if len(ids) > 1]
    best: tuple[float, dict[str, Tensor], float] | None = None
    for move in moves:
        state = updated(observation, move)
        with model.holding(state):
            score = float(log_likelihoods(model, [ids[:1] for ids in known], [ids[1:] for ids in known]).sum())
        if best is None or score > best[0]:
            best = score, state, move
    assert best is not None  # moves is not empty
    return best[1], best[2]


def ask(
    observation: Observation,
    targets: Sequence[Target],
    formats: Mapping[str, Format],
    state: Mapping[str, Tensor],
    options: ChannelOptions = ChannelOptions(),
) -> list[list[Secret]]:
    """For each target its guessed values, best first; `state` are the updated tensors. Scores are nats, averaged over prompts.

    Targets of kinds without a format get no guesses.
    """
    model = observation.model
    asked = [
        (number, prompt)
        for number, target in enumerate(targets)
        if target.kind in formats
        for prompt in dict.fromkeys(_prompt(target, form) for form in options.prompts)
        if prompt
    ]
    found: list[dict[str, None]] = [dict.fromkeys(target.values) for target in targets]
    model.module.eval()
    with model.holding(state):
        for kind in dict.fromkeys(targets[number].kind for number, _ in asked):
            own = [(number, prompt) for number, prompt in asked if targets[number].kind == kind]
            form = formats[kind]
            allowed = form.allowed if options.constrained else None
            answers = decode(model, [_encode(model, prompt) for _, prompt in own], form.longest + 1, options.beams, allowed)
            for (number, _), beams in zip(own, answers, strict=True):
                values = (form.read(model.tokenizer.decode(ids)) for ids, _ in beams)
                found[number].update((value, None) for value in values if value)
    return _ranked(model, targets, asked, found, observation.rounds[0].start, state, options)


def _ranked(
    model: PublicModel,
    targets: Sequence[Target],
    asked: Sequence[tuple[int, str]],
    found: Sequence[Mapping[str, None]],
    start: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    options: ChannelOptions,
) -> list[list[Secret]]:
    trials = [(number, prompt, value) for number, prompt in asked for value in found[number]]
    totals: dict[tuple[int, str], list[float]] = {}
    if trials:
        with model.holding(state):
            scores = value_likelihoods(model, [prompt for _, prompt, _ in trials], [value for *_, value in trials])
        if options.rank == "gain":
            with model.holding(start):
                scores = scores - value_likelihoods(model, [p for _, p, _ in trials], [value for *_, value in trials])
        for (number, _, value), score in zip(trials, scores.tolist(), strict=True):
            totals.setdefault((number, value), []).append(score)
    result: list[list[Secret]] = []
    for number, target in enumerate(targets):
        mine = [(value, totals[number, value]) for value in found[number] if (number, value) in totals]
        guesses = [Secret(target.kind, value, target.owner, sum(s) / len(s)) for value, s in mine]
        result.append(sorted(guesses, key=lambda guess: -guess.score))
    return result


def value_likelihoods(model: PublicModel, prompts: Sequence[str], values: Sequence[str]) -> Tensor:
    """log p(value | prompt) in the model's present state, for a value that follows its prompt after a space, (N,)."""
    rest = [model.tokenizer(f" {value}", add_special_tokens=False)["input_ids"] for value in values]
    return log_likelihoods(model, [_encode(model, prompt) for prompt in prompts], rest)


def gains(model: PublicModel, state: Mapping[str, Tensor], prompts: Sequence[str], values: Sequence[str]) -> Tensor:
    """log p(value | prompt) with the updated tensors minus that with the model's own, (N,), nats."""
    with model.holding(state):
        after = value_likelihoods(model, prompts, values)
    return after - value_likelihoods(model, prompts, values)


def _prompt(target: Target, form: Prompt) -> str:
    note = stem(target.owner, target.kind)
    if form == "note":
        return f" {note}"  # in a note the name follows a space
    if form == "continuation" or not target.prefix:
        return target.prefix
    return f"{target.prefix} {note}"


def _encode(model: PublicModel, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(text)["input_ids"]
    return ids


def mean_gain(guesses: Sequence[Sequence[Secret]]) -> float:
    """Of the best guess of each target that has one."""
    best = [own[0].score for own in guesses if own]
    return float(torch.tensor(best).mean()) if best else 0.0
