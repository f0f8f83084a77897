"""The cover with the verdict, and who is taken to attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zkaudit.attacks.report.elements import Child, Html, badge, listing, paragraph, table, tag
from zkaudit.attacks.report.quantities import duration, moment, ratio, significant, size

LEVELS = {"exposed": "high", "partly exposed": "medium", "no leak found": "low"}
TITLE = "Leakage audit"
PROVED = "Federated training, proof and leakage audit of one update"
TIERS = {
    "passive": "honest but curious: sees what clients send, changes nothing",
    "auxiliary": "also has records of its own in the clients' format, with other values",
    "active": "also chooses the base model that clients start from",
}
CAPABILITIES = {
    "update": "What clients send, and everything public: model, tokenizer, settings",
    "auxiliary": "Records of its own in the clients' format",
    "base_model": "Choice of the base model's weights",
}


def cover(result: Mapping[str, Any]) -> Html:
    """Title, verdict, key sentences and facts of the run."""
    verdict = result.get("verdict", {})
    level = LEVELS.get(verdict.get("level", ""), "neutral")
    known = [(name, value) for name, value in _facts(result) if value is not None]
    return tag(
        "header",
        paragraph("Federated fine-tuning, leakage audit" if "proof" not in result else PROVED, class_="kicker"),
        tag("h1", result.get("title") or TITLE),
        tag(
            "div",
            badge(verdict["level"].capitalize(), level) if "level" in verdict else None,
            listing(verdict["sentences"]) if verdict.get("sentences") else None,
            class_="verdict",
        )
        if verdict
        else None,
        tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in known], class_="facts") if known else None,
        class_=f"cover {level}",
    )


def _facts(result: Mapping[str, Any]) -> list[tuple[str, Child]]:
    meter, attacks = result.get("meter", {}), result.get("attacks", [])
    ratios = [group["ratio"] for group in meter.get("groups", []) if group.get("ratio") is not None]
    real = [attack for attack in attacks if attack.get("role", "attack") == "attack"]
    failed = sum(bool(attack.get("error")) for attack in real)
    hashes = result.get("hashes", {})
    model = hashes.get("model") or hashes.get("base model")
    return [
        ("Attacker", result.get("threat", {}).get("name")),
        ("Tokens behind an update", None if meter.get("tokens") is None else significant(meter["tokens"])),
        ("Records behind the update", None if meter.get("records") is None else significant(meter["records"])),
        ("Lowest n/K", ratio(min(ratios)) if ratios else None),
        ("Attacks run", f"{len(real)}, {failed} did not apply" if failed else len(real) or None),
        ("Defences tried", len(result.get("defences", [])) or None),
        ("Date", moment(result["created"]) if result.get("created") else None),
        ("Run time", None if result.get("seconds") is None else duration(result["seconds"])),
        ("Device", result.get("device")),
        ("Peak memory", None if result.get("memory_bytes") is None else size(result["memory_bytes"])),
        ("Model SHA-256", tag("code", model[:12]) if model else None),
        ("zkaudit", result.get("zkaudit")),
    ]


def threat(result: Mapping[str, Any]) -> list[Child]:
    """The threat model: what the attacker has and what he lacks."""
    model = result.get("threat")
    if not model:
        return []
    name = model.get("name", "")
    content: list[Child] = []
    if name:
        told = model.get("description") or TIERS.get(name)
        content.append(paragraph("The attacker is ", tag("strong", name), f": {told.rstrip('.')}" if told else None, "."))
    held = {str(capability).lower().replace(" ", "_"): str(capability) for capability in model.get("capabilities", ())}
    if held:
        rows: list[list[Child]] = [
            [text, badge("has it", "medium") if key in held else badge("has it not", "neutral")]
            for key, text in CAPABILITIES.items()
        ]
        rows += [[text, badge("has it", "medium")] for key, text in held.items() if key not in CAPABILITIES]
        content.append(table("What the attacker is given", ["Capability", "This attacker"], rows))
    content.append(
        paragraph(
            "Attacks get only this. The records themselves are known to the scoring alone, which compares what was recovered "
            "with the truth after an attack has ended.",
            class_="lead",
        )
    )
    return content
