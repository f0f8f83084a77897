"""`pytest --zk-cheats` as a user runs it, on the examples and on a file of the user's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples" / "protocols"

FALLS_OVER = """
from hypothesis import strategies as st
from zkaudit.zk.testing import Protocol, Scalars

class Mine(Protocol):
    def instances(self):
        return st.integers(1, 9).map(lambda x: (x, x))

    def mutations(self, statement):
        return iter([("plus 1", statement + 1)])

    def prove(self, statement, witness, line):
        line.send("number", (witness,), Scalars(10))

    def verify(self, statement, line):
        (x,) = line.receive("number", Scalars(10, 1))
        line.require(statement // x == 1, "quotient")
        line.finish()

mine = Mine()
"""


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """pytest in a folder without configuration."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_broken_sumcheck_fails_where_it_is_broken_and_the_sound_one_nowhere(tmp_path: Path) -> None:
    done = run(tmp_path, "--zk-cheats=all", "--zk-examples=40", EXAMPLES / "weak_sumcheck.py")
    assert done.returncode == 1, done.stdout + done.stderr
    heads = [line.strip("_ ") for line in done.stdout.splitlines() if line.startswith("____")]
    assert heads == ["weak::sound[frozen-heart]", "weak::bound"]
    assert "f chosen last; the sum is" in done.stdout
    assert "stays the same" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_schnorr_s_proof_passes(tmp_path: Path) -> None:
    done = run(tmp_path, "--zk-cheats=all", "--zk-examples=4", EXAMPLES / "test_schnorr.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 passed, 1 skipped" in done.stdout
    assert "swap: nothing of the kind in Schnorr" in done.stdout


def test_a_verifier_that_falls_over_is_shown_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FALLS_OVER)
    done = run(tmp_path, "--zk-cheats=zero-polynomial", "mine.py")
    assert done.returncode == 1
    assert "the verifier of Mine fails with ZeroDivisionError" in done.stdout
    assert "Traceback" not in done.stdout


def test_named_cheats_alone_are_tried(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FALLS_OVER)
    done = run(tmp_path, "--zk-cheats=truncate,extend", "mine.py", "-vv")
    assert done.returncode == 0
    assert "2 passed" in done.stdout
    assert "mine::sound[truncate]" in done.stdout


def test_an_unknown_cheat_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FALLS_OVER)
    done = run(tmp_path, "--zk-cheats=trunkate", "mine.py")
    assert done.returncode != 0
    assert "Mine knows no cheat 'trunkate'; there are change-message" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_cheats_are_listed(tmp_path: Path) -> None:
    done = run(tmp_path, "--zk-cheats=list")
    assert done.returncode == 0
    assert "frozen" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()][:2] == ["change-message", "change-round"]


def test_without_the_option_protocols_are_no_tests(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(FALLS_OVER)
    assert run(tmp_path, "test_mine.py").returncode == 5  # no tests collected


def test_the_plugin_loads_nothing_by_itself() -> None:
    """It is loaded in every pytest of whoever has zkaudit installed."""
    heavy = ("numpy", "hypothesis", "zkaudit.zk._field")
    code = f"import sys, zkaudit.zk.pytest_plugin; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
