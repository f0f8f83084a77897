"""Leakage against what a deployment can choose: records in a batch, and clients in a secure aggregation."""

from __future__ import annotations

import dataclasses
from typing import Any

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.config import AuditConfig
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.metrics import Scorer
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.setup import Records
from zkaudit.attacks.threat import Observation

BATCHES = (1, 2, 4, 8, 16)
COHORTS = (1, 2, 4, 8)


def curves(model: PublicModel, people: Records, config: AuditConfig, progress: Progress = silent) -> dict[str, Any]:
    """{"batch": {"x", "recall"}, "cohort": ...} by pursuit on one observation each; empty if pursuit does not apply."""
    base = dataclasses.replace(config.federated, rounds=1)
    start = model.state()
    result: dict[str, Any] = {}
    for name, points in (("batch", BATCHES), ("cohort", COHORTS)):
        recalls = []
        for number, value in enumerate(points):
            settings = _changed(base, name, value)
            progress(f"leakage against {name}", number / len(points))
            try:
                recalls.append(_recall(model, people, settings))
            except AuditError:
                recalls = []
                break
            finally:
                model.assign(start)
        if recalls:
            result[name] = {"x": list(points), "recall": recalls}
    return result


def _changed(settings: FederatedSettings, name: str, value: int) -> FederatedSettings:
    return dataclasses.replace(settings, batch=value) if name == "batch" else dataclasses.replace(settings, cohort=value)


def _recall(model: PublicModel, people: Records, settings: FederatedSettings) -> float:
    run = simulate(model, people.enough_clients(settings, 0), settings, public=list(people.public) * settings.batch)
    model.assign(run.rounds[-1].start)
    recovery = Pursuit().run(Observation(model, settings, run.rounds))
    return Scorer.of(model, run.truth[-1], settings.longest).score(recovery).value("recall_at_n")
