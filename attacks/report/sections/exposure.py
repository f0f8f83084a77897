"""How recovery depends on the setting: phase diagram, curves, and the funnel from tokens to personal data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zkaudit.attacks.report import diagrams, plots
from zkaudit.attacks.report.elements import Child, details, figure, table, tag
from zkaudit.attacks.report.quantities import decimal, significant

AXES = {
    "batch": "records in a batch",
    "length": "tokens in a record",
    "local_steps": "local steps",
    "epochs": "local epochs",
    "cohort": "clients in a secure sum",
    "rounds": "rounds seen",
    "rank": "rank of the adapter",
}


def phase(result: Mapping[str, Any]) -> list[Child]:
    """Recall over tokens and rank, the deployment marked."""
    found = result.get("phase", {})
    ranks, tokens, recall = (found.get(key) or [] for key in ("ranks", "tokens", "recall"))
    ranks, recall = ranks[: len(recall)], recall[: len(ranks)]
    if not ranks or not tokens or None in ranks or None in tokens:
        return []
    here = found.get("here") or {}
    at = (here["rank"], here["tokens"]) if here.get("rank") is not None and here.get("tokens") is not None else None
    where = f"This deployment, marked by a star, has K = {significant(at[0])} and n = {significant(at[1])}." if at else ""
    rows: list[Sequence[Child]] = [
        [significant(rank), *(decimal(value) for value in values)]
        for rank, values in zip(reversed(ranks), reversed(recall), strict=True)
    ]
    heads = ["K \\ n", *(significant(count) for count in tokens)]
    return [
        figure(
            diagrams.phase(f"Heat map of recall over tokens and rank. {where}", ranks, tokens, recall, at),
            "Share of tokens recovered. Left of the dashed line n ≤ K, and tokens can be tested exactly. ",
            where,
            f" {found['note']}" if found.get("note") else None,
        ),
        details("The values", table("Recall by usable rank K and tokens n", heads, rows, range(1, len(heads)))),
    ]


def curves(result: Mapping[str, Any]) -> list[Child]:
    """Recall against batch, length, local steps, cohort."""
    panels, tables = [], []
    for key, data in result.get("exposure_curves", {}).items():
        series = {name: values for name, values in data.items() if name != "x" and len(values) == len(data["x"])}
        if not data["x"] or not set(series) - {"low", "high"}:
            continue
        title = AXES.get(key, key.replace("_", " "))
        panels.append((title, {"x": data["x"], **series}))
        rows = [
            [significant(x), *(decimal(value) for value in values)]
            for x, *values in zip(data["x"], *series.values(), strict=True)
        ]
        tables.append(table(f"Against {title}", [title, *series], rows, range(1, len(series) + 1)))
    if not panels:
        return []
    names = ", ".join(title for title, _ in panels)
    return [
        figure(
            plots.curves(f"Recall against {names}", panels),
            "What is recovered when one setting changes and all others stay as deployed.",
        ),
        details("The values", tag("div", tables, class_="pair")),
    ]


def funnel(result: Mapping[str, Any]) -> list[Child]:
    """From tokens to whole sentences and personal data."""
    stages = [(stage["stage"], stage.get("share")) for stage in result.get("funnel", [])]
    if not stages:
        return []
    read = ", ".join(f"{stage} {'not measured' if share is None else f'{share:.0%}'}" for stage, share in stages)
    return [
        figure(
            plots.funnel(f"Share recovered at each stage: {read}", stages),
            "Share recovered at each stage by the attack that does best there. Knowing which tokens a batch holds is not "
            "yet knowing its sentences; knowing a sentence's context is not yet knowing the personal data in it.",
        )
    ]
