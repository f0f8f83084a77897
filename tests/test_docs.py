"""The documents name every attack, defence and configuration key that there is, and their links lead somewhere."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from zkaudit.attacks.catalogue import ATTACKS, ORACLES
from zkaudit.attacks.config import SECTIONS, load
from zkaudit.attacks.defences import catalogue
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.meter import REGIMES
from zkaudit.attacks.peft_setup import TYPES
from zkaudit.attacks.template import TEMPLATE

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:docs|examples|notebooks|tests|attacks|benchmarks|zk|training|cli|cuda)/[\w./-]+\.\w+)`")


def document(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*ATTACKS, *ORACLES])
def test_every_attack_is_explained(name: str) -> None:
    """With a heading of its own, or as an entry of a table."""
    assert re.search(rf"^(### .*|\| ?)`{name}`", document("attacks"), re.MULTILINE)


@pytest.mark.parametrize("name", [kind.name for kind in catalogue()])
def test_every_defence_is_explained(name: str) -> None:
    assert re.search(rf"^\| `{name}[`:]", document("defences"), re.MULTILINE)


@pytest.mark.parametrize("kind", TYPES)
def test_every_peft_method_is_explained(kind: str) -> None:
    assert f"`{kind}`" in document("attacks")


def test_every_regime_of_the_meter_is_explained() -> None:
    for regime in REGIMES:
        assert re.search(rf"^\| `{regime}` ", document("attacks"), re.MULTILINE), regime


def sections(text: str) -> dict[str, set[str]]:
    """Keys of each section, those that are commented out included."""
    found: dict[str, set[str]] = {}
    section = ""
    for line in text.splitlines():
        if head := re.match(r"\[(\w+)\]", line):
            section = head[1]
            found[section] = set()
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            found[section].add(key[1])
    return found


def test_the_template_has_every_key_and_no_other() -> None:
    keys = sections(TEMPLATE)
    assert keys.keys() == SECTIONS.keys() | {"peft"}
    for name, kind in SECTIONS.items():
        assert keys[name] == {field.name for field in dataclasses.fields(kind)}, name


def test_the_template_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    path.write_text(TEMPLATE, encoding="utf-8")
    assert load(path).federated == FederatedSettings(**tomllib.loads(TEMPLATE)["federated"])


def test_the_template_names_every_attack_and_peft_method() -> None:
    for name, entry in ATTACKS.items():
        assert entry.role == "control" or name in re.findall(r"\w+", TEMPLATE), name
    for kind in TYPES:
        assert kind in re.findall(r"\w+", TEMPLATE), kind


def test_the_example_is_the_template() -> None:
    assert (ROOT / "examples" / "audit.toml").read_text(encoding="utf-8") == TEMPLATE


@pytest.mark.parametrize("path", [*DOCS, ROOT / "README.md"], ids=lambda path: path.stem)
def test_links_lead_to_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if "://" not in target and not target.startswith("#"):
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("name", ["attacks", "defences", "federated", "security", "testing"])
def test_files_that_documents_name_exist(name: str) -> None:
    for target in FILE.findall(document(name)):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", ["attacks", "defences", "federated", "security"])
def test_tests_that_documents_name_exist(name: str) -> None:
    """A test is named as `test_file.py::test_name`, or `tests/test_file.py`."""
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", document(name))
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"
