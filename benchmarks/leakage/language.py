"""Tests 12 and 15: encoders, and what an attack gains over a language model that never saw the update."""

from __future__ import annotations

import math
from functools import cache

from leakage.cases import LONGEST, Setting, base, case, lora
from leakage.rows import Plan, Row
from leakage.spans import FULL, cases
from zkaudit.attacks.controls import LanguageModelOnly, RandomTokens
from zkaudit.attacks.dager import Dager, DagerOptions
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import train_language
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.model import PublicModel

TRAINING = 300  # steps of the small base model; a tenth of them where it must be quick
PUBLIC_SEED = 60_000  # of the records that the base model was trained on


def encoder(plan: Plan) -> list[Row]:
    """Test 12. The published search is cut at as many combinations as ours tries."""
    rows = []
    published = DagerOptions("published", combinations=5000)
    for batch in (1, 4):
        federated = FederatedSettings(batch=batch, longest=8, dropout=False)
        setting = Setting("micro-bert", FULL, None, federated, started=False, task="sequence_classification")
        observed = cases(setting, plan)
        for options in (DagerOptions(), published):
            scores = [one.attack(Dager(options))[1] for one in observed]
            where = f"{Dager(options).name}, B = {batch}, 8 tokens"
            exact = [score.value("exact_match") for score in scores]
            if options.published and batch == 1:
                rows.append(Row(f"records exact; {where}", "1", exact))
            elif batch == 1:
                rows.append(Row(f"records exact; {where}", "1", exact, 0.99))
            elif options.published:
                rows.append(Row(f"records exact; {where}", "collapses: below 0.5", exact, most=0.5))
            else:
                rows.append(Row(f"records exact; {where}", "collapses without heuristics, which ours has", exact))
            least = -math.inf if options.published else 0.99
            rows.append(Row(f"token recall; {where}", "1", [score.value("token_recall") for score in scores], least))
    return rows


@cache
def trained(steps: int) -> PublicModel:
    """nano-llama after some training on prose and on records that nobody else has."""
    model = base("nano-llama")
    train_language(model, [record.text for record in synthetic(1000, PUBLIC_SEED)], steps)
    base.cache_clear()  # its weights are no longer random
    return model


def controls(plan: Plan) -> list[Row]:
    """Test 15."""
    start = trained(TRAINING // 10 if plan.quick else TRAINING)
    federated = FederatedSettings(batch=2, longest=LONGEST, dropout=False)
    rouge: dict[str, list[float]] = {}
    recall: dict[str, list[float]] = {}
    values, chance = [], 0.0
    for seed in range(plan.seeds):
        one = case(Setting("nano-llama", lora(32), None, federated), seed, start)
        chance = max(chance, one.chance)
        for attack in (Dager(), LanguageModelOnly(seed), RandomTokens(seed)):
            score = one.attack(attack)[1]
            rouge.setdefault(attack.name, []).append(score.value("rouge1"))
            recall.setdefault(attack.name, []).append(score.value("recall_at_n"))
            if isinstance(attack, LanguageModelOnly):
                values.append(score.value("pii_exact"))
    ours, control, drawn = Dager().name, LanguageModelOnly.name, RandomTokens.name
    gain = [a - b for a, b in zip(rouge[ours], rouge[control], strict=True)]
    return [
        Row("ROUGE-1, language model only", "0.3 to 0.6 may come from templates", rouge[control]),
        Row(f"ROUGE-1, {ours}, n < K", "at least 0.9", rouge[ours], 0.9),
        Row("gain in ROUGE-1 over the language model", "interval above 0.1", gain, 0.1, judged="low"),
        Row("recall at n, language model only", "reported", recall[control]),
        Row("recall at n, random", f"chance ({chance:.3f})", recall[drawn], most=3 * chance),
        Row("personal data exact, language model only", "0", values, most=0.0),
    ]
