"""The defences of a configuration, each under a static and an adaptive attacker, with what it costs in utility."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from zkaudit.attacks.attack import Progress, Recovery, silent
from zkaudit.attacks.config import AuditConfig
from zkaudit.attacks.defences import Defence, catalogue, parse
from zkaudit.attacks.defences.dp_sgd import Accounting
from zkaudit.attacks.defences.pareto import front
from zkaudit.attacks.defences.sweep import Case, DefenceResult, sweep
from zkaudit.attacks.federated.rounds import Simulation
from zkaudit.attacks.ledger import Ledger
from zkaudit.attacks.metrics import Scorer
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.setup import Records, with_adapters
from zkaudit.attacks.span_test import StaticSpanTest


def measured_defences(
    config: AuditConfig, base: PublicModel, people: Records, ledger: Ledger, progress: Progress = silent
) -> list[dict[str, Any]]:
    """One dictionary a defence, for the report, "none" first."""

    def build(defence: Defence, seed: int) -> Case:
        settings = defence.settings(config.federated)
        blocks = int(getattr(base.config, "num_hidden_layers", 1))
        peft = defence.peft(dict(config.peft), blocks)
        model = with_adapters(base, dataclasses.replace(config, peft=peft))
        clients = people.enough_clients(settings, seed)
        return Case(model, clients, config.federated, people.test, people.public)

    def score(recovery: Recovery, run: Simulation) -> float:
        scorer = Scorer.of(run.model, run.truth[-1], run.settings.longest)
        return scorer.score(recovery).value("recall_at_n")

    defences = [parse(text) for text in config.defences.run]
    kept = {name: ledger.get(f"defence/{name}") for name in ("none", *(defence.name for defence in defences))}
    results = sweep(
        defences,
        build,
        {"static": StaticSpanTest(), "adaptive": Pursuit()},
        score,
        seeds=range(config.defences.batches),
        utility_steps=config.defences.utility_steps,
        accounting=_accounting(config, people),
        done={name: DefenceResult.from_dict(part) for name, part in kept.items() if part is not None},
        store=lambda result: ledger.put(f"defence/{result.defence}", result.to_dict()),
        progress=progress,
    )
    return _rows(results)


def _accounting(config: AuditConfig, people: Records) -> Accounting:
    """For epsilon: the clients' records are the population, one pass over them the training."""
    population = max(len(people.private), config.federated.records)
    rate = config.federated.batch * config.federated.accumulation / population
    return Accounting(sample_rate=rate, steps=max(1, round(1 / rate)), delta=min(1e-5, 1 / (10 * population)))


def _rows(results: Sequence[DefenceResult]) -> list[dict[str, Any]]:
    """For the report: scores with intervals, utility, whether a defence only stops the static attacker, the front."""
    undefended = results[0].interval("adaptive").value
    rows = []
    for result in results:
        row: dict[str, Any] = {
            "name": result.defence,
            "explanation": _explanation(result.defence),
            "static": result.interval("static").to_dict(),
            "adaptive": result.interval("adaptive").to_dict(),
            "chance": result.interval("chance").value,
            "undefended": undefended,
            "epsilon": result.epsilon if result.epsilon is not None and math.isfinite(result.epsilon) else None,
            "static_only": result.static_only,
            "note": result.note,
        }
        if result.utility is not None and math.isfinite(result.utility.defended.perplexity):
            row["utility"] = {"name": "perplexity", "value": result.utility.defended.perplexity, "better": "lower"}
        rows.append(row)
    with_utility = [row for row in rows if "utility" in row]
    points = [(-row["utility"]["value"], row["adaptive"]["value"]) for row in with_utility]
    for row, best in zip(with_utility, front(points), strict=True):
        row["front"] = best
    return rows


def _explanation(text: str) -> str:
    kinds = {kind.name: kind for kind in catalogue()}
    return "; ".join(kinds[part.split(":")[0].strip()].explanation for part in text.split("+"))
