"""Both lanes, forced by the environment: the same bytes of the same proof, and the core's tests once more on the scalar one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zkaudit.zk.backend import core, curve_core

TESTS = Path(__file__).parent
PROOF = """
import hashlib
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of
from zkaudit.zk.channel import Blinder
from zkaudit.zk.proof_file import encode
statement = statement_of(widths=(6, 5, 3), batch=5, steps=2)
print(hashlib.sha256(encode(hidden_proof(example(statement), statement, Blinder(b"seed")))).hexdigest())
"""


def run(lanes: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ZKAUDIT_LANES": lanes, "PYTHONPATH": str(TESTS)}
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=TESTS.parent, capture_output=True, text=True)


@pytest.mark.skipif(not core.has_ifma(), reason="this CPU has no AVX-512 IFMA, so there is one lane")
def test_a_proof_does_not_depend_on_the_lane() -> None:
    assert core.__name__.endswith("_ifma")
    assert curve_core.__name__.endswith("_ifma")
    proofs = [run(lanes, "-c", PROOF) for lanes in ("scalar", "ifma")]
    assert proofs[0].stdout == proofs[1].stdout != "", proofs[0].stderr


@pytest.mark.slow
@pytest.mark.skipif(not core.has_ifma(), reason="this CPU has no AVX-512 IFMA, so the other tests run on the scalar lane")
@pytest.mark.parametrize(
    "file",
    [
        "test_curve.py",
        "test_msm.py",
        "test_hash_to_curve.py",
        "test_field.py",
        "test_kernels.py",
        "test_leaves.py",
        "test_gathered.py",
    ],
)
def test_scalar_lane_passes(file: str) -> None:
    done = run("scalar", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / file))
    assert done.returncode == 0, done.stdout


def test_an_unknown_lane_is_named() -> None:
    done = run("wide", "-c", "import zkaudit.zk.field")
    assert "ZKAUDIT_LANES=wide" in done.stderr
