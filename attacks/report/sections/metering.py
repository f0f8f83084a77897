"""What the meter says before any attack: groups of tensors, findings, tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from zkaudit.attacks.report.elements import Child, Html, badge, code, details, paragraph, table, tag
from zkaudit.attacks.report.quantities import ABSENT, ratio, sentence, significant

REGIMES = {"set": "high", "exact": "high", "soft": "medium", "weak": "low", "none": "neutral"}
SEVERITIES = {"high": 0, "medium": 1, "low": 2}
SPAN = 64.0  # the gauge goes from 1/SPAN to SPAN


def meter(result: Mapping[str, Any]) -> list[Child]:
    """Verdict, table of groups, findings with remedies, folded table of tensors."""
    found = result.get("meter")
    if not found:
        return []
    content: list[Child] = []
    if found.get("verdict"):
        reason = found.get("reason")
        content.append(
            paragraph(tag("strong", found["verdict"].capitalize()), f": {reason.rstrip('.')}" if reason else None, ".")
        )
    content += _groups(found.get("groups", []), found.get("records") is not None)
    content += _findings(found.get("findings", []))
    content += _tensors(found.get("tensors", []))
    return content


def _groups(groups: list[Any], of_records: bool) -> list[Child]:
    if not groups:
        return []
    rows = [
        [
            code(group.get("site", "?")),
            group.get("dependence") or ABSENT,
            _counted(group.get("kinds", [])) or ABSENT,
            significant(group.get("capacity")),
            tag("span", _gauge(group.get("ratio")), " ", ratio(group.get("ratio")), class_="measure"),
            badge(group["regime"], REGIMES.get(group["regime"], "neutral")) if group.get("regime") else ABSENT,
        ]
        for group in groups
    ]
    return [
        table(
            "Inputs that the update shows, by the tensors that show them",
            ["Input of", "Depends on", "Shown by", "K", "n/K", "Regime"],
            rows,
            numbers={3},
        ),
        paragraph(
            "n is the number of inputs that a layer read for the update, K the number of directions in which it shows one. "
            "Up to n/K = 1 (dashed mark) a guess of one can be tested exactly; above it, the update shows mostly mixtures. "
            if of_records
            else "n is the number of token positions behind one update, K the number of directions in which it shows an input. "
            "Up to n/K = 1 (dashed mark) each token can be tested exactly; above it, tokens can still be ranked. ",
            "The scale is logarithmic, from 1/64 on the left to 64 on the right.",
            class_="key",
        ),
    ]


def _counted(kinds: list[str]) -> str:
    return ", ".join(kind if count == 1 else f"{count} × {kind}" for kind, count in Counter(kinds).items())


def _gauge(value: float | None) -> Html | None:
    if value is None:
        return None
    at = 50 + 50 * math.log(min(max(value, 1 / SPAN), SPAN)) / math.log(SPAN)
    return tag("span", tag("i"), tag("b", style=f"left:{at:.1f}%"), class_="gauge", aria_hidden="true")


def _findings(findings: list[Any]) -> list[Child]:
    if not findings:
        return []
    ordered = sorted(findings, key=lambda finding: SEVERITIES.get(finding.get("severity", ""), 3))
    items = []
    for finding in ordered:
        severity = finding.get("severity", "info")
        remedy = finding.get("remedy")
        text = tag(
            "div",
            tag("p", sentence(finding["sentence"])),
            tag("p", tag("strong", "Remedy: "), sentence(remedy), class_="remedy") if remedy else None,
        )
        items.append(tag("li", tag("div", badge(severity, severity if severity in SEVERITIES else "neutral")), text))
    return [tag("h3", "Findings"), tag("ul", items, class_="findings")]


def _tensors(tensors: list[Any]) -> list[Child]:
    if not tensors:
        return []
    rows = [
        [
            code(tensor.get("name", "?")),
            " × ".join(map(str, tensor.get("shape", []))) or ABSENT,
            tensor.get("kind") or ABSENT,
            significant(tensor.get("capacity")),
            tensor.get("explanation") or "",
        ]
        for tensor in tensors
    ]
    heads = ["Tensor", "Shape", "Kind", "Rank", "What its update shows"]
    return [details(f"All {len(tensors)} trainable tensors", table("Trainable tensors", heads, rows, numbers={3}))]
