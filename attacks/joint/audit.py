"""Proof and audit of one client in one result: for the very update that a proof speaks about, what it leaks and what helps.

The update, the data and the batches come in as plain data that has been opened against the proof's commitments. Attacks get
what a server sees (`client.Seen`); the scorer compares with the records that the update was trained on.
"""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.audit import threat, write
from zkaudit.attacks.digests import of_tensors
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint import controls
from zkaudit.attacks.joint.client import Client, Found, named
from zkaudit.attacks.joint.defending import default_defences, measured_defences, suggested
from zkaudit.attacks.joint.factors import SparseFactors
from zkaudit.attacks.joint.meter import measured
from zkaudit.attacks.joint.ratios import Ratios
from zkaudit.attacks.joint.scoring import NEAR, Scorer, value
from zkaudit.attacks.joint.sparse_records import SparseRecords
from zkaudit.attacks.joint.unrolled import UnrolledMatching
from zkaudit.attacks.ledger import PeakMemory
from zkaudit.attacks.threat import Capability
from zkaudit.attacks.verdict import EXPOSED, PARTLY

RECOVERED, FIDELITY = "records_recovered", "record_fidelity"
PACKAGES = ("torch", "numpy", "scipy")
SUMMARIES = {
    "ratios": "the first layer's weight update over its bias update, unit by unit",
    "sparse_factors": "the first layer's update as a sum over records whose errors are zero where units did not fire",
    "sparse_records": "vectors with zeros of their own in the space that the first layer's update spans",
    "unrolled_matching": "records whose simulated training moves the weights as observed, over all steps",
    "marginal": "each number drawn from its column of the data, without the update",
    "mean_record": "the mean of the data, without the update",
}


def joint_audit(
    handed: Mapping[str, Any], out: Path, progress: Progress = silent, defences: Sequence[str] | None = None
) -> dict[str, Any]:
    """Audit the update of a bound run and write result.json and report.html to `out`.

    `handed` has `name`, `proof` (for the report: files with digests, verdict, checks), `statements` (a JSON view for each
    segment), `hashes`, and in integers `start`, `end`, `inputs`, `targets`, `batches`, with LoRA `frozen`. AuditError for a
    training method that no attack here knows.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    client = Client.of_bound(handed)
    result = _facts(handed, client)
    with PeakMemory() as memory:
        result["attacks"] = _attacks(client, progress)
        chosen = default_defences(client) if defences is None else tuple(defences)
        result["config"]["joint"] = {"defences": list(chosen), "recovered up to": NEAR}
        result["defences"] = measured_defences(client, chosen, progress)
    result["verdict"] = _verdict(client, result)
    result |= {"seconds": time.perf_counter() - started, "memory_bytes": memory.bytes}
    write(result, out)
    return result


def _facts(handed: Mapping[str, Any], client: Client) -> dict[str, Any]:
    update = of_tensors(named(client.update, client.method))
    return {
        "schema": 1,
        "zkaudit": version("zkaudit"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "title": f"Proof and audit of {handed['name']}",
        "config": {},
        "device": "cpu",
        "environment": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hashes": {**handed["hashes"], "update": update},
        "proof": {**handed["proof"], "statements": handed["statements"], "update": update},
        "threat": threat("passive", Capability.UPDATE),
        "meter": measured(client.seen),
    }


def _attacks(client: Client, progress: Progress) -> list[dict[str, Any]]:
    seen, scorer = client.seen, Scorer(*client.truth, client.data)

    def matching() -> Found:
        return UnrolledMatching().run(seen, progress, near=suggested(seen))

    n = seen.records
    return [
        _one("ratios", "attack", lambda: Ratios().run(seen), scorer),
        _one("sparse_factors", "attack", lambda: SparseFactors().run(seen), scorer),
        _one("sparse_records", "attack", lambda: SparseRecords().run(seen), scorer),
        _one("unrolled_matching", "attack", matching, scorer),
        _one("marginal", "control", lambda: controls.marginal(client.data, n), scorer),
        _one("mean_record", "control", lambda: controls.mean_record(client.data, n), scorer),
    ]


def _one(name: str, role: str, run: Callable[[], Found], scorer: Scorer) -> dict[str, Any]:
    """An attack's part of a result: metrics, or why it does not apply."""
    needs = ["update"] if role == "attack" else ["the data's distribution"]
    part: dict[str, Any] = {"name": name, "role": role, "summary": SUMMARIES[name], "needs": needs}
    started = time.perf_counter()
    try:
        with PeakMemory() as memory:
            found = run()
    except AuditError as error:
        return {**part, "seconds": time.perf_counter() - started, "error": str(error)}
    part |= {"seconds": time.perf_counter() - started, "memory_bytes": memory.bytes}
    return {**part, "metrics": scorer.metrics(found), "evidence": {"stages": dict(found.stages or {})}}


def _verdict(client: Client, result: Mapping[str, Any]) -> dict[str, Any]:
    """How much of the records came back beyond the controls, of how many, and what could not be had."""
    attacks, seen = result["attacks"], client.seen
    steps, batch = seen.places.shape
    n = seen.records
    real = [attack for attack in attacks if attack["role"] == "attack" and attack.get("metrics")]
    controlled = [attack for attack in attacks if attack["role"] == "control"]
    best: dict[str, Any] = max(real, key=lambda attack: (value(attack, RECOVERED), value(attack, FIDELITY)), default={})
    recovered, guessed = value(best, RECOVERED) or 0.0, max(value(attack, RECOVERED) or 0.0 for attack in controlled)
    near = (value(best, FIDELITY) or 0.0) - max(value(attack, FIDELITY) or 0.0 for attack in controlled)
    behind = f"{_count(steps, 'step')} on {_count(batch, 'record')} each, {n} of {len(client.data)} different ones in all"
    method = "" if client.method.names == "plain SGD" else f", trained with {client.method.names}"
    sentences = [f"The proof is valid and the update is the one it speaks about: {behind}{method}."]
    beyond = max(recovered - guessed, near)
    leaks = beyond >= PARTLY or recovered > guessed  # one whole record of many is a leak, however small its share
    level = "exposed" if beyond >= EXPOSED else "partly exposed" if leaks else "no leak found"
    if leaks:
        floor = min(value(attack, "record_error") or 0.0 for attack in controlled)
        sentences.append(
            f"{best['name']} recovered {round(recovered * n)} of {n}; of what it guessed the error is "
            f"{value(best, 'record_error') or 0.0:.2g}, that of the best guess without the update {floor:.2g}."
        )
    else:
        sentences.append("No attack that ran comes nearer to the records than guesses without the update.")
    if n - round(recovered * n):
        sentences.append(f"{n - round(recovered * n)} of {n} records were not recovered by any single attack in this audit.")
    sentences += [f"{attack['name']} did not run: {attack['error']}." for attack in attacks if attack.get("error")]
    helps = [row["name"] for row in result["defences"][1:] if row["adaptive"]["value"] <= row["undefended"] / 2]
    if leaks:
        told = f"these defences help most: {', '.join(helps[:4])}" if helps else "none of the defences tried halves it"
        sentences.append(f"Against an attacker who adapts, {told}.")
    return {"level": level, "sentences": sentences}


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
