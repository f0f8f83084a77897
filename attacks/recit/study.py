"""What personal notes add: exact recall of clients' values from one round's update, over a clean and a poisoned base.

The prefixes of the clients' records are given, so that only the value channel is measured. Every client has `batch` records and
trains LoRA on all linear layers. Of the bases, "clean" is trained on the attacker's records and prose, "poisoned" from there on
D_gen, "repeated" likewise on the same people's records without notes: that tells what repetition alone does. Controls are
people whom no client has: what the channel answers for them, with their true prefix, should be wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build, train_language
from zkaudit.attacks.lab.records import Record, synthetic, values
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.recit.channel import ChannelOptions, Prompt, Target, ask, updated
from zkaudit.attacks.recit.formats import Format, Frame, fit, frames, learn
from zkaudit.attacks.recit.notes import NoteOptions
from zkaudit.attacks.recit.poison import PoisonOptions, perplexity, poison
from zkaudit.attacks.threat import THREATS, Observation, Round

PROMPTS: tuple[Prompt, ...] = ("continuation", "note", "both")
FEW_PEOPLE = NoteOptions(forms=("appended", "alone"))


@dataclass(frozen=True)
class StudyOptions:
    """`people` of the attacker's records make D_gen: few, so that steps suffice to store them; all teach the language."""

    model: str = "nano-llama"
    kinds: tuple[str, ...] = ("phone",)
    auxiliary: int = 600
    people: int = 48
    base_steps: int = 400
    poison: PoisonOptions = field(default_factory=lambda: PoisonOptions(FEW_PEOPLE, steps=500, learning_rate=2e-3))
    rank: int = 8
    learning_rate: float = 5e-3
    arms: tuple[str, ...] = ("clean", "poisoned", "repeated")


def pii_study(
    seed: int = 0,
    records: int = 32,
    epochs: Sequence[int] = (5, 20),
    batch: int = 1,
    options: StudyOptions = StudyOptions(),
    progress: Progress = silent,
    bases: Mapping[str, PublicModel] | None = None,
) -> dict[str, Any]:
    """Exact recall by arm, epochs and prompt: the value that ranks first by gain, over `records` clients' records.

    {"records", "seed", "batch", "arms": {arm: {"perplexity", "epochs": {n: {"best", "control", "gain", prompt: ...}}}}}, where
    "best" and "control" rank all prompts' answers together and "gain" is the mean of the best answers', nats. `bases` are those
    of an earlier `study_bases` with the same seed.
    """
    if records % batch:
        raise AuditError(f"{records} records cannot be split into clients of {batch}")
    auxiliary = _auxiliary(seed, options)
    bases = bases or study_bases(seed, options, progress)
    clients = synthetic(records, 3 * seed + 2_000_002, taken=values(auxiliary), kinds=options.kinds)
    controls = synthetic(records, 3 * seed + 2_000_003, taken=values(auxiliary) | values(clients), kinds=options.kinds)
    result: dict[str, Any] = {"records": records, "seed": seed, "batch": batch, "model": options.model, "arms": {}}
    for arm, base in bases.items():
        model = apply(copy.deepcopy(base), {"type": "LORA", "r": options.rank, "target_modules": "all-linear"}, seed)
        told: dict[str, Any] = {"perplexity": perplexity(base), "epochs": {}}
        for number in epochs:
            told["epochs"][number] = _recall(model, clients, controls, auxiliary, number, batch, seed, options)
            progress(f"asking the {arm} base after {number} epochs", 1.0)
        result["arms"][arm] = told
    return result


def study_bases(seed: int, options: StudyOptions, progress: Progress = silent) -> dict[str, PublicModel]:
    """The bases of the arms, all weights frozen."""
    auxiliary = _auxiliary(seed, options)
    clean = build(options.model, seed)
    train_language(clean, [r.text for r in auxiliary], steps=options.base_steps, seed=seed, progress=progress)
    recipe = replace(options.poison, seed=seed)
    plain = replace(recipe, notes=replace(recipe.notes, forms=("record",)))
    made = {"clean": clean}
    for arm, own in (("poisoned", recipe), ("repeated", plain)):
        if arm in options.arms:
            made[arm] = poison(clean, auxiliary[: options.people], own, progress)
    return {arm: made[arm] for arm in options.arms}


def _auxiliary(seed: int, options: StudyOptions) -> list[Record]:
    return synthetic(options.auxiliary, 3 * seed + 2_000_001, kinds=options.kinds)


def _recall(
    model: PublicModel,
    clients: Sequence[Record],
    controls: Sequence[Record],
    auxiliary: Sequence[Record],
    epochs: int,
    batch: int,
    seed: int,
    options: StudyOptions,
) -> dict[str, float]:
    settings = FederatedSettings("delta", "adamw", options.learning_rate, batch=batch, local_epochs=epochs)
    formats, known = learn(auxiliary, model.tokenizer), frames(auxiliary)
    hits: dict[str, float] = {prompt: 0.0 for prompt in (*PROMPTS, "best", "control", "gain")}
    for start in range(0, len(clients), batch):
        own = clients[start : start + batch]
        update = local_update(model, batches(model, own, settings), settings, seed=seed + start)
        seen = Observation(model, settings, [Round(model.state(), update)], THREATS["active"], _auxiliary=auxiliary)
        state = updated(seen, 0.0)
        asked: dict[str, list[tuple[str, float]]] = {
            name: _first(seen, own, known, formats, state, (name,)) for name in PROMPTS
        }
        asked["best"] = _first(seen, own, known, formats, state, PROMPTS)
        for name, answers in asked.items():
            hits[name] += sum(value == truth for (value, _), truth in zip(answers, map(_value, own), strict=True))
        strangers = controls[start : start + batch]
        answers = _first(seen, strangers, known, formats, state, PROMPTS)
        hits["control"] += sum(value == truth for (value, _), truth in zip(answers, map(_value, strangers), strict=True))
        hits["gain"] += sum(score for _, score in asked["best"])
    return {name: total / len(clients) for name, total in hits.items()}


def _value(record: Record) -> str:
    """The one that stands first in the text."""
    return min(record.pii.values(), key=record.text.index)


def _first(
    seen: Observation,
    people: Sequence[Record],
    known: Sequence[Frame],
    formats: Mapping[str, Format],
    state: Mapping[str, Tensor],
    prompts: tuple[Prompt, ...],
) -> list[tuple[str, float]]:
    """The likeliest answer, and its gain, for each person, whose prefix is known."""
    targets = []
    for record in people:
        fitted = fit(record.text, known)
        assert fitted is not None  # records of one generator
        targets.append(Target(fitted.frame.kind, record.owner, fitted.prefix))
    answers = ask(seen, targets, formats, state, ChannelOptions(prompts, beams=1))
    return [(own[0].value, own[0].score) if own else ("", 0.0) for own in answers]
