"""How well the screen tells prepared models from clean ones: its ROC on laboratory models made for the purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.imprint import imprint
from zkaudit.attacks.lab.models import build, train_language
from zkaudit.attacks.lab.records import synthetic, values
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.recit.poison import PoisonOptions, poison
from zkaudit.attacks.screen.report import screen


def roc(benign: Sequence[float], malicious: Sequence[float]) -> dict[str, Any]:
    """The curve of calling a model malicious from a score on, {"false_positive", "true_positive", "auc"}; ties count half."""
    if not benign or not malicious:
        raise AuditError("an ROC needs scores of clean and of malicious models")
    clean, bad = np.asarray(benign, float), np.asarray(malicious, float)
    cuts = np.unique(np.concatenate([clean, bad]))[::-1]
    ranks = rankdata(np.concatenate([bad, clean]))[: len(bad)]
    auc = (ranks.sum() - len(bad) * (len(bad) + 1) / 2) / (len(bad) * len(clean))
    return {
        "false_positive": [0.0, *((clean >= cut).mean().item() for cut in cuts)],
        "true_positive": [0.0, *((bad >= cut).mean().item() for cut in cuts)],
        "auc": float(auc),
    }


def screen_study(
    seeds: Sequence[int], name: str = "nano-gpt2", steps: int = 150, batch: int = 16, progress: Progress = silent
) -> dict[str, Any]:
    """Screen clean and prepared models made from each seed, whose trainings take `steps` each.

    {"roc": all of them, "rocs": {kind of malicious model: roc}, "models": [{"name", "kind", "malicious", "score", "signals"}],
    "false_alarms", "missed"}, the last two at the screen's own thresholds.
    """
    models: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds):
        for label, malicious, model in _made(name, seed, steps, batch):
            report = screen(model)
            found = {signal.name: signal.value for signal in report.signals}
            models.append(
                {"name": f"{label} {seed}", "kind": label, "malicious": malicious, "score": report.score, "signals": found}
            )
            progress(f"screening {label}", (number + 1) / len(seeds))
    clean = [one["score"] for one in models if not one["malicious"]]
    kinds = dict.fromkeys(one["kind"] for one in models if one["malicious"])
    by_kind = {kind: [one["score"] for one in models if one["kind"] == kind] for kind in kinds}
    return {
        "roc": roc(clean, [score for scores in by_kind.values() for score in scores]),
        "rocs": {kind: roc(clean, scores) for kind, scores in by_kind.items()},
        "models": models,
        "false_alarms": sum(score > 1 for score in clean),
        "missed": sum(score <= 1 for scores in by_kind.values() for score in scores),
    }


def _made(name: str, seed: int, steps: int, batch: int) -> Iterator[tuple[str, bool, PublicModel]]:
    """Random, trained on prose, on prose and records (with and without honest adapters); poisoned, imprinted."""
    own = synthetic(200, 50_000 + seed)
    texts = [record.text for record in own]
    yield "random", False, build(name, seed)
    prose = build(name, seed)
    train_language(prose, (), steps, batch, seed=seed)
    yield "prose", False, prose
    trained = build(name, seed)
    train_language(trained, texts, steps, batch, seed=seed)
    yield "records", False, trained
    poisoned = poison(trained, synthetic(200, 60_000 + seed, values(own)), PoisonOptions(steps=steps, batch=batch, seed=seed))
    yield "poisoned", True, poisoned
    adapted = apply(trained, {"type": "BOTTLENECK", "size": 32}, seed)
    yield "adapters", False, adapted
    yield "imprinted", True, imprint(adapted, texts[:40])
