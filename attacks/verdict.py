"""What the figures of an audit mean, in sentences; and the funnel from tokens to whole records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STAGES = (  # stage of the funnel, metric
    ("tokens", "token_recall"),
    ("positions", "position_accuracy"),
    ("sentences", "exact_match"),
    ("PII", "pii_exact"),
)
EXPOSED, PARTLY = 0.5, 0.1  # of tokens or of records, beyond what controls reach
PRECISE = 0.9  # of claimed tokens that are right


def funnel(attacks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The best attack's share at each stage; of tokens, those claimed without many wrong ones."""
    return [{"stage": stage, "share": best(attacks, metric)[1]} for stage, metric in STAGES]


def best(attacks: Sequence[Mapping[str, Any]], metric: str) -> tuple[str, float]:
    """The attack (no control, no oracle) with the highest value of a metric, and the value; ("", 0) if there is none.

    Claimed tokens count only where few of the claims are wrong: who claims everything has recovered nothing.
    """
    rivals = [attack for attack in attacks if attack["role"] == "attack"]
    if metric == "token_recall":
        rivals = [attack for attack in rivals if value(attack, "token_precision") >= PRECISE]
    found = [(value(attack, metric), attack["name"]) for attack in rivals]
    top = max(found, default=(0.0, ""))
    return (top[1], top[0]) if top[0] > 0 else ("", 0.0)


def control(attacks: Sequence[Mapping[str, Any]], metric: str) -> float:
    """What the best control reaches without the update."""
    return max((value(attack, metric) for attack in attacks if attack["role"] == "control"), default=0.0)


def value(attack: Mapping[str, Any], metric: str) -> float:
    """An attack's metric, 0 if it has none."""
    return float((attack.get("metrics") or {}).get(metric, {}).get("value") or 0.0)


def verdict(result: Mapping[str, Any]) -> dict[str, Any]:
    """{"level", "sentences"} of a result with attacks; without scores (no records known) the claims decide."""
    attacks = result.get("attacks", [])
    scored = any(attack.get("metrics") for attack in attacks)
    sentences = []
    if scored:
        by, recall = best(attacks, "token_recall")
        near, ranked = best(attacks, "recall_at_n")
        reader, exact = best(attacks, "exact_match")
        thief, pii = best(attacks, "pii_exact")
        guessed = max(control(attacks, "recall_at_n"), *(value(attack, "token_chance") for attack in attacks))
        beyond = max(exact - control(attacks, "exact_match"), pii - control(attacks, "pii_exact"), recall - guessed)
        if recall > guessed:
            sentences.append(f"{recall:.0%} of the distinct tokens of a batch were recovered with few wrong ones ({by}).")
        elif ranked > 2 * guessed:
            sentences.append(f"Ranking finds {ranked:.0%} of the tokens where the best control finds {guessed:.1%} ({near}).")
        if exact > 0:
            sentences.append(f"{exact:.0%} of the records were recovered word for word ({reader}).")
        if pii > 0:
            sentences.append(f"{pii:.0%} of the personal data stand in what was recovered ({thief}).")
        if beyond >= EXPOSED:
            level = "exposed"
        elif beyond >= PARTLY or ranked > 2 * guessed:
            level = "partly exposed"
        else:
            level = "no leak found"
            sentences.append(
                f"No attack that ran finds more than {ranked:.1%} of the tokens; the best control finds {guessed:.1%}."
            )
    else:
        claimed = max((int(attack.get("claimed") or 0) for attack in attacks), default=0)
        level = "exposed" if claimed >= 8 else "partly exposed" if claimed else "no leak found"
        sentences.append(f"Attacks claim {claimed} distinct tokens of the records behind this update; the truth was not given.")
    helps = [d["name"] for d in result.get("defences", []) if _helps(d)]
    if helps:
        sentences.append(f"Against an attacker who adapts, these defences help most: {', '.join(helps[:3])}.")
    elif result.get("defences"):
        sentences.append("None of the defences tried halves what an attacker who adapts recovers.")
    return {"level": level, "sentences": sentences}


def _helps(defence: Mapping[str, Any]) -> bool:
    undefended = defence.get("undefended")
    return defence["name"] != "none" and undefended is not None and defence["adaptive"]["value"] <= undefended / 2
