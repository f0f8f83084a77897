"""The project installs where it should, says one sentence where it cannot, and its core needs numpy alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "sklearn", "scipy", "safetensors", "ray", "transformers", "peft")
NOT_FOR_TESTS = {"ezkl", "onnx", "cupy-cuda13x", "minari"}  # for benchmarks, machines with a GPU, downloaded data sets
BLOCK_HEAVY = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Blocker())
"""


def without_heavy_packages(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter that cannot import what the extra `train` brings."""
    return subprocess.run([sys.executable, "-c", BLOCK_HEAVY + program, *arguments], capture_output=True, text=True)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in a copy of the project that has no virtual environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "CMakeLists.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "cuda").mkdir()
    return subprocess.run(["make", "-C", str(folder), *arguments], capture_output=True, text=True)


def sentences(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("zkaudit needs")]


def test_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    done = make(tmp_path, "lint", f"PYTHON={sys.executable}", "CXX=/no/such/compiler")
    assert done.returncode != 0
    assert len(sentences(done.stderr)) == 1
    assert "C++20 compiler" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_missing_python_is_one_sentence(tmp_path: Path) -> None:
    done = make(tmp_path, "demo", "PYTHON=/no/such/python")
    assert done.returncode != 0
    assert len(sentences(done.stderr)) == 1
    assert "Python 3.11" in done.stderr


def test_every_direct_dependency_is_pinned_at_the_tested_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    names = {re.split(r"[<>=!~\[ ]", requirement)[0].replace("_", "-").lower() for requirement in wanted}
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    assert names <= set(pins)
    needed = names - NOT_FOR_TESTS  # who needs them is told
    assert {name: version(name).partition("+")[0] for name in needed} == {name: pins[name] for name in needed}


def test_only_numpy_is_a_core_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [re.split(r"[<>=]", requirement)[0] for requirement in project["dependencies"]] == ["numpy"]


def test_prover_and_verifier_import_without_the_training_packages() -> None:
    program = "import zkaudit.zk.prover, zkaudit.zk.verifier, zkaudit.zk.opening, zkaudit.zk.proof_file, zkaudit.cli"
    done = without_heavy_packages(program)
    assert done.returncode == 0, done.stderr


def test_training_without_its_packages_names_the_extra(tmp_path: Path) -> None:
    program = "from zkaudit.cli import main; sys.exit(main(sys.argv[1:]))"
    done = without_heavy_packages(program, "train", str(ROOT / "examples/digits.toml"), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'zkaudit[train]'" in done.stderr


def test_auditing_without_its_packages_names_the_extra(tmp_path: Path) -> None:
    program = "from zkaudit.cli import main; sys.exit(main(sys.argv[1:]))"
    done = without_heavy_packages(program, "audit", str(ROOT / "examples/audit.toml"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'zkaudit[audit]'" in done.stderr


@pytest.mark.slow
def test_wheel_holds_all_that_verification_needs(tmp_path: Path) -> None:
    options = ["--no-deps", "--no-build-isolation", "--quiet", "-C", f"build-dir={tmp_path / 'build'}", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("zkaudit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = """
sys.meta_path = [finder for finder in sys.meta_path if 'ScikitBuild' not in type(finder).__name__]
sys.path.insert(0, sys.argv.pop(1))
import zkaudit.zk.verifier, zkaudit.zk._field, zkaudit.zk._curve
assert zkaudit.zk._field.__file__.startswith(sys.path[0]) and zkaudit.zk.verifier.__file__.startswith(sys.path[0])
from zkaudit.cli import main
sys.exit(main(['--version']))
"""
    done = without_heavy_packages(program, str(tmp_path / "site"))
    assert (done.returncode, done.stdout) == (0, f"zkaudit {version('zkaudit')}\n"), done.stderr
    for package in ("zk", "training", "attacks", "cli"):
        assert (tmp_path / "site" / "zkaudit" / package / "py.typed").is_file()
    assert (tmp_path / "site" / "zkaudit" / "attacks" / "report" / "style.css").is_file()
