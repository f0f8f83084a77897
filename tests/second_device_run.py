"""Audits on the emulated second device beside the same on the host, in a process of its own: a spare back end stays registered.

The argument is attacks, defences or audits; what is printed is {name: [on the host, on the second device]}.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from device_cases import SETTINGS_BY_NAME, attacked, defended
from second_device import SECOND, moved, second_device

from zkaudit.attacks import audit, config, device, setup, update
from zkaudit.attacks.federated.client import batches, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab import models
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.saved_audit import SavedUpdate, audit_saved

LORA = {"type": "LORA", "r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"]}
WHOLE = config.AuditConfig(
    config.ModelSection("nano-llama", train_steps=4),
    LORA,
    federated=FederatedSettings(batch=1, longest=12, warm_up_steps=1, dropout=False, learning_rate=0.1),
    threat=config.ThreatSection("active", 20, poison_steps=2),
    attacks=config.AttackSection(("span_test", "pursuit", "dager"), 1),
    defences=config.DefenceSection(("bf16",), 1, 1),
)


def attacks() -> dict[str, list[Any]]:
    return {name: [attacked(name, copy.deepcopy), attacked(name, moved)] for name in SETTINGS_BY_NAME}


def defences() -> dict[str, list[Any]]:
    here, there = defended(copy.deepcopy), defended(moved)
    return {name: [here[name], there[name]] for name in here}


def audits() -> dict[str, list[Any]]:
    """A whole audit, and one of an update that was saved."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(folder)
        here = _audited(folder, "here")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PublicModel, "to", lambda model, where: moved(model) if where == SECOND else model)
            for module in (setup, audit, device):
                patch.setattr(module, "chosen", lambda name="auto": SECOND)
            there = _audited(folder, "there")
    return {name: [here[name], there[name]] for name in here}


def _save(folder: Path) -> None:
    base = models.build("nano-llama")
    base.module.save_pretrained(folder / "base")
    base.tokenizer.save_pretrained(folder / "base")
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    model = apply(base, LORA)
    settings = FederatedSettings(batch=1, longest=12, dropout=False)
    sent = local_update(model, batches(model, synthetic(1, 3), settings), settings)
    update.save(sent, folder / "gradient.safetensors")


def _audited(folder: Path, name: str) -> dict[str, Any]:
    """Device and figures of the two audits."""
    saved = SavedUpdate(folder / "gradient.safetensors", folder / "base", folder / "adapter_config.json", batch=1, longest=12)
    alone, whole = audit_saved(saved, folder / name), audit.audit(WHOLE)
    figures = {attack["name"]: attack.get("metrics") or attack["error"] for attack in whole["attacks"]}
    return {
        "device": [alone["device"], whole["device"]],
        "saved": {attack["name"]: [attack["claimed"], attack["error"]] for attack in alone["attacks"]},
        "whole": {name: figures[name] for name in WHOLE.attacks.run},
        "phase": whole["phase"]["recall"],
        "curves": whole["exposure_curves"],
        "defences": [(row["name"], row["static"], row["adaptive"]) for row in whole["defences"]],
        "screen": [signal["name"] for signal in whole["screen"]["signals"]],
        "update": whole["hashes"]["update 0"] != "",
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with second_device():
        print(json.dumps({"attacks": attacks, "defences": defences, "audits": audits}[sys.argv[1]]()))
