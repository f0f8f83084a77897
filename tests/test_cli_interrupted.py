"""Commands that were stopped go on where they were, and never with another configuration."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from zkaudit_process import LONG, SMALLEST, Proved, assert_refused, start, succeed, wait_for, zkaudit


@pytest.mark.slow
def test_killed_training_goes_on_from_its_last_chunk(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(LONG)
    run = tmp_path / "run"
    process = start("train", tmp_path / "config.toml", "--out", run)
    wait_for(lambda: (run / "trace" / "chunk-00001").exists(), process)
    process.kill()
    process.communicate()
    assert not (run / "metrics.json").exists()
    first = (run / "trace" / "chunk-00000" / "z0.bin").stat()
    succeed("train", tmp_path / "config.toml", "--out", run)
    after = (run / "trace" / "chunk-00000" / "z0.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert json.loads((run / "metrics.json").read_text())["steps"] == 20000


@pytest.mark.slow
def test_interrupted_training_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(LONG)
    process = start("train", tmp_path / "config.toml", "--out", tmp_path / "run")
    wait_for(lambda: (tmp_path / "run" / "trace" / "chunk-00000").exists(), process)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaint.endswith("zkaudit: stopped; run the same command again to go on\n")


@pytest.mark.slow
def test_killed_prover_goes_on_from_its_last_segment(chain: Proved, tmp_path: Path) -> None:
    command = ("prove", chain.run, "--out", tmp_path / "proofs", "--segment-steps", "1")
    process = start(*command)
    first = tmp_path / "proofs" / "segment-00000.zkp"
    wait_for(first.exists, process)
    process.kill()
    process.communicate()
    before = first.read_bytes()
    succeed(*command)
    assert first.read_bytes() == before
    assert json.loads(succeed("verify", tmp_path / "proofs", "--json"))["segments"] == 5


def test_run_of_another_configuration_is_refused(smallest: Proved, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(SMALLEST.replace("smallest", "other"))
    assert_refused(zkaudit("train", tmp_path / "other.toml", "--out", smallest.run), str(smallest.run))
