"""What attacks recovered: metrics with intervals, gains over the control, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zkaudit.attacks.report import plots
from zkaudit.attacks.report.elements import Child, Row, figure, measured, note, paragraph, table, tag
from zkaudit.attacks.report.quantities import ABSENT, decimal, duration, interval, significant, size

METRICS = {
    "Records of numbers": {
        "records_recovered": "Recovered",
        "record_fidelity": "Fidelity",
        "record_error": "Error of guesses",
        "labels_right": "Labels",
    },
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
    },
    "Personal data, all kinds": {
        "pii_exact": "Exact",
        "pii_normalised": "Normalised",
        "pii_linkage": "With its owner",
        "context_recovered": "Context of the record",
        "record_success": "Context and all values",
    },
}
HEADLINES = ("record_fidelity", "recall_at_n", "token_f1", "token_recall", "rougeL", "auc", "exact_match")
ROLES = {
    "attack": "Attacks",
    "control": "Controls: no use of the update",
    "oracle": "Oracles: upper bounds, part of the truth is given",
}
BASELINES = {"token_chance", "record_error"}  # not a merit of an attack
TRUSTED = 0.5  # precision under which most claims are wrong

Attack = Mapping[str, Any]


def attacks(result: Mapping[str, Any]) -> list[Child]:
    """Tables of metrics, gains and cost."""
    found = by_role(result)
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


def by_role(result: Mapping[str, Any]) -> list[Attack]:
    return [attack for role in ROLES for attack in result.get("attacks", []) if attack.get("role", "attack") == role]


def role_of(attack: Attack) -> str:
    return str(attack.get("role", "attack"))


def _value(attack: Attack, metric: str) -> float | None:
    found = interval(attack.get("metrics", {}).get(metric))
    return None if found is None else found.value


def _control(found: Sequence[Attack]) -> Attack | None:
    """The language model alone; failing that, the first control."""
    controls = [attack for attack in found if role_of(attack) == "control" and attack.get("metrics")]
    return next(
        (c for c in controls if "lm" in c["name"].lower() or "language" in c["name"].lower()), controls[0] if controls else None
    )


def _headline(found: Sequence[Attack]) -> list[Child]:
    metric = next((m for m in HEADLINES if any(_value(a, m) is not None for a in found if role_of(a) == "attack")), None)
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
        open_rows=[row for row, attack in enumerate(shown) if role_of(attack) != "attack"],
        line=None if floor is None or control is None else (floor, control["name"]),
    )
    caption = "Bars are confidence intervals. Open marks are controls and oracles, not attacks. "
    line = None if control is None else f"The dashed line is what {control['name']} reaches without the update."
    most = max(_value(attack, metric) or 0 for attack in shown if role_of(attack) == "attack")
    content: list[Child] = [figure(plot, caption, line)]
    if floor is not None and control is not None and most <= floor:
        text = f"{measure}: no attack reaches more than {control['name']}, which does not see the update."
        content.append(note(text, level="low"))
    return content


def _metrics(caption: str, names: Mapping[str, str], found: Sequence[Attack]) -> list[Child]:
    used = [name for name in names if any(_value(attack, name) is not None for attack in found)]
    some, none = _with_anything(found, used)
    if not some:
        return nothing(caption, none)
    best = {name: max((_value(a, name) or 0 for a in some if role_of(a) == "attack"), default=0) for name in used}
    rows = []
    for role, attack in _headed(some):
        if attack is None:
            rows.append(Row([ROLES[role]]))
            continue
        cells = []
        for name in used:
            strong = role == "attack" and best[name] > 0 and best[name] == _value(attack, name) and name not in BASELINES
            cells.append(measured(attack.get("metrics", {}).get(name), strong))
        rows.append(Row([attack["name"], *cells], role))
    heads = ["Attack", *(names[name] for name in used)]
    return [table(caption, heads, rows, range(1, len(heads))), *nothing(caption, none), *_hollow(some, used)]


def _with_anything(found: Sequence[Attack], names: Sequence[str]) -> tuple[list[Attack], list[Attack]]:
    """Scored attacks for which any of the metrics is not zero, and the others."""
    scored = [attack for attack in found if any(_value(attack, name) is not None for name in names)]
    some = [attack for attack in scored if any(_value(attack, name) for name in names)]
    return some, [attack for attack in scored if attack not in some]


def nothing(caption: str, attacks: Sequence[Attack]) -> list[Child]:
    names = ", ".join(attack["name"] for attack in attacks)
    return [paragraph(f"{caption}: nothing at all (0.00 everywhere) from {names}.", class_="key")] if attacks else []


def _hollow(found: Sequence[Attack], used: Sequence[str]) -> list[Child]:
    """A warning of attacks that find tokens only since they name nearly all."""
    if "token_recall" not in used:
        return []
    hollow = [
        f"{attack['name']} (precision {decimal(precision)})"
        for attack in found
        if (precision := _value(attack, "token_precision")) is not None
        and precision < TRUSTED
        and (_value(attack, "token_recall") or 0) >= TRUSTED
    ]
    text = "Most of the tokens that these claim are not in the batch, so their recall shows nothing by itself: "
    return [note(text, ", ".join(hollow), ".", level="medium")] if hollow else []


def _headed(found: Sequence[Attack]) -> list[tuple[str, Attack | None]]:
    """Attacks with a heading (None) before each role."""
    headed: list[tuple[str, Attack | None]] = []
    for role in ROLES:
        own = [attack for attack in found if role_of(attack) == role and attack.get("metrics")]
        if own:
            headed += [(role, None), *((role, attack) for attack in own)]
    return headed


def _gains(found: Sequence[Attack]) -> list[Child]:
    control = _control(found)
    if not any(attack.get("metrics") for attack in found):
        return [note("Nothing was scored, as the records behind the update were not given.")]
    if control is None:
        text = "No control was run: part of these values may be what a language model guesses without any update."
        return [note(text, level="medium")]
    real = [attack for attack in found if role_of(attack) == "attack" and attack.get("metrics")]
    tables = []
    for caption, names in METRICS.items():
        told = [n for n in names if n not in BASELINES and _value(control, n) is not None]
        used = [n for n in told if any(_value(attack, n) is not None for attack in real)]
        shown = _with_anything(real, used)[0]
        if shown:
            rows = [[attack["name"], *(_gain(attack, control, name) for name in used)] for attack in shown]
            heads = ["Attack", *(names[name] for name in used)]
            tables.append(table(f"{caption}: gain over the control {control['name']}", heads, rows, range(1, len(heads))))
    key = "▲ marks a gain, ▼ a loss, with intervals that do not overlap; ○ a difference that may be chance."
    return [*tables, paragraph(key, class_="key")] if tables else []


def _gain(attack: Attack, control: Attack, name: str) -> Child:
    ours, theirs = (interval(a.get("metrics", {}).get(name)) for a in (attack, control))
    if ours is None or theirs is None:
        return tag("span", ABSENT, class_="absent")
    mark = "○"
    if ours.is_bounded and theirs.is_bounded:
        mark = "▲" if ours.bounds[0] > theirs.bounds[1] else "▼" if ours.bounds[1] < theirs.bounds[0] else "○"
    difference = f"{ours.value - theirs.value:+.2f}".replace("-", "−")
    text = "0.00" if difference[1:] == "0.00" else difference
    return tag("span", f"{mark} {text}", class_="up" if mark == "▲" else "level")


def _cost(found: Sequence[Attack]) -> list[Child]:
    claims = any(attack.get("claimed") is not None for attack in found)
    rows = []
    for attack in found:
        summary = tag("div", attack["summary"], class_="summary") if attack.get("summary") else None
        failure = tag("span", "▲ ", attack["error"], class_="failed") if attack.get("error") else None
        needs = ", ".join(str(need).lower().replace("_", " ") for need in attack.get("needs", [])) or ABSENT
        cells: list[Child] = [
            [attack["name"], summary],
            needs,
            duration(attack.get("seconds")),
            size(attack.get("memory_bytes")),
        ]
        if claims:
            cells.append(significant(attack.get("claimed")))
        rows.append(Row([*cells, failure or "ran"], role_of(attack)))
    heads = ["Attack", "Needs", "Time", "Memory", *(["Tokens claimed"] if claims else []), "Outcome"]
    return [table("What each took", heads, rows, numbers={2, 3, 4} if claims else {2, 3})]
