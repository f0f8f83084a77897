"""Tests 1 to 8: what the algebra of gradients says about which tokens, and which records, an update shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from leakage.cases import LONGEST, Case, Setting, case, inputs, lora
from leakage.rows import Plan, Row
from zkaudit.attacks.attack import Attack
from zkaudit.attacks.dager import Dager, DagerOptions
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.matching.tag import TAG
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.span_test import SpanTest, StaticSpanTest
from zkaudit.attacks.spans import beta_p_values
from zkaudit.attacks.token_set import TokenSet

PUBLISHED = DagerOptions("published")
FULL = {"type": "FULL"}


def cases(setting: Setting, plan: Plan) -> list[Case]:
    """One observation a seed."""
    return [case(setting, seed) for seed in range(plan.seeds)]


def metric(observed: Sequence[Case], attack: Callable[[], Attack], name: str) -> list[float]:
    """A metric of an attack on each observation."""
    return [one.attack(attack())[1].value(name) for one in observed]


def full_gradient(plan: Plan) -> list[Row]:
    """Test 1."""
    batch = 3 if plan.quick else 4
    setting = Setting(plan.gpt2, FULL, None, FederatedSettings(batch=batch, longest=LONGEST, dropout=False), started=False)
    rows = []
    for double, attack, least in ((False, Dager(), 0.95), (True, Dager(), 0.99), (False, Dager(PUBLISHED), None)):
        settings = replace(setting.federated, precision="float64") if double else setting.federated
        observed = cases(replace(setting, federated=settings, double=double), plan)
        scores = [one.attack(attack)[1] for one in observed]
        label = f"{attack.name}, {'float64' if double else 'float32'}, n about {observed[0].inputs}"
        for name, bound, what in (("token_f1", 0.99, "token F1"), ("exact_match", least, "records exact")):
            wanted = {"expected": f"at least {bound}", "least": bound} if least is not None else {"expected": "reported"}
            rows.append(Row(f"{what}; {label}", values=[score.value(name) for score in scores], **wanted))
    return rows


def beyond_the_width(plan: Plan) -> list[Row]:
    """Test 2."""
    setting = Setting("nano-gpt2", FULL, None, FederatedSettings(batch=8, longest=LONGEST, dropout=False), started=False)
    observed = cases(setting, plan)
    scores = [one.attack(Dager(DagerOptions(beam=8)))[1] for one in observed]
    where = f"n about {observed[0].inputs}, d = 128"
    return [
        Row(f"records exact, DAGER; {where}", "falls sharply: below 0.5", [s.value("exact_match") for s in scores], most=0.5),
        Row(f"token recall, DAGER; {where}", "best effort", [s.value("token_recall") for s in scores]),
        Row(f"recall at n, pursuit; {where}", "best effort", metric(observed, Pursuit, "recall_at_n")),
    ]


def lora_within_rank(plan: Plan) -> list[Row]:
    """Test 3. Distances are gated a little below the rank: at it the smallest singular value may drown in rounding."""
    rows = []
    for model, peft, capacity in ((plan.llama, lora(8), 24), (plan.gpt2, lora(16, "c_attn"), 16)):
        for count in (capacity * 3 // 4, capacity):
            observed = cases(Setting(model, peft, count), plan)
            far, near = zip(*(distances(one) for one in observed), strict=True)
            where = f"{model}, n = {observed[0].inputs}, K = {capacity}"
            bound = {"most": 1e-4} if count < capacity else {}
            rows.append(Row(f"largest distance of a true token; {where}", "below 1e-4", far, **bound))
            rows.append(Row(f"smallest distance of another; {where}", "above 0.3", near, least=0.3))
            for attack in (SpanTest, Pursuit):
                recall, precision = (metric(observed, attack, f"token_{name}") for name in ("recall", "precision"))
                rows.append(Row(f"recall, {attack.name}; {where}", "1", recall, least=1.0))
                rows.append(Row(f"precision, {attack.name}; {where}", "at least 0.95", precision, least=0.95))
    return rows


def distances(one: Case) -> tuple[float, float]:
    """The largest of a true token, the smallest of another."""
    distance = one.attack(SpanTest())[0].evidence["distance_by_token"]
    longest = one.run.settings.longest
    true = {token for record in one.run.truth[-1] for token in inputs(one.run.model, record, longest)}
    others = (value for token, value in enumerate(distance) if token not in true)
    return max(distance[token] for token in true), min(others)


def lora_beyond_rank(plan: Plan) -> list[Row]:
    """Test 4."""
    rows = []
    for factor, low, high in ((2, 0.5, 0.85), (4, 0.25, 0.65)):
        observed = cases(Setting(plan.llama, lora(8), 24 * factor), plan)
        where = f"n = {factor} K"
        ranked = metric(observed, SpanTest, "recall_at_n")
        chance = max(one.chance for one in observed)
        rows += [
            Row(f"recall at n, span test; {where}", f"{low} to {high} by simulation", ranked, low, high),
            Row(f"the same against chance; {where}", "interval above 3 times chance", ranked, 3 * chance, judged="low"),
            Row(f"recall, static threshold; {where}", "0", metric(observed, StaticSpanTest, "token_recall"), most=0.0),
            Row(f"recall, pursuit; {where}", "reported", metric(observed, Pursuit, "token_recall")),
            Row(f"precision, pursuit; {where}", "reported", metric(observed, Pursuit, "token_precision")),
        ]
    return rows


def first_round(plan: Plan) -> list[Row]:
    """Test 5."""
    rank = 16
    setting = Setting(plan.llama, lora(rank, "v_proj"), started=False)  # a first position has no part in the error of its query
    within, at_edge, beyond = (cases(replace(setting, tokens=count), plan) for count in (rank - 2, rank - 1, 2 * rank))
    largest = [
        max(float(value.abs().max()) for name, value in one.run.rounds[0].update.tensors.items() if "lora_A" in name)
        for one in within
    ]
    false_hits, predicted = [], []
    for one in at_edge:
        recovery, score = one.attack(StaticSpanTest(1e-3))
        assert recovery.tokens is not None
        false_hits.append(recovery.tokens.claimed * (1 - score.value("token_precision")))
        predicted.append(one.vocabulary * float(beta_p_values(torch.tensor([1e-3]), rank, rank - 1)[0]))
    return [
        Row("largest entry of A's gradient", "0", largest, most=0.0),
        Row(f"recall, span test on B; n = {within[0].inputs}", "1", metric(within, SpanTest, "token_recall"), least=1.0),
        Row(f"precision, span test on B; n = {within[0].inputs}", "1", metric(within, SpanTest, "token_precision"), least=0.95),
        Row(f"false hits below 1e-3; n = {at_edge[0].inputs}", f"tens ({predicted[0]:.0f} by Beta)", false_hits, 1.0, 100.0),
        Row(
            f"recall, span test; n = {beyond[0].inputs}", "nothing claimed", metric(beyond, SpanTest, "token_recall"), most=0.0
        ),
        Row(f"recall at n, span test; n = {beyond[0].inputs}", "chance", metric(beyond, SpanTest, "recall_at_n"), most=0.1),
        Row(f"recall at n, pursuit; n = {beyond[0].inputs}", "reported", metric(beyond, Pursuit, "recall_at_n")),
    ]


def stacking(plan: Plan) -> list[Row]:
    """Test 6."""
    rank = 8
    targets = {"v": ("v_proj",), "q, k, v": ()}
    edges: dict[str, list[float]] = {label: [] for label in targets}
    for label, names in targets.items():
        for seed in range(plan.seeds):
            edge = 0
            for factor in (1, 2, 3, 4, 6):
                one = case(Setting(plan.llama, lora(rank, *names), factor * rank), seed)
                if one.attack(StaticSpanTest())[1].value("token_recall") < 0.99:
                    break
                edge = factor
            edges[label].append(edge)
    firsts = cases(Setting(plan.llama, lora(64, "q_proj"), 24), plan)
    seen = [one.attack(SpanTest())[1].value("token_recall") for one in firsts]
    return [
        Row("largest n/r at which all true distances are below 1e-3, v alone", "1", edges["v"], 1.0, 1.0),
        Row("the same, q, k and v stacked", "3", edges["q, k, v"], 3.0, 3.0),
        Row("recall, span test, q alone, r = 64 > n", "1, less the first token of each record", seen),
    ]


def trained_embedding(plan: Plan) -> list[Row]:
    """Test 7."""
    rows = []
    federated = FederatedSettings(batch=32, longest=LONGEST, dropout=False)
    kinds = {"saved embedding": lora(8, modules_to_save=["embed_tokens"]), "LoRA on it": lora(8, "q_proj", "embed_tokens")}
    for label, peft in kinds.items():
        observed = cases(Setting(plan.llama, peft, None, federated), plan)
        for name, what in (("token_recall", "recall"), ("token_precision", "precision")):
            row = Row(f"{what}, {label}; n = {observed[0].inputs}", "1", metric(observed, TokenSet, name), least=1.0)
            rows.append(row)
    return rows


def no_span(plan: Plan) -> list[Row]:
    """Test 8."""
    rows = []
    short = FederatedSettings(batch=1, longest=6, dropout=False)
    methods = {
        "prompt": ("nano-llama", {"type": "PROMPT_TUNING", "num_virtual_tokens": 8}),
        "IA3": ("nano-llama", {"type": "IA3"}),
        "BitFit": ("nano-gpt2", {"type": "BITFIT"}),
    }
    for label, (model, peft) in methods.items():
        observed = cases(Setting(model, peft, None, short, started=False), plan)
        claims = [
            max(one.attack(attack)[1].value("token_recall") for attack in (SpanTest(), Pursuit(), StaticSpanTest()))
            for one in observed
        ]
        matched = [one.attack(TAG(steps=100, seed=i))[1].value("recall_at_n") for i, one in enumerate(observed)]
        rows.append(Row(f"recall, span tests and pursuit; {label}", "0: they do not apply", claims, most=0.0))
        rows.append(Row(f"recall at n, gradient matching, one record of 6 tokens; {label}", "short records only", matched))
    return rows
