"""Proving stays within the memory by which segments are cut."""

import subprocess
import sys
from pathlib import Path

import pytest
from zkaudit_process import zkaudit

PROVE = """
import sys
from pathlib import Path
from zkaudit.cli.bench.process import peak_bytes
from zkaudit.zk import pedersen
from zkaudit.zk.layout import Layout
from zkaudit.zk.proof_file import read
from zkaudit.zk.prover import prove_run
from zkaudit.zk.segments import table_bytes
pedersen.columns(1 << 14), pedersen.slots(1 << 12)
before = peak_bytes()
file = prove_run(Path(sys.argv[1]), Path(sys.argv[2]))[0]
print(peak_bytes() - before, table_bytes(Layout(read(file).statement)))
"""
CONFIG = """
[data]
source = "digits"
test_fraction = 0.25
[model]
hidden = {hidden}
[training]
loss = "cross_entropy"
batch = 64
steps = {steps}
learning_rate = 0.1
seed = "memory"
"""


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "steps"), [([128, 64], 128), ([16, 16], 1024)], ids=["wide", "narrow"])
def test_a_segment_keeps_to_its_stated_memory(hidden: list[int], steps: int, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG.format(hidden=hidden, steps=steps))
    assert zkaudit("train", tmp_path / "config.toml", "--out", tmp_path / "run").returncode == 0
    command = [sys.executable, "-c", PROVE, str(tmp_path / "run"), str(tmp_path / "proof.zkp")]
    used, stated = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert stated / 4 < used < stated + (64 << 20)  # code and small arrays are not in the statement
