"""The configuration of an audit: read strictly from TOML by `load`, or built in Python from the same classes.

`zkaudit audit --template` prints a file with every key explained; see template.py.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zkaudit.attacks.device import DEVICES
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import KINDS
from zkaudit.attacks.threat import THREATS

Section = TypeVar("Section")


@dataclass(frozen=True)
class ModelSection:
    """[model]: `source` is a folder of transformers (or its config.json), or the name of a laboratory model.

    `device` is where the audit computes: "cpu", "cuda", or "auto", a GPU where there is one.
    """

    source: str = "nano-llama"
    task: str | None = None  # of a laboratory model; a folder says it itself
    seed: int = 0  # of random weights
    train_steps: int = 0  # of a laboratory model, on public text and records of other people
    device: str = "auto"

    def __post_init__(self) -> None:
        _text("[model] source", self.source)
        _number("[model] seed", self.seed, 0)
        _number("[model] train_steps", self.train_steps, 0)
        if self.task not in (None, "causal_lm", "masked_lm", "sequence_classification"):
            _refuse("[model] task", self.task, "causal_lm, masked_lm or sequence_classification")
        if self.device not in DEVICES:
            _refuse("[model] device", self.device, f"one of {', '.join(DEVICES)}")


@dataclass(frozen=True)
class DataSection:
    """[data]: `source` is "synthetic" or a file of JSON lines, see lab/records.py; records are spread over clients in order."""

    source: str = "synthetic"
    seed: int = 0
    kinds: tuple[str, ...] = KINDS  # of synthetic records

    def __post_init__(self) -> None:
        _text("[data] source", self.source)
        _number("[data] seed", self.seed, 0)
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            _refuse("[data] kinds", list(self.kinds), f"a list out of {', '.join(KINDS)}")


@dataclass(frozen=True)
class ThreatSection:
    """[threat]: what the attacker may use, see threat.py, and what an active one does to the model that it hands out.

    It trains the base on personal notes (`poison_steps`), or imprints bottleneck adapters.
    """

    model: str = "passive"
    auxiliary: int = 200  # records of its own
    poison: str = "notes"
    poison_steps: int = 300

    def __post_init__(self) -> None:
        if self.model not in THREATS:
            _refuse("[threat] model", self.model, f"one of {', '.join(THREATS)}")
        if self.poison not in ("notes", "imprint"):
            _refuse("[threat] poison", self.poison, "notes or imprint")
        _number("[threat] auxiliary", self.auxiliary, 1)
        _number("[threat] poison_steps", self.poison_steps, 1)


@dataclass(frozen=True)
class AttackSection:
    """[attacks]: names of catalogue.py, or "auto" for all that the model and threat allow within reason."""

    run: tuple[str, ...] = ("auto",)
    batches: int = 3  # independent observations behind each confidence interval
    seed: int = 0

    def __post_init__(self) -> None:
        from zkaudit.attacks.catalogue import ATTACKS

        for name in self.run:
            if name != "auto" and name not in ATTACKS:
                _refuse("[attacks] run", name, f"auto or names out of {', '.join(ATTACKS)}")
        _number("[attacks] batches", self.batches, 1)
        _number("[attacks] seed", self.seed, 0)


@dataclass(frozen=True)
class DefenceSection:
    """[defences]: texts such as "noise:0.1", see defences/; each runs under a static and an adaptive attacker."""

    run: tuple[str, ...] = ()
    batches: int = 2
    utility_steps: int = 20

    def __post_init__(self) -> None:
        from zkaudit.attacks.defences import parse

        for text in self.run:
            parse(text)
        _number("[defences] batches", self.batches, 1)
        _number("[defences] utility_steps", self.utility_steps, 0)


@dataclass(frozen=True)
class ReportSection:
    """[report]: `show_values` prints personal data in the clear; leave it off for reports that travel."""

    title: str = "Leakage audit"
    show_values: bool = False
    examples: int = 4
    phase: bool = True  # the diagram of recall over tokens and rank
    curves: bool = True  # leakage against batch size and cohort
    screen: bool = True  # whether the base model looks poisoned

    def __post_init__(self) -> None:
        _text("[report] title", self.title)
        for name in ("show_values", "phase", "curves", "screen"):
            if not isinstance(getattr(self, name), bool):
                _refuse(f"[report] {name}", getattr(self, name), "true or false")
        _number("[report] examples", self.examples, 0)


@dataclass(frozen=True)
class AuditConfig:
    """A whole audit. `peft` is a configuration of peft_setup.py, or {"config": path} to one that peft saved."""

    model: ModelSection = field(default_factory=ModelSection)
    peft: Mapping[str, Any] = field(default_factory=lambda: {"type": "LORA"})
    data: DataSection = field(default_factory=DataSection)
    federated: FederatedSettings = field(default_factory=FederatedSettings)
    threat: ThreatSection = field(default_factory=ThreatSection)
    attacks: AttackSection = field(default_factory=AttackSection)
    defences: DefenceSection = field(default_factory=DefenceSection)
    report: ReportSection = field(default_factory=ReportSection)

    def __post_init__(self) -> None:
        if self.threat.model == "active" and self.threat.poison == "imprint" and self.federated.warm_up_steps:
            raise AuditError('[federated] warm_up_steps must be 0 with [threat] poison = "imprint": training would undo it')

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and for the digest under which finished parts are kept."""
        return {**dataclasses.asdict(self), "peft": dict(self.peft)}


SECTIONS: dict[str, type[Any]] = {
    "model": ModelSection,
    "data": DataSection,
    "federated": FederatedSettings,
    "threat": ThreatSection,
    "attacks": AttackSection,
    "defences": DefenceSection,
    "report": ReportSection,
}


def load(path: Path) -> AuditConfig:
    """Read a configuration; relative paths in it are taken from the file's folder. AuditError names file and key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise AuditError(f"{path} is not TOML: {error}") from None
    try:
        return _from_tables(content, path.parent)
    except AuditError as error:
        raise AuditError(f"{path}: {error}") from None


def _from_tables(content: dict[str, Any], folder: Path) -> AuditConfig:
    for name, table in content.items():
        if name != "peft" and name not in SECTIONS:
            known = ", ".join(f"[{x}]" for x in (*SECTIONS, "peft"))
            raise AuditError(f"unknown section or key '{name}'; sections are {known}")
        if not isinstance(table, dict):
            raise AuditError(f"'{name}' must be a section, [{name}]")
    parts = {name: _section(name, kind, content.get(name, {})) for name, kind in SECTIONS.items()}
    peft = dict(content.get("peft", {"type": "LORA"}))
    if "config" in peft:
        peft["config"] = str(folder / str(peft["config"]))
    for name in ("model", "data"):
        beside = folder / parts[name].source
        if beside.exists() and not Path(parts[name].source).is_absolute():
            parts[name] = dataclasses.replace(parts[name], source=str(beside))
    return AuditConfig(peft=peft, **parts)


def _section(name: str, kind: type[Section], table: Mapping[str, Any]) -> Section:
    known = [x.name for x in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise AuditError(f"unknown key '{key}' in [{name}]; known are {', '.join(known)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        _refuse(name, value, "a text")


def _number(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        _refuse(name, value, f"an integer of at least {least}")


def _refuse(name: str, value: object, allowed: str) -> None:
    raise AuditError(f"{name} is {value!r:.60}; it must be {allowed}")
