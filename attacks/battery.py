"""The attacks of an audit, each on several independent observations, scored and joined with intervals."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from zkaudit.attacks.attack import Attack, Progress, Recovery, silent
from zkaudit.attacks.catalogue import ATTACKS, ORACLES, chosen
from zkaudit.attacks.config import AuditConfig
from zkaudit.attacks.digests import of_tensors
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import Simulation, simulate
from zkaudit.attacks.imprint import Imprint
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.ledger import Ledger, PeakMemory
from zkaudit.attacks.metrics import Score, ScoreOptions, Scorer, combine
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.report.mask import mask
from zkaudit.attacks.setup import Records
from zkaudit.attacks.threat import Capability, Observation


@dataclass(frozen=True)
class Battery:
    """`model` has its adapters and the first round's start."""

    config: AuditConfig
    people: Records
    model: PublicModel
    capabilities: Capability


@dataclass(frozen=True)
class Done:
    """One dictionary for each attack, as the report wants it; digests of the updates; size of the first observation."""

    attacks: list[dict[str, Any]]
    hashes: dict[str, str]
    tokens: int
    distinct: int


def battery(case: Battery, ledger: Ledger, progress: Progress = silent) -> Done:
    """Run and score each attack on each observation; the model is as before afterwards."""
    config, model = case.config, case.model
    names = chosen(config.attacks.run, case.capabilities)
    names += list(ORACLES) if "dager" in names else []
    if Imprint.needs in case.capabilities and config.threat.poison == "imprint":
        names.insert(0, Imprint.name)
    start = model.state()
    total = len(names) * config.attacks.batches
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    hashes: dict[str, str] = {}
    sizes: list[tuple[int, int]] = []
    for number in range(config.attacks.batches):
        model.assign(start)
        clients = case.people.clients(config.federated, number)
        run = simulate(model, clients, config.federated, seed=number, public=case.people.public)
        seen = observed(run, case.capabilities, case.people.auxiliary)
        hashes[f"update {number}"] = of_tensors(seen.rounds[-1].update.tensors)
        sizes.append(_size(run))
        model.assign(seen.rounds[-1].start)
        for place, name in enumerate(names):
            show = Share(
                progress, f"batch {number + 1} of {config.attacks.batches}: {name}", number * len(names) + place, total
            )
            show("", 0.0)
            parts[name].append(ledger.do(f"attack/{name}/{number}", partial(_one, case, name, seen, run, number, show)))
    model.assign(start)
    return Done([joined(name, parts[name], config.attacks.seed) for name in names], hashes, *sizes[0])


@dataclass(frozen=True)
class Share:
    """Progress of one attack as progress of the whole."""

    whole: Progress
    label: str
    done: int
    total: int

    def __call__(self, _what: str, fraction: float) -> None:
        self.whole(self.label, (self.done + fraction) / self.total)


def _size(run: Simulation) -> tuple[int, int]:
    """Token positions, and distinct tokens, behind the last round's update."""
    rows = [(ids, kept) for b in run.batches[-1] for ids, kept in zip(b.input_ids, b.attention_mask, strict=True)]
    tokens = [token for ids, kept in rows for token in ids[kept > 0].tolist()]
    return len(tokens), len(set(tokens))


def observed(run: Simulation, capabilities: Capability, auxiliary: Sequence[Any]) -> Observation:
    """The last round (all of them, if clients use the same records in each) as the attacker gets it."""
    rounds = run.rounds if run.settings.same_batch else run.rounds[-1:]
    own = auxiliary if Capability.AUXILIARY in capabilities else ()
    return Observation(run.model, run.settings, rounds, capabilities, _auxiliary=own)


def _one(case: Battery, name: str, seen: Observation, run: Simulation, number: int, progress: Progress) -> dict[str, Any]:
    scorer = scorer_of(case.model, run.truth[-1], case.config.federated.longest)
    seed = case.config.attacks.seed + number
    attack = ORACLES[name](_true_ids(run)) if name in ORACLES else ATTACKS[name].make(seed)
    part = attempt(attack, seen, scorer, progress)
    recovery = part.pop("recovery")
    if number == 0 and recovery is not None:
        report = case.config.report
        part["examples"] = examples_of(scorer, recovery, run.truth[-1], report.show_values, report.examples)
    return part


def attempt(attack: Attack, seen: Observation, scorer: Scorer | None, progress: Progress) -> dict[str, Any]:
    """One run of an attack: its recovery (None with an error), score, seconds and memory."""
    part: dict[str, Any] = {"error": None, "score": None, "examples": [], "recovery": None}
    started = time.perf_counter()
    with PeakMemory() as memory:
        try:
            part["recovery"] = attack.run(seen, progress)
        except AuditError as error:
            part["error"] = str(error)
    part |= {"seconds": time.perf_counter() - started, "memory_bytes": memory.bytes}
    if scorer is not None and part["recovery"] is not None:
        part["score"] = scorer.score(part["recovery"]).to_json()
    return part


def _true_ids(run: Simulation) -> list[list[int]]:
    """For oracles alone: what the model saw, without the last token of a causal record."""
    rows = [(ids, kept) for b in run.batches[-1] for ids, kept in zip(b.input_ids, b.attention_mask, strict=True)]
    shown = -1 if run.model.task == "causal_lm" else None
    return [ids[kept > 0].tolist()[:shown] for ids, kept in rows]


def scorer_of(model: PublicModel, records: Sequence[Record], longest: int) -> Scorer:
    """A scorer that leaves out each record's last token for causal models: it is an input to nothing that has a loss."""
    return Scorer.of(model, records, longest, ScoreOptions(leave_out_last=model.task == "causal_lm"))


def examples_of(scorer: Scorer, recovery: Recovery, records: Sequence[Record], shown: bool, most: int) -> list[dict[str, Any]]:
    """Records beside what was made of them; personal data are hidden unless they are to be `shown`."""
    hidden = {value for record in records for value in (record.owner, *record.pii.values()) if value}
    examples = []
    for true, found in scorer.matched(recovery)[:most]:
        texts = (true, found) if shown else (mask(true, hidden), mask(found, hidden))
        examples.append({"true": texts[0], "recovered": texts[1], "masked": not shown})
    return examples


def joined(name: str, parts: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """One attack over all observations, as the report wants it."""
    entry = ATTACKS.get(name)
    scores = [Score.from_json(part["score"]) for part in parts if part["score"] is not None]
    joined: dict[str, Any] = {
        "name": name,
        "role": entry.role if entry else "oracle",
        "summary": entry.summary if entry else "an upper bound that is told the truth",
        "needs": [str(c.name).lower().replace("_", " ") for c in entry.make(0).needs] if entry else ["truth"],
        "seconds": sum(part["seconds"] for part in parts) / len(parts),
        "memory_bytes": max(part["memory_bytes"] for part in parts),
        "error": next((part["error"] for part in parts if part["error"]), None),
        "examples": [example for part in parts for example in part["examples"]],
    }
    return joined | (combine(scores, seed) if scores else {})
