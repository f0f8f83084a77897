"""Tests 13 and 14: personal notes in the base model; whole records, the context and the values of the same person."""

from __future__ import annotations

import copy

from leakage.rows import Plan, Row
from zkaudit.attacks.attack import Attack, Ranking, Recovery
from zkaudit.attacks.dager import Dager
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import synthetic, values
from zkaudit.attacks.metrics import Scorer
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.recit.recover import Recit
from zkaudit.attacks.recit.study import StudyOptions, pii_study, study_bases
from zkaudit.attacks.threat import THREATS, Observation

OPTIONS = StudyOptions(arms=("clean", "poisoned"))
EPOCHS = (1, 5, 20)


def personal_notes(plan: Plan) -> list[Row]:
    """Test 13, prefix known."""
    records = 8 if plan.quick else 72
    found: dict[tuple[str, int, int], list[float]] = {}
    controls: list[float] = []
    for seed in range(plan.seeds):
        bases = study_bases(seed, OPTIONS)
        for batch, epochs in ((1, EPOCHS), (4, EPOCHS[-1:])):
            study = pii_study(seed, records, epochs, batch, OPTIONS, bases=bases)
            for arm, told in study["arms"].items():
                for number, rates in told["epochs"].items():
                    found.setdefault((arm, batch, number), []).append(rates["best"])
                    controls.append(rates["control"])
    last = EPOCHS[-1]
    rows = []
    for (arm, batch, number), rates in found.items():
        expected = "0 to 0.05" if arm == "clean" else "5 to 10 times the clean base's"
        what = f"values exact, {arm} base, {number} epochs, B = {batch}, {records} records a seed"
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
    """Test 14: nothing is given; one update of LoRA, rank 8, on all linear layers after 20 local epochs."""
    records = 4 if plan.quick else 72
    parts: dict[tuple[str, int], list[float]] = {}
    for seed in range(plan.seeds):
        base = study_bases(seed, StudyOptions(arms=("poisoned",)))["poisoned"]
        peft = {"type": "LORA", "r": OPTIONS.rank, "target_modules": "all-linear"}
        model = apply(copy.deepcopy(base), peft, seed)
        auxiliary = synthetic(64, 90_000 + seed, kinds=OPTIONS.kinds)
        clients = synthetic(records, 91_000 + seed, taken=values(auxiliary), kinds=OPTIONS.kinds)
        for batch in (1, 4):
            settings = FederatedSettings("delta", "adamw", OPTIONS.learning_rate, batch=batch, local_epochs=EPOCHS[-1])
            totals: dict[str, float] = {}
            for start in range(0, records, batch):
                own = clients[start : start + batch]
                run = simulate(model, [own], settings, seed=seed + start)
                seen = run.observation(THREATS["active"], auxiliary=auxiliary)
                judge = Scorer.of(model, own, settings.longest)
                ours = judge.score(_recovery(Recit(tokens_from=Pursuit()), seen))
                theirs = judge.score(_recovery(Dager(), seen))
                for name, score, metric in (
                    ("records", ours, "record_success"),
                    ("contexts", ours, "context_recovered"),
                    ("values", ours, "pii_normalised"),
                    ("records by DAGER", theirs, "record_success"),
                ):
                    totals[name] = totals.get(name, 0.0) + score.value(metric) * len(own)
            for name, total in totals.items():
                parts.setdefault((name, batch), []).append(total / records)
    rows = [Row(f"{name}, B = {batch}, {records} records a seed", "reported", found) for (name, batch), found in parts.items()]
    for batch in (1, 4):
        limit = [min(pair) for pair in zip(parts["contexts", batch], parts["values", batch], strict=True)]
        over = [a - b for a, b in zip(parts["records", batch], limit, strict=True)]
        rows.append(Row(f"records less the smaller of contexts and values, B = {batch}", "at most 0", over, most=0.0))
    fall = {
        name: [a - b for a, b in zip(parts[name, 1], parts[name, 4], strict=True)] for name in ("records", "records by DAGER")
    }
    rows.append(Row("records: B = 1 less B = 4", "above 0", fall["records"], 1e-9))
    slower = [b - a for a, b in zip(fall["records"], fall["records by DAGER"], strict=True)]
    rows.append(Row("the fall of DAGER less that", "above 0", slower, 1e-9))
    return rows


def _recovery(attack: Attack, seen: Observation) -> Recovery:
    try:
        return attack.run(seen)
    except AuditError:
        return Recovery(attack.name, Ranking((), (), 0))
