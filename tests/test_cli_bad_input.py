"""Every bad input ends in exit code 2 and one sentence that names what is wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from zkaudit_process import SMALLEST, ZKAUDIT, Proved, assert_refused, succeed, zkaudit

BAD_CONFIGURATIONS = {
    "not TOML": ("[data", "config.toml"),
    "unknown key": (SMALLEST + "momentum = 0.9\n", "momentum"),
    "missing section": (SMALLEST.partition("[model]")[0], "model"),
    "unknown loss": (SMALLEST.replace("cross_entropy", "hinge"), "loss"),
    "no data": (SMALLEST.replace("iris", "missing.npz"), "missing.npz"),
    "wrong type": (SMALLEST.replace("steps = 1", 'steps = "one"'), "steps"),
    "batch above rows": (SMALLEST.replace("batch = 1", "batch = 1000"), "batch"),
    "rate below what widths express": (SMALLEST.replace("0.1", "1e-9"), "learning_rate"),
    "rates for other steps": (SMALLEST.replace("0.1", "[0.1, 0.1]"), "learning_rate"),
}


@pytest.mark.parametrize("what", BAD_CONFIGURATIONS)
def test_bad_configuration_is_one_sentence(what: str, tmp_path: Path) -> None:
    text, word = BAD_CONFIGURATIONS[what]
    (tmp_path / "config.toml").write_text(text)
    assert_refused(zkaudit("train", tmp_path / "config.toml", "--out", tmp_path / "run"), word)


def test_missing_configuration_is_one_sentence(tmp_path: Path) -> None:
    assert_refused(zkaudit("train", tmp_path / "none.toml", "--out", tmp_path / "run"), "none.toml")


@pytest.mark.parametrize("flaw", ["nan", "too large", "shape", "no labels", "not npz"])
def test_bad_data_is_one_sentence(flaw: str, tmp_path: Path) -> None:
    x, y = np.random.default_rng(1).normal(size=(40, 3)), np.arange(40) % 2
    if flaw == "nan":
        x[3, 1] = np.nan
    if flaw == "too large":
        x[:, 2] *= 1e300
    arrays = {"X": x[:-1] if flaw == "shape" else x} | ({} if flaw == "no labels" else {"y": y})
    np.savez(tmp_path / "set.npz", **arrays)
    if flaw == "not npz":
        (tmp_path / "set.npz").write_bytes(b"no archive")
    (tmp_path / "config.toml").write_text(SMALLEST.replace("iris", "set.npz"))
    assert_refused(zkaudit("train", tmp_path / "config.toml", "--out", tmp_path / "run"), "set.npz")


@pytest.mark.parametrize("command", ["verify", "inspect"])
@pytest.mark.parametrize("flaw", ["missing", "empty", "text", "truncated", "version", "folder"])
def test_file_that_is_no_proof_is_one_sentence(flaw: str, command: str, smallest: Proved, tmp_path: Path) -> None:
    file, good = tmp_path / "bad.zkp", smallest.proof.read_bytes()
    if flaw == "folder":
        file.mkdir()
    elif flaw != "missing":
        contents = {"empty": b"", "text": b"hello\n" * 50, "truncated": good[: len(good) // 2], "version": _other_version(good)}
        file.write_bytes(contents[flaw])
    assert_refused(zkaudit(command, file), "bad.zkp")


def _other_version(proof: bytes) -> bytes:
    at = proof.index(b'"version":1')
    return proof[:at] + b'"version":9' + proof[at + 11 :]


def test_unusable_file_gives_a_json_verdict_too(tmp_path: Path) -> None:
    done = zkaudit("verify", tmp_path / "none.zkp", "--json")
    assert done.returncode == 2
    verdict = json.loads(done.stdout)
    assert verdict["valid"] is False
    assert "none.zkp" in verdict["reason"]


@pytest.mark.parametrize("command", ["prove", "reveal"])
def test_folder_that_is_no_run_is_one_sentence(command: str, tmp_path: Path) -> None:
    what = ["--what", "data"] if command == "reveal" else []
    for run in (tmp_path / "none", tmp_path):
        assert_refused(zkaudit(command, run, "--out", tmp_path / "out", *what), str(run))
    assert not (tmp_path / "out").exists()


def test_unfinished_run_cannot_be_proved(smallest: Proved, tmp_path: Path) -> None:
    shutil.copytree(smallest.run, tmp_path / "run")
    (tmp_path / "run" / "trace" / "complete").unlink()
    assert_refused(zkaudit("prove", tmp_path / "run", "--out", tmp_path / "proof"), "run")


@pytest.mark.parametrize("name", ["data.x.bin", "start.w0.bin"])
def test_run_changed_after_its_commitment_cannot_be_proved(name: str, smallest: Proved, tmp_path: Path) -> None:
    shutil.copytree(smallest.run, tmp_path / "run")
    path = tmp_path / "run" / "trace" / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    assert_refused(zkaudit("prove", tmp_path / "run", "--out", tmp_path / "proof"), "openings", "changed")
    assert not (tmp_path / "proof").exists()


def test_trace_of_an_unknown_loss_is_one_sentence(smallest: Proved, tmp_path: Path) -> None:
    shutil.copytree(smallest.run, tmp_path / "run")
    path = tmp_path / "run" / "trace" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "loss": "hinge"}))
    assert_refused(zkaudit("prove", tmp_path / "run", "--out", tmp_path / "proof"), "loss")


def test_model_without_opening_is_one_sentence(smallest: Proved) -> None:
    assert_refused(zkaudit("verify", smallest.proof, "--model", smallest.run / "model.safetensors"), "--opening")


def test_full_disk_is_one_sentence_and_leaves_no_proof(smallest: Proved, tmp_path: Path) -> None:
    # A limit on file size fails a write like a full disk does, without a disk of our own.
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    shutil.copytree(smallest.run, tmp_path / "run")
    assert_refused(zkaudit("prove", tmp_path / "run", "--out", tmp_path / "proof", preexec_fn=limited))
    assert not (tmp_path / "proof").exists()
    assert_refused(zkaudit("train", smallest.config, "--out", tmp_path / "new", preexec_fn=limited))


def test_work_above_the_budget_is_one_sentence(smallest: Proved) -> None:
    assert_refused(zkaudit("verify", smallest.proof, "--budget", "50000"), "budget")
    assert "VALID" in succeed("verify", smallest.proof, "--budget", "1000000")


def test_verdict_that_cannot_be_written_is_no_success(smallest: Proved) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*ZKAUDIT, "verify", str(smallest.proof)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["verify"], ["prove", "run"], ["verify", "x", "--threads", "0"]])
def test_wrong_usage_ends_in_2(arguments: list[str]) -> None:
    done = zkaudit(*arguments)
    assert done.returncode == 2
    assert "usage: zkaudit" in done.stderr


@pytest.mark.parametrize("command", ["train", "prove", "verify", "inspect", "reveal"])
def test_help_has_examples(command: str) -> None:
    assert f"zkaudit {command} " in succeed(command, "--help").partition("examples:")[2]


def test_traceback_is_shown_on_request_only(tmp_path: Path) -> None:
    command = ("verify", tmp_path / "none.zkp")
    assert "Traceback" not in zkaudit(*command).stderr
    assert "Traceback" in zkaudit(*command, env={**os.environ, "ZKAUDIT_DEBUG": "1"}).stderr


def test_a_seed_that_the_terminal_cannot_show_is_shown_in_escapes(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(SMALLEST.replace('"smallest"', '"Prüfung"'), encoding="utf-8")
    succeed("train", tmp_path / "config.toml", "--out", tmp_path / "run")
    succeed("prove", tmp_path / "run", "--out", tmp_path / "proof.zkp")
    shown = zkaudit("inspect", tmp_path / "proof.zkp", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Pr\\xfcfung" in shown.stdout
