"""One audit: meter, attacks and controls with intervals, defences under two attackers, diagrams; result.json and report.html.

Finished parts are kept in DIR/.parts until the audit is complete, so that one that was stopped goes on where it was.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zkaudit.attacks import phase, report
from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.battery import Battery, battery
from zkaudit.attacks.config import AuditConfig
from zkaudit.attacks.curves import curves
from zkaudit.attacks.defence_table import measured_defences
from zkaudit.attacks.device import chosen, described
from zkaudit.attacks.digests import of_model
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.imprint import ImprintOptions, imprint
from zkaudit.attacks.ledger import Ledger, PeakMemory
from zkaudit.attacks.meter import measure
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.recit.poison import PoisonOptions, poison
from zkaudit.attacks.screen import screen
from zkaudit.attacks.setup import base_model, records, with_adapters
from zkaudit.attacks.threat import THREATS, Capability
from zkaudit.attacks.verdict import funnel, verdict

RESULT, REPORT, PARTS = "result.json", "report.html", ".parts"
SINGLE = ("token", "token and position")  # inputs that the phase diagram is drawn for
PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy")


def audit(config: AuditConfig, out: Path | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Run an audit; with `out`, a folder, also write it there. AuditError if the configuration does not fit together."""
    started = time.perf_counter()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    about = {"config": config.to_dict(), "zkaudit": _version("zkaudit"), "device": chosen(config.model.device).type}
    ledger = Ledger(None if out is None else out / PARTS, about)
    with PeakMemory() as memory:
        result = _run(config, ledger, progress)
    result |= {"seconds": time.perf_counter() - started, "memory_bytes": memory.bytes}
    if out is not None:
        write(result, out)
        ledger.clear()
    return result


def write(result: Mapping[str, Any], out: Path) -> None:
    """result.json and report.html."""
    result = report.plain(result)
    report.check(result)
    (out / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    report.write(result, out / REPORT)


def facts(title: str, config: Mapping[str, Any], digest: str, model: PublicModel) -> dict[str, Any]:
    """What every result says of itself, and of the device that its model is on."""
    return {
        "schema": 1,
        "zkaudit": _version("zkaudit"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "title": title,
        "config": {name: table for name, table in config.items() if isinstance(table, Mapping)},
        "device": described(model.device),
        "environment": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hashes": {"configuration": digest},
    }


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _run(config: AuditConfig, ledger: Ledger, progress: Progress) -> dict[str, Any]:
    people = records(config)
    people.clients(config.federated, config.attacks.batches - 1)  # says now if there are too few
    base = base_model(config, people.public, progress)
    capabilities = THREATS[config.threat.model]
    notes, imprints = (Capability.BASE_MODEL in capabilities and config.threat.poison == kind for kind in ("notes", "imprint"))
    options = PoisonOptions(steps=config.threat.poison_steps, seed=config.attacks.seed)
    handed_out = poison(base, people.auxiliary, options, progress) if notes else base
    model = with_adapters(handed_out, config)
    if imprints:
        model = imprint(model, [record.text for record in people.auxiliary], ImprintOptions(longest=config.federated.longest))
    result = facts(config.report.title, config.to_dict(), ledger.digest, model)
    result["hashes"] |= {"base model": of_model(handed_out)}
    result["seeds"] = {"model": config.model.seed, "data": config.data.seed, "attacks": config.attacks.seed}
    result["threat"] = threat(config.threat.model, capabilities)
    done = battery(Battery(config, people, model, capabilities), ledger, progress)
    result["attacks"] = done.attacks
    result["hashes"] |= done.hashes
    result["meter"] = metered(model, done.tokens, config.federated)
    result["funnel"] = funnel(done.attacks)
    if config.report.phase:
        drawn = ledger.do("phase", lambda: phase.diagram(model, config.attacks.seed, progress))
        if drawn:
            here = [g["usable"] for g in result["meter"]["groups"] if g["view"] == "input" and g["depends_on"] in SINGLE]
            result["phase"] = {
                **drawn,
                **({"here": {"rank": max(here), "tokens": done.distinct}} if here and max(here) else {}),
            }
    if config.report.curves:
        result["exposure_curves"] = ledger.do("curves", lambda: curves(model, people, config, progress))
    if config.defences.run:
        result["defences"] = measured_defences(config, handed_out, people, ledger, progress)
    if config.report.screen:
        result["screen"] = ledger.do("screen", lambda: screen(model).to_dict())
    result["verdict"] = verdict(result)
    return result


def metered(model: PublicModel, tokens: int, federated: FederatedSettings) -> dict[str, Any]:
    """The meter's report under the names that a result has for its columns."""
    measured = measure(model, tokens, federated).to_dict()
    for group in measured["groups"]:
        group |= {"dependence": group["depends_on"], "capacity": group["usable"]}
    for tensor in measured["tensors"]:
        tensor["explanation"] = tensor["why"]
    return measured


def threat(name: str, capabilities: Capability) -> dict[str, Any]:
    """The threat model for the report."""
    described = {
        "passive": "An honest-but-curious server: it sees what clients send and everything public, and does as agreed.",
        "auxiliary": "A curious server that also knows the format of the records and has some of its own, with other values.",
        "active": "A malicious server: it also trains the base model that it hands out, so that tuning gives more away.",
    }
    return {
        "name": name,
        "capabilities": [str(c.name).lower().replace("_", " ") for c in capabilities],
        "description": described[name],
    }
