"""Tests 13 and 14: personal notes in the base model; whole records, the context and the values of the same person."""

from __future__ import annotations

import copy
from dataclasses import replace

from leakage.rows import Plan, Row
from zkaudit.attacks.attack import Attack, Ranking, Recovery
from zkaudit.attacks.battery import scorer_of
from zkaudit.attacks.dager import Dager
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import synthetic, values
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.recit.poison import PoisonOptions
from zkaudit.attacks.recit.recover import Recit
from zkaudit.attacks.recit.study import FEW_PEOPLE, StudyOptions, pii_study, study_bases
from zkaudit.attacks.record_pursuit import RecordPursuit
from zkaudit.attacks.threat import THREATS, Observation

FEW = replace(PoisonOptions(FEW_PEOPLE, learning_rate=2e-3), steps=200)  # where it must be quick
EPOCHS = (1, 5, 20)
BATCHES = (1, 2, 4)
PARTS = {"record_success": "records", "context_recovered": "contexts", "pii_normalised": "values"}


def recipe(plan: Plan, *arms: str) -> StudyOptions:
    """How the bases are made."""
    return StudyOptions(arms=arms, base_steps=150, poison=FEW) if plan.quick else StudyOptions(arms=arms)


def personal_notes(plan: Plan) -> list[Row]:
    """Test 13, prefix known."""
    records, options = plan.records, recipe(plan, "clean", "poisoned")
    found: dict[tuple[str, int, int], list[float]] = {}
    controls: list[float] = []
    for seed in range(plan.seeds):
        bases = study_bases(seed, options)
        for batch, epochs in ((1, EPOCHS), (4, EPOCHS[-1:])):
            study = pii_study(seed, records - records % batch, epochs, batch, options, bases=bases)
            for arm, told in study["arms"].items():
                for number, rates in told["epochs"].items():
                    found.setdefault((arm, batch, number), []).append(rates["best"])
                    controls.append(rates["control"])
    last = EPOCHS[-1]
    rows = []
    for (arm, batch, number), rates in found.items():
        expected = "0 to 0.05" if arm == "clean" else "5 to 10 times the clean base's"
        what = f"values exact, {arm} base, {number} epochs, B = {batch}, {records - records % batch} records a seed"
        rows.append(Row(what, expected, rates))

    def less(one: tuple[str, int, int], other: tuple[str, int, int]) -> list[float]:
        return [a - b for a, b in zip(found[one], found[other], strict=True)]

    gain = less(("poisoned", 1, last), ("clean", 1, last))
    return [
        *rows,
        Row(f"poisoned less clean, {last} epochs, B = 1", "interval above 0", gain, 1e-9, judged="low"),
        Row(f"poisoned: {last} less 1 epochs", "above 0", less(("poisoned", 1, last), ("poisoned", 1, 1)), 1e-9),
        Row("poisoned: B = 1 less B = 4", "above 0", less(("poisoned", 1, last), ("poisoned", 4, last)), 1e-9),
        Row("values exact, people whom no client has", "about 0", controls, most=0.02),
    ]


def whole_records(plan: Plan) -> list[Row]:
    """Test 14: nothing is given but one gradient of LoRA, rank 8, on all linear layers, over the poisoned base."""
    records, options = plan.records, recipe(plan, "poisoned")
    rates: dict[tuple[str, str, int], list[float]] = {}
    for seed in range(plan.seeds):
        model = apply(
            copy.deepcopy(study_bases(seed, options)["poisoned"]),
            {"type": "LORA", "r": options.rank, "target_modules": "all-linear"},
            seed,
        )
        auxiliary = synthetic(64, 90_000 + seed, kinds=options.kinds)
        public = synthetic(16, 92_000 + seed, kinds=options.kinds)
        clients = synthetic(records, 91_000 + seed, taken=values(auxiliary) | values(public), kinds=options.kinds)
        start = model.state()
        for batch in BATCHES:
            settings = FederatedSettings(batch=batch, dropout=False, warm_up_steps=2, learning_rate=0.1)
            for first in range(0, records, batch):
                own = clients[first : first + batch]
                model.assign(start)
                run = simulate(model, [own], settings, seed=seed + first, public=public)
                seen = run.observation(THREATS["active"], auxiliary=auxiliary)
                for attack in (Recit(tokens_from=Pursuit()), RecordPursuit(), Dager()):
                    score = scorer_of(model, own, settings.longest).score(_recovery(attack, seen))
                    for name in PARTS:
                        rate = rates.setdefault((attack.name, name, batch), [0.0] * plan.seeds)
                        rate[seed] += score.value(name) * len(own) / records
    rows = [
        Row(f"{PARTS[name]}, {attack}, B = {batch}, {records} records a seed", "reported", found)
        for (attack, name, batch), found in rates.items()
    ]
    ours = Recit.name
    for batch in BATCHES:
        pairs = zip(rates[ours, "context_recovered", batch], rates[ours, "pii_normalised", batch], strict=True)
        over = [a - min(pair) for a, pair in zip(rates[ours, "record_success", batch], pairs, strict=True)]
        rows.append(Row(f"records less the smaller of contexts and values, {ours}, B = {batch}", "at most 0", over, most=0.0))
    few, many = BATCHES[0], BATCHES[-1]
    falls = {
        attack: [a - b for a, b in zip(*(rates[attack, "record_success", batch] for batch in (few, many)), strict=True)]
        for attack in (ours, Dager().name)
    }
    slower = [b - a for a, b in zip(falls[ours], falls[Dager().name], strict=True)]
    return [
        *rows,
        Row(f"records, {ours}: B = {few} less B = {many}", "above 0", falls[ours], 1e-9),
        Row(f"the fall of DAGER from B = {few} to {many} less that", "above 0", slower, 1e-9),
    ]


def _recovery(attack: Attack, seen: Observation) -> Recovery:
    try:
        return attack.run(seen)
    except AuditError:
        return Recovery(attack.name, Ranking((), (), 0))
