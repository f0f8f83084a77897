"""An audit of an update that was saved elsewhere, by any stack: attacks on it, scored if its records are given."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zkaudit.attacks import device, peft_setup
from zkaudit.attacks.attack import Progress, Recovery, silent
from zkaudit.attacks.audit import PARTS, facts, metered, threat, write
from zkaudit.attacks.battery import Share, attempt, examples_of, joined, scorer_of
from zkaudit.attacks.catalogue import ATTACKS, chosen
from zkaudit.attacks.digests import of_model, of_tensors
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.saved import load_for, load_weights
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record, read
from zkaudit.attacks.ledger import Ledger, PeakMemory
from zkaudit.attacks.metrics import Scorer
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.model_folder import model_from
from zkaudit.attacks.report.mask import mask
from zkaudit.attacks.setup import check_complete
from zkaudit.attacks.threat import Capability, Observation, Round
from zkaudit.attacks.update import Kind
from zkaudit.attacks.verdict import funnel, verdict


@dataclass(frozen=True)
class SavedUpdate:
    """Files of an update and its model; `batch` and `longest` bound the records behind it, `records` are those, if known."""

    update: Path
    model: Path
    peft: Path | None = None
    start: Path | None = None  # the trainable tensors that the server handed out, if not those beside `peft`
    kind: Kind | None = None
    records: Path | None = None
    batch: int = 8
    longest: int = 64
    device: str = "auto"


def model_with_adapters(model: Path, peft: Path | None, where: str = "auto") -> PublicModel:
    """The model at a path with the adapters of a configuration, on the device `where`. AuditError names what is missing."""
    base = model_from(model).to(device.chosen(where))
    folder = model if model.is_dir() else model.parent
    found = peft or folder / peft_setup.ADAPTER_CONFIG
    if not found.exists():
        if peft is not None:
            raise AuditError(f"there is no PEFT configuration at {peft}")
        raise AuditError(f"{folder} has no {peft_setup.ADAPTER_CONFIG}: say what clients train with --peft")
    return peft_setup.apply(base, peft_setup.load(found))


def audit_saved(saved: SavedUpdate, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Run all passive attacks that fit and write result.json and report.html. AuditError if the files do not fit together."""
    started = time.perf_counter()
    model = model_with_adapters(saved.model, saved.peft, saved.device)
    check_complete(model, saved.model)
    if saved.start is not None:
        model.assign(load_weights(model, saved.start))
    update = load_for(model, saved.update, saved.kind)
    records = read(saved.records) if saved.records is not None else []
    settings = FederatedSettings(sends=update.kind, batch=len(records) or saved.batch, longest=saved.longest)
    seen = Observation(model, settings, [Round(model.state(), update)])
    scorer = scorer_of(model, records, saved.longest) if records else None
    out.mkdir(parents=True, exist_ok=True)
    hashes = {"base model": of_model(model), "update": of_tensors(update.tensors)}
    about = {name: None if value is None else str(value) for name, value in asdict(saved).items()}
    ledger = Ledger(out / PARTS, {**about, **hashes, "device": model.device.type})
    result = facts(f"Leakage audit of {saved.update.name}", {"saved": about}, ledger.digest, model)
    result["hashes"] |= hashes
    result["threat"] = threat("passive", Capability.UPDATE)
    result["meter"] = metered(model, settings.batch * settings.longest, settings)
    result["attacks"] = []
    names = chosen(("auto",), Capability.UPDATE)
    with PeakMemory() as memory:
        for place, name in enumerate(names):
            show = Share(progress, name, place, len(names))
            part = ledger.do(f"attack/{name}", partial(_one, name, seen, scorer, records, show))
            result["attacks"].append({**joined(name, [part], 0), "claimed": part["claimed"]})
    result["funnel"] = funnel(result["attacks"]) if records else []
    result["verdict"] = verdict(result)
    result |= {"seconds": time.perf_counter() - started, "memory_bytes": memory.bytes}
    write(result, out)
    ledger.clear()
    return result


def _one(name: str, seen: Observation, scorer: Scorer | None, records: list[Record], progress: Progress) -> dict[str, Any]:
    part = attempt(ATTACKS[name].make(0), seen, scorer, progress)
    recovery = part.pop("recovery")
    part["claimed"] = recovery.tokens.claimed if recovery is not None and recovery.tokens is not None else 0
    if recovery is not None:
        part["examples"] = examples_of(scorer, recovery, records, False, 4) if scorer else _unscored(seen.model, recovery)
    return part


def _unscored(model: PublicModel, recovery: Recovery) -> list[dict[str, Any]]:
    """Recovered sequences alone, masked."""
    texts = [model.tokenizer.decode(list(ids)) for ids in list(recovery.sequences)[:4]]
    return [{"true": "(not given)", "recovered": mask(text), "masked": True} for text in texts]
