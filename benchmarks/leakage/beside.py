"""The same observations attacked by DAGER as published, by DAGER and the span test calibrated, and by pursuit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leakage.cases import STILL, Case, Setting, case, lora
from leakage.rows import Plan
from leakage.spans import FULL
from zkaudit.attacks.attack import Progress, Ranking, Recovery
from zkaudit.attacks.dager import Dager, DagerOptions
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import SHAPES
from zkaudit.attacks.metrics import Score, interval, mean_of
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.span_test import SpanTest

MODELS = ("nano-llama", "nano-gpt2", "micro-llama", "micro-gpt2")
ATTACKERS = ("published", "calibrated", "span", "static", "pursuit")  # columns, in this order
METRICS = ("token_recall", "token_precision", "recall_at_n", "exact_match")
RANKS = (1, 2, 4, 8, 16, 32)
FACTORS = (1 / 3, 1, 2, 4, 8)  # n over K; the first is n = r where q, k and v are apart, since the published rules read q alone
CONDITIONS = ("bfloat16", "int8", "fp8_e4m3", "fp8_e5m2", "lora_dropout 0.1", "AdamW delta")
MOST_INPUTS = 1.5  # times the width
SEARCHED = 100  # inputs up to which the calibrated search for sentences is run: beyond the rank it is long and finds nothing
STATIC = 1e-3  # distance


@dataclass(frozen=True)
class Cell:
    """A setting, what is said of it, and the rank K that its update can show."""

    setting: Setting
    condition: str
    rank: int
    capacity: int


def cells(model: str, plan: Plan) -> Iterator[Cell]:
    """The grid of one model: ranks and sizes in float32, then other conditions at rank 8."""
    fused = "gpt2" in model
    width = SHAPES[model].width
    small = plan.quick or not model.startswith("nano")
    for rank in (2, 8, 32) if small else RANKS:
        capacity = rank if fused else 3 * rank
        for factor in FACTORS[fused:]:
            count = round(capacity * factor)
            if 2 <= count <= MOST_INPUTS * width:
                yield Cell(Setting(model, _lora(rank, fused), count), "float32", rank, capacity)
    if not model.startswith("nano"):
        return
    for condition in CONDITIONS:
        for count in (12, 24, 48):
            setting = _under(condition, Setting(model, _lora(8, fused), count), fused)
            yield Cell(setting, condition, 8, 8 if fused else 24)
    for share in (0.5, 0.8):
        setting = Setting(model, FULL, round(share * width), started=False)
        yield Cell(setting, "full gradient", width, width)


def _lora(rank: int, fused: bool, **options: Any) -> dict[str, Any]:
    return lora(rank, *(("c_attn",) if fused else ()), **options)


def _under(condition: str, setting: Setting, fused: bool) -> Setting:
    if condition == "lora_dropout 0.1":
        return replace(setting, peft=_lora(8, fused, lora_dropout=0.1), federated=FederatedSettings())
    if condition == "AdamW delta":
        federated = FederatedSettings(sends="delta", optimizer="adamw", learning_rate=1e-3, dropout=False)
        return replace(setting, federated=federated)
    return replace(setting, federated=replace(STILL, precision=condition))


def compared(model: str, plan: Plan, progress: Progress) -> list[dict[str, Any]]:
    """One entry a cell: {"condition", "rank", "capacity", "inputs", attacker: {metric: {"value", "low", "high"}}}."""
    grid = list(cells(model, plan))
    seeds = plan.seeds if model.startswith("nano") else 1
    found = []
    for number, cell in enumerate(grid):
        progress(f"{model}: {cell.condition}, rank {cell.rank}, n {cell.setting.tokens}", number / len(grid))
        observed = [case(cell.setting, seed) for seed in range(seeds)]
        scores: dict[str, list[Score]] = {}
        for one in observed:
            for name, score in attacked(one).items():
                scores.setdefault(name, []).append(score)
        entry: dict[str, Any] = {
            "condition": cell.condition,
            "rank": cell.rank,
            "capacity": cell.capacity,
            "inputs": round(sum(one.inputs for one in observed) / seeds),
            "width": SHAPES[model].width,
            "seeds": seeds,
        }
        for name, own in scores.items():
            entry[name] = {metric: _interval(own, metric) for metric in METRICS}
        found.append(entry)
    return found


def attacked(one: Case) -> dict[str, Score]:
    """Every attacker's score; the static threshold is read off the span test's distances."""
    scores = {"published": one.attack(Dager(DagerOptions("published")))[1]}
    if one.inputs <= SEARCHED:
        scores["calibrated"] = one.attack(Dager())[1]
    recovery, scores["span"] = one.attack(SpanTest())
    if "distance_by_token" in recovery.evidence:
        scores["static"] = one.scorer.score(static(recovery))
    scores["pursuit"] = one.attack(Pursuit())[1]
    return scores


def static(recovery: Recovery) -> Recovery:
    """What `StaticSpanTest` would make of the same distances."""
    distances: Sequence[float] = recovery.evidence["distance_by_token"]
    order = sorted(range(len(distances)), key=distances.__getitem__)
    claimed = sum(distance < STATIC for distance in distances)
    return Recovery("static", Ranking(order, [1 - distances[token] for token in order], claimed))


def _interval(scores: Sequence[Score], metric: str) -> dict[str, float]:
    return interval(mean_of([score.value(metric) for score in scores])).to_dict()


def where_pursuit_loses(entry: dict[str, Any], margin: float = 0.01) -> list[str]:
    """Attackers that recall more (of what they claim, or at n) than pursuit does in this cell."""
    ours = entry["pursuit"]
    return [
        f"{name} {metric}"
        for name in ATTACKERS[:-1]
        if name in entry
        for metric in ("token_recall", "recall_at_n")
        if entry[name][metric]["value"] > ours[metric]["value"] + margin
    ]
