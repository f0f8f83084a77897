"""Personal data that attacks recovered, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zkaudit.attacks.report import plots
from zkaudit.attacks.report.elements import Child, Row, figure, measured, table
from zkaudit.attacks.report.quantities import interval, significant
from zkaudit.attacks.report.sections.attacking import by_role, nothing, role_of

PII = {
    "exact": "Exact",
    "normalised": "Normalised",
    "edit_distance": "Edit distance",
    "similarity": "Similarity",
    "digits": "Digits in place",
    "linked": "With its owner",
    "linkage": "With its owner",
    "precision": "Precision",
}


def pii(result: Mapping[str, Any]) -> list[Child]:
    """Personal data by kind, for each attack."""
    scored = [attack for attack in by_role(result) if attack.get("pii")]
    found = [attack for attack in scored if any(_amount(part) for part in attack["pii"].values())]
    silent = nothing("Personal data", [attack for attack in scored if attack not in found])
    if not found:
        return silent
    kinds = list(dict.fromkeys(kind for attack in found for kind in attack["pii"]))
    used = list(dict.fromkeys(m for attack in found for part in attack["pii"].values() for m in part if m != "records"))
    used.sort(key=lambda metric: list(PII).index(metric) if metric in PII else len(PII))
    counted = any("records" in part for attack in found for part in attack["pii"].values())
    rows: list[Row] = []
    for kind in kinds:
        rows.append(Row([kind]))
        for attack in found:
            part = attack["pii"].get(kind)
            if part is not None:
                count = [significant(part.get("records"))] if counted else []
                rows.append(Row([attack["name"], *count, *(measured(part.get(metric)) for metric in used)], role_of(attack)))
    heads = ["Kind and attack", *(["Records"] if counted else []), *(PII.get(metric, metric) for metric in used)]
    content: list[Child] = []
    main = next((metric for metric in ("exact", "normalised", *used) if metric in used), None)
    if main is not None and main != "edit_distance":
        series = {a["name"]: [interval(a["pii"].get(kind, {}).get(main)) for kind in kinds] for a in found}
        title = f"{PII.get(main, main)} recovery of personal data by kind"
        plot = plots.dots(
            "pii",
            title,
            kinds,
            series,
            "share of values recovered",
            open_series=[attack["name"] for attack in found if role_of(attack) != "attack"],
        )
        content.append(figure(plot, f"{title}. Bars are confidence intervals; open marks are controls and oracles."))
    return [*content, table("Personal data by kind", heads, rows, range(1, len(heads))), *silent]


def _amount(part: Mapping[str, Any]) -> float:
    """How much was recovered of one kind, by any of its metrics."""
    values = (interval(raw) for metric, raw in part.items() if metric not in ("records", "edit_distance"))
    return max((value.value for value in values if value is not None), default=0.0)
