"""What defences cost and what they save, against an attacker who does not know them and one who does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zkaudit.attacks.report import diagrams
from zkaudit.attacks.report.diagrams import Defended
from zkaudit.attacks.report.elements import Child, Row, badge, figure, measured, note, paragraph, table, tag
from zkaudit.attacks.report.quantities import ABSENT, interval, sentence, significant


def defences(result: Mapping[str, Any]) -> list[Child]:
    """The plane of utility and recovery, warnings, and the table."""
    found = result.get("defences", [])
    if not found:
        return []
    content: list[Child] = _plane(found)
    hollow = [defence["name"] for defence in found if defence.get("static_only")]
    if hollow:
        text = "An attacker who knows of them recovers far more than one who does not, so do not rely on"
        content.append(note(tag("strong", "Static-only win. "), f"{text}: {', '.join(hollow)}.", level="high"))
    if any(defence.get("epsilon") is not None for defence in found):
        content.append(
            paragraph(
                "ε is the differential privacy budget that an accountant gives; without one there is no formal guarantee.",
                class_="key",
            )
        )
    content.append(_table(found))
    return content


def _plane(found: Sequence[Mapping[str, Any]]) -> list[Child]:
    points = [
        Defended(
            defence["name"],
            defence["utility"]["value"],
            interval(defence.get("static")),
            interval(defence.get("adaptive")),
            bool(defence.get("front")),
            bool(defence.get("static_only")),
        )
        for defence in found
        if defence.get("utility", {}).get("value") is not None
    ]
    points = [point for point in points if point.static is not None or point.adaptive is not None]
    if not points:
        return []
    measure = next(defence["utility"] for defence in found if defence.get("utility", {}).get("value") is not None)
    name = measure.get("name", "utility")
    description = f"Defences by {name} and share recovered; the table below has the values"
    return [
        figure(
            diagrams.pareto(description, points, name, measure.get("better") == "lower"),
            "Each defence's utility and what is recovered in spite of it; low and to the right is good. The line joins the "
            "attacker who runs the published attack (open) to the one who knows the defence and adapts (filled). "
            "Marks of nearly equal utility are set side by side.",
        )
    ]


def _table(found: Sequence[Mapping[str, Any]]) -> Child:
    rows = []
    for defence in found:
        utility = defence.get("utility", {})
        rows.append(
            Row(
                [
                    defence["name"],
                    significant(utility.get("value")),
                    measured(defence.get("static")),
                    measured(defence.get("adaptive"), strong=True),
                    ABSENT if defence.get("epsilon") is None else significant(defence["epsilon"]),
                    [
                        _remark(defence),
                        [tag("div", sentence(defence[key])) for key in ("explanation", "note") if defence.get(key)],
                    ],
                ],
            )
        )
    named = next((d["utility"]["name"] for d in found if d.get("utility", {}).get("name")), "utility")
    lower = any(d.get("utility", {}).get("better") == "lower" for d in found)
    utility_head = f"{named.capitalize()} ({'lower' if lower else 'higher'} is better)"
    heads = ["Defence", utility_head, "Recovered, static attacker", "Recovered, adaptive attacker", "ε", "Remarks"]
    return table("Defences", heads, rows, numbers={1, 2, 3, 4})


def _remark(defence: Mapping[str, Any]) -> Child:
    if defence["name"] == "none":
        return badge("no defence", "neutral")
    if defence.get("static_only"):
        return badge("static-only win", "high")
    return badge("best trade-off", "low") if defence.get("front") else None
