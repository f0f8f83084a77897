"""How well an update tells a batch's tokens from all others: distances, spectrum, counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zkaudit.attacks.report import plots
from zkaudit.attacks.report.elements import Child, details, figure, table, tag
from zkaudit.attacks.report.quantities import significant
from zkaudit.attacks.report.sections.attacking import Attack, by_role


def evidence(result: Mapping[str, Any]) -> list[Child]:
    """Spectrum, distances and counts of each attack that has them."""
    content: list[Child] = []
    for number, attack in enumerate(by_role(result)):
        parts = _evidence(f"evidence{number}", attack)
        if parts:
            content += [tag("h3", attack["name"]), *parts]
    return content


def _evidence(name: str, attack: Attack) -> list[Child]:
    held = attack.get("evidence") or {}
    parts: list[Child] = []
    distances = held.get("distances") or {}
    edges = distances.get("edges", [])
    if len(edges) > 1 and None not in edges and sorted(set(edges)) == edges:
        shown = [distances.get(key) or [] for key in ("true", "vocabulary", "null")]
        description = f"Histograms of distances from the update's subspace, {attack['name']}"
        parts.append(
            figure(
                plots.distances(f"{name}-distances", description, edges, *shown),
                "How far tokens lie from the subspace that the update spans. Where the two histograms do not overlap, a "
                "batch's tokens are told with certainty; where they do, distance alone does not tell them.",
            )
        )
    values = held.get("singular_values") or []
    if any(value is not None for value in values):
        rank = held.get("rank")
        description = f"Singular values of the update, {attack['name']}; chosen rank {significant(rank)}"
        parts.append(
            figure(
                plots.spectrum(f"{name}-spectrum", description, values, rank),
                "Singular values of the rows that the update shows. The rank is the number of directions with data, not noise.",
            )
        )
    stages = held.get("stages") or {}
    if stages:
        rows = [[stage.replace("_", " "), significant(count)] for stage, count in stages.items()]
        parts.append(details("What was left after each stage", table("Counts by stage", ["Stage", "Count"], rows, numbers={1})))
    return parts
