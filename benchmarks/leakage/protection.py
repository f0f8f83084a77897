"""Tests 9 to 11: low precision, dropout, adaptive optimizers and differential privacy."""

from __future__ import annotations

from dataclasses import replace

from leakage.cases import Setting, case, lora
from leakage.rows import Plan, Row
from leakage.spans import cases, metric
from zkaudit.attacks.defences import parse
from zkaudit.attacks.defences.dp_sgd import norms
from zkaudit.attacks.defences.examples import Engine, per_example
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.span_test import SpanTest, StaticSpanTest


def precision_and_dropout(plan: Plan) -> list[Row]:
    """Test 9."""
    rows = []
    for label in ("bfloat16", "int8", "lora_dropout 0.1"):
        setting = Setting(plan.llama, lora(16), 24)
        if "dropout" in label:
            setting = replace(setting, peft=lora(16, lora_dropout=0.1), federated=FederatedSettings(dropout=True))
        else:
            setting = replace(setting, federated=replace(setting.federated, precision=label))
        observed = cases(setting, plan)
        where = f"{label}, n = {observed[0].inputs}, K = 48"
        rows += [
            Row(f"recall, static; {where}", "at most 0.2", metric(observed, StaticSpanTest, "token_recall"), most=0.2),
            Row(f"recall at n, span test; {where}", "at least 0.95", metric(observed, SpanTest, "recall_at_n"), 0.95),
            Row(f"recall at n, pursuit; {where}", "at least 0.95", metric(observed, Pursuit, "recall_at_n"), 0.95),
        ]
    return rows


def adamw(plan: Plan) -> list[Row]:
    """Test 10."""
    one_step = FederatedSettings(sends="delta", dropout=False)
    signs_step = replace(one_step, optimizer="adamw", learning_rate=1e-3)
    rows = []
    for count in (12, 24, 48):
        setting = Setting(plan.llama, lora(8), count)
        sgd, adam = cases(replace(setting, federated=one_step), plan), cases(replace(setting, federated=signs_step), plan)
        chance = max(one.chance for one in adam)
        for attack in (SpanTest, Pursuit):
            plain, signs = metric(sgd, attack, "recall_at_n"), metric(adam, attack, "recall_at_n")
            difference = [a - b for a, b in zip(plain, signs, strict=True)]
            where = f"{attack.name}, n = {count}, K = 24"
            expected = "interval above 3 times chance; 0.55 at n = K/2 and 0.2 at 2K by simulation"
            rows.append(Row(f"recall at n, AdamW; {where}", expected, signs, 3 * chance, judged="low"))
            rows.append(Row(f"SGD less AdamW; {where}", "interval above 0", difference, 1e-9, judged="low"))
    return rows


def private(plan: Plan) -> list[Row]:
    """Test 11."""
    federated = FederatedSettings(batch=4, longest=5, dropout=False)
    setting = Setting(plan.llama, lora(16), None, federated)
    recalls: dict[str, list[float]] = {}
    for seed in range(plan.seeds):
        plain = case(setting, seed)
        gradients = per_example(plain.run.model, plain.run.batches[-1][0], Engine("loop"))
        clip = float(norms(gradients).median())
        defended = {
            "none": plain,
            "clip": case(replace(setting, defence=parse(f"clip:{clip}")), seed),
            "sigma 0.1": case(replace(setting, defence=parse(f"dp_sgd:0.1:{clip}")), seed),
            "sigma 1": case(replace(setting, defence=parse(f"dp_sgd:1:{clip}")), seed),
        }
        for label, one in defended.items():
            for attack in (SpanTest(), Pursuit()):
                recalls.setdefault(f"{label}, {attack.name}", []).append(one.attack(attack)[1].value("recall_at_n"))
    rows = []
    for attack in (SpanTest, Pursuit):
        changed = [a - b for a, b in zip(recalls[f"none, {attack.name}"], recalls[f"clip, {attack.name}"], strict=True)]
        rows += [
            Row(f"recall at n, {attack.name}, undefended; n about 16", "1", recalls[f"none, {attack.name}"], 0.99),
            Row(f"undefended less clipping only, {attack.name}", "0", changed, -0.01, 0.01),
            Row(f"recall at n, {attack.name}, sigma 0.1", "0.31 by simulation", recalls[f"sigma 0.1, {attack.name}"]),
            Row(f"recall at n, {attack.name}, sigma 1", "chance", recalls[f"sigma 1, {attack.name}"], most=0.1),
        ]
    return rows
