"""The catalogue of training methods is whole, true, and what `zkaudit methods` and the document say."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from zkaudit_process import assert_refused, succeed, zkaudit

from zkaudit.training import catalogue as module
from zkaudit.training.catalogue import MODULES, as_markdown, catalogue
from zkaudit.training.method import Method

ROOT = Path(__file__).parents[1]
METHODS = catalogue()


def test_every_module_with_a_method_is_listed() -> None:
    found = {
        ".".join(path.relative_to(ROOT / "training").with_suffix("").parts)
        for path in (ROOT / "training").rglob("*.py")
        if "\nMETHOD = Method(" in path.read_text(encoding="utf-8")
    }
    assert found == set(MODULES)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_method_can_be_imported_from_where_it_says(method: Method) -> None:
    folder, _, name = method.where.rpartition(".")
    assert hasattr(import_module(folder), name)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_lines_that_use_a_method_are_python(method: Method) -> None:
    compile(method.use, method.name, "exec")
    assert all((method.title, method.paper, method.changes, method.effect, method.provable, method.server_sees, method.avoid))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_tests_and_a_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    checked = {check.method for check in _checks()}
    assert name in checked
    named = {"block-int8-states": "block_int8"}.get(name, name.replace("-", "_"))
    assert (ROOT / "tests" / f"test_method_{named}.py").exists()


def _checks() -> list[object]:
    names = [path.stem for path in (ROOT / "benchmarks" / "methods").glob("*.py") if path.stem != "check"]
    return [check for name in names for check in getattr(import_module(f"methods.{name}"), "CHECKS", [])]


def test_the_document_is_made_from_the_modules() -> None:
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == as_markdown(METHODS)


def test_a_method_that_changes_nothing_known_is_refused() -> None:
    with pytest.raises(ValueError, match="changes 'colour'"):
        Method("a", "b", "c", "d", ("colour",), "e", "f", "g", "h", "i", "j")


def test_two_methods_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODULES", ("optim.lars", "optim.lars"))
    with pytest.raises(ValueError, match="two modules call a method 'lars'"):
        catalogue()


def test_the_command_lists_filters_and_shows() -> None:
    assert [entry["name"] for entry in json.loads(succeed("methods", "--json"))] == list(METHODS)
    memory = succeed("methods", "--changes", "memory").splitlines()
    assert [line.split()[0] for line in memory] == [m.name for m in METHODS.values() if "memory" in m.changes]
    shown = succeed("methods", "galore")
    assert "65.5%" in shown
    assert "GaLoreAdamW(" in shown
    assert_refused(zkaudit("methods", "galoer"), "galoer", "there are galore")


def test_the_command_s_help_needs_no_torch() -> None:
    code = "import sys\nfrom zkaudit.cli import main\nmain(['methods', '--help'])\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_catalogue_needs_torch_and_numpy_alone() -> None:
    """Methods import what else they need when they are used."""
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('transformers', 'peft', 'scipy', 'matplotlib', 'ray', 'timm', 'sklearn'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Blocker())
from zkaudit.training.catalogue import catalogue
catalogue()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
