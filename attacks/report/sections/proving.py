"""What is proved of the update: the statement, how the audit is bound to it, and what it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zkaudit.attacks.report.elements import Child, badge, listing, paragraph, table, tag
from zkaudit.attacks.report.quantities import significant

COMMITMENTS = (("data_commitment", "Data", 0), ("start_commitment", "Start weights", 0), ("end_commitment", "End weights", -1))


def proof(result: Mapping[str, Any]) -> list[Child]:
    """Verdict, what was checked, tables of the statement and of digests."""
    found = result.get("proof")
    if not found:
        return []
    statements = found.get("statements", [])
    valid = found.get("valid")
    bits = found.get("soundness_bits")
    error = f" A false statement passes with probability below 2^-{bits}." if bits is not None else ""
    content: list[Child] = [
        paragraph(
            badge("valid" if valid else "not valid", "low" if valid else "high"),
            f" Steps of training: {significant(found.get('steps'))}; segments: {significant(found.get('segments'))}.{error}",
        )
    ]
    if found.get("checks"):
        content += [tag("h3", "Why the audited update is the proved one"), listing(found["checks"])]
    if statements:
        content.append(table("The statement", ["What", "Value"], _rows(statements)))
    digests = [(file["name"], file["sha256"]) for file in found.get("files", [])]
    digests += [(f"Statement {view.get('segment', place)}", view.get("digest", "")) for place, view in enumerate(statements)]
    digests += [
        (f"{name} commitment", statements[at][key]) for key, name, at in COMMITMENTS if statements and key in statements[at]
    ]
    if found.get("update"):
        digests.append(("The update", found["update"]))
    if digests:
        rows = [[name, tag("code", digest, class_="hash")] for name, digest in digests]
        content.append(table("SHA-256 of proof, statement and update", ["Of", "Digest"], rows))
    content.append(
        paragraph(
            "The proof does not say where the data came from, whether they are good, or how accurate the model is. "
            "The audit speaks about this update only.",
            class_="key",
        )
    )
    return content


def _rows(statements: list[Mapping[str, Any]]) -> list[list[Child]]:
    """What all segments share, and the rates of all of them."""
    first = statements[0]
    rates = [rate for view in statements for rate in view.get("learning_rates", [])]
    bits = (("activations", "activation_bits"), ("gradients", "gradient_bits"), ("weights", "weight_bits"))
    rows: list[tuple[str, Any]] = [
        ("Network", "-".join(map(str, first.get("widths", [])))),
        ("Loss", str(first.get("loss", "")).replace("_", " ")),
        ("Steps", significant(sum(view.get("steps", 0) for view in statements))),
        ("Records in a batch", first.get("batch")),
        ("Records in the data set", first.get("rows")),
        ("Learning rate", None if not rates else _rates(rates)),
        ("Public seed", repr(first["seed"]) if "seed" in first else None),
        ("Fractional bits", ", ".join(f"{name} {first[key]}" for name, key in bits if key in first)),
    ]
    return [[name, str(value)] for name, value in rows if value not in (None, "")]


def _rates(rates: list[float]) -> str:
    least, most = significant(min(rates)), significant(max(rates))
    return least if least == most else f"between {least} and {most}"
