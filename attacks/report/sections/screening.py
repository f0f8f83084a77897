"""Whether the base model looks as if it had been prepared to leak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zkaudit.attacks.report import plots
from zkaudit.attacks.report.elements import Child, badge, figure, paragraph, table, tag
from zkaudit.attacks.report.quantities import ABSENT, decimal, significant


def screen(result: Mapping[str, Any]) -> list[Child]:
    """Verdict, signals with thresholds, ROC of the screen."""
    found = result.get("screen")
    if not found:
        return []
    content: list[Child] = []
    if found.get("verdict"):
        score = None if found.get("score") is None else f" (score {significant(found['score'])})"
        content.append(paragraph(tag("strong", found["verdict"][:1].upper() + found["verdict"][1:]), score, "."))
    signals = found.get("signals", [])
    if signals:
        rows = [
            [
                signal["name"].replace("_", " "),
                significant(signal.get("value")),
                significant(signal.get("threshold")),
                _state(signal),
                signal.get("explanation", ""),
            ]
            for signal in signals
        ]
        content.append(
            table("Signals of a poisoned base model", ["Signal", "Value", "Threshold", "State", "Meaning"], rows, {1, 2})
        )
    roc = found.get("roc") or {}
    if roc.get("false_positive") and roc.get("true_positive"):
        content.append(
            figure(
                plots.roc(
                    f"ROC curve of the screen, area {decimal(roc.get('auc'))}",
                    roc["false_positive"],
                    roc["true_positive"],
                    roc.get("auc"),
                ),
                "How well the screen tells poisoned base models from clean ones, on models made for this test.",
            )
        )
    return content


def _state(signal: Mapping[str, Any]) -> Child:
    value, threshold = signal.get("value"), signal.get("threshold")
    if value is None or threshold is None:
        return ABSENT
    return badge("above", "high") if value > threshold else badge("below", "low")
