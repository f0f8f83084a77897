"""What attacks recovered: metrics with intervals, gains over the control, evidence, personal data, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zkaudit.attacks.report import plots
from zkaudit.attacks.report.elements import Child, Row, details, figure, measured, note, paragraph, table, tag
from zkaudit.attacks.report.quantities import ABSENT, duration, interval, significant, size

METRICS = {
    "Tokens": {
        "token_recall": "Recall",
        "token_precision": "Precision",
        "token_f1": "F1",
        "recall_at_n": "Recall at n",
        "auc": "AUC",
        "token_chance": "Chance",
        "position_accuracy": "At the right position",
    },
    "Sentences and records": {
        "exact_match": "Word for word",
        "rouge1": "ROUGE-1",
        "rouge2": "ROUGE-2",
        "rougeL": "ROUGE-L",
        "batch_exact": "Whole batch",
        "context_recovered": "Context",
        "pii_exact": "Personal data",
        "record_success": "Record with its data",
    },
}
HEADLINES = ("token_f1", "recall_at_n", "token_recall", "rougeL", "auc", "exact_match")
ROLES = {
    "attack": "Attacks",
    "control": "Controls: no use of the update",
    "oracle": "Oracles: upper bounds, part of the truth is given",
}
BASELINES = {"token_chance"}  # not a merit of an attack

Attack = Mapping[str, Any]


def attacks(result: Mapping[str, Any]) -> list[Child]:
    """Tables of metrics, gains and cost."""
    found = _by_role(result)
    if not found:
        return []
    content: list[Child] = _headline(found)
    named = {name for group in METRICS.values() for name in group}
    others = {name: name.replace("_", " ") for attack in found for name in attack.get("metrics", {}) if name not in named}
    for caption, names in {**METRICS, "Other metrics": others}.items():
        content += _metrics(caption, names, found)
    content += _gains(found)
    content += _cost(found)
    return content


def _by_role(result: Mapping[str, Any]) -> list[Attack]:
    return [attack for role in ROLES for attack in result.get("attacks", []) if attack.get("role", "attack") == role]


def _role(attack: Attack) -> str:
    return str(attack.get("role", "attack"))


def _value(attack: Attack, metric: str) -> float | None:
    found = interval(attack.get("metrics", {}).get(metric))
    return None if found is None else found.value


def _control(found: Sequence[Attack]) -> Attack | None:
    """The language model alone; failing that, the first control."""
    controls = [attack for attack in found if _role(attack) == "control" and attack.get("metrics")]
    return next(
        (c for c in controls if "lm" in c["name"].lower() or "language" in c["name"].lower()), controls[0] if controls else None
    )


def _headline(found: Sequence[Attack]) -> list[Child]:
    metric = next((m for m in HEADLINES if any(_value(a, m) is not None for a in found if _role(a) == "attack")), None)
    if metric is None:
        return []
    shown = [attack for attack in found if _value(attack, metric) is not None]
    title = next(names[metric] for names in METRICS.values() if metric in names)
    group = next(caption for caption, names in METRICS.items() if metric in names)
    measure = f"{title}, {group.lower()}"
    control = _control(found)
    floor = None if control is None else _value(control, metric)
    read = ", ".join(f"{attack['name']} {_value(attack, metric):.2f}" for attack in shown)
    plot = plots.dots(
        "attacks",
        f"{measure}: {read}",
        [attack["name"] for attack in shown],
        {title: [interval(attack["metrics"][metric]) for attack in shown]},
        measure,
        open_rows=[row for row, attack in enumerate(shown) if _role(attack) != "attack"],
        line=None if floor is None or control is None else (floor, control["name"]),
    )
    caption = "Bars are confidence intervals. Open marks are controls and oracles, not attacks. "
    line = None if control is None else f"The dashed line is what {control['name']} reaches without the update."
    return [figure(plot, caption, line)]


def _metrics(caption: str, names: Mapping[str, str], found: Sequence[Attack]) -> list[Child]:
    used = [name for name in names if any(_value(attack, name) is not None for attack in found)]
    if not used:
        return []
    best = {
        name: max((v for a in found if _role(a) == "attack" and (v := _value(a, name)) is not None), default=None)
        for name in used
    }
    rows = []
    for role, attack in _headed(found):
        if attack is None:
            rows.append(Row([ROLES[role]]))
            continue
        cells = [
            measured(
                attack.get("metrics", {}).get(name),
                role == "attack" and best[name] == _value(attack, name) and name not in BASELINES,
            )
            for name in used
        ]
        rows.append(Row([attack["name"], *cells], role))
    return [table(caption, ["Attack", *(names[name] for name in used)], rows, range(1, len(used) + 1))]


def _headed(found: Sequence[Attack]) -> list[tuple[str, Attack | None]]:
    """Attacks with a heading (None) before each role."""
    headed: list[tuple[str, Attack | None]] = []
    for role in ROLES:
        own = [attack for attack in found if _role(attack) == role and not attack.get("error")]
        if own:
            headed += [(role, None), *((role, attack) for attack in own)]
    return headed


def _gains(found: Sequence[Attack]) -> list[Child]:
    control = _control(found)
    if control is None:
        text = "No control was run: part of these values may be what a language model guesses without any update."
        return [note(text, level="medium")]
    real = [attack for attack in found if _role(attack) == "attack" and attack.get("metrics")]
    tables = []
    for caption, names in METRICS.items():
        told = [n for n in names if n not in BASELINES and _value(control, n) is not None]
        used = [n for n in told if any(_value(attack, n) is not None for attack in real)]
        if used:
            rows = [[attack["name"], *(_gain(attack, control, name) for name in used)] for attack in real]
            heads = ["Attack", *(names[name] for name in used)]
            tables.append(table(f"{caption}: gain over the control {control['name']}", heads, rows, range(1, len(heads))))
    key = "▲ marks a gain with intervals that do not overlap; ○ one that may be chance."
    return [*tables, paragraph(key, class_="key")] if tables else []


def _gain(attack: Attack, control: Attack, name: str) -> Child:
    ours, theirs = (interval(a.get("metrics", {}).get(name)) for a in (attack, control))
    if ours is None or theirs is None:
        return tag("span", ABSENT, class_="absent")
    sure = ours.has_bounds and theirs.has_bounds and ours.bounds[0] > theirs.bounds[1]
    text = f"{ours.value - theirs.value:+.2f}".replace("-", "−")
    return tag("span", f"{'▲' if sure else '○'} {text}", class_="up" if sure else "level")


def _cost(found: Sequence[Attack]) -> list[Child]:
    rows = [
        Row(
            [
                attack["name"],
                ", ".join(str(need).lower().replace("_", " ") for need in attack.get("needs", [])) or ABSENT,
                duration(attack.get("seconds")),
                size(attack.get("memory_bytes")),
                tag("span", "▲ ", attack["error"], class_="failed") if attack.get("error") else "ran",
            ],
            _role(attack),
        )
        for attack in found
    ]
    return [table("What each took", ["Attack", "Needs", "Time", "Memory", "Outcome"], rows, numbers={2, 3})]


def evidence(result: Mapping[str, Any]) -> list[Child]:
    """Spectrum, distances and counts of each attack that has them."""
    content: list[Child] = []
    for number, attack in enumerate(_by_role(result)):
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
                "Tokens of the batch lie near the subspace that the update spans, others far from it. Where the two histograms "
                "do not overlap, a batch's tokens are told with certainty.",
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
    found = [attack for attack in _by_role(result) if attack.get("pii")]
    if not found:
        return []
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
                rows.append(Row([attack["name"], *count, *(measured(part.get(metric)) for metric in used)], _role(attack)))
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
            open_series=[attack["name"] for attack in found if _role(attack) != "attack"],
        )
        content.append(figure(plot, f"{title}. Bars are confidence intervals; open marks are controls and oracles."))
    return [*content, table("Personal data by kind", heads, rows, range(1, len(heads)))]
