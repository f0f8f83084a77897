"""`zkaudit` as a user runs it: what valid, invalid and revealed things look like from outside."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
from test_packaging import without_heavy_packages
from zkaudit_process import Proved, succeed, zkaudit


def test_smallest_proof_verifies_where_there_is_nothing_else(smallest: Proved, tmp_path: Path) -> None:
    shutil.copy(smallest.proof, tmp_path / "alone.zkp")
    printed = succeed("verify", "alone.zkp", cwd=tmp_path)
    assert printed.startswith("VALID: 1 steps of training") or printed.startswith("VALID: 1 step of training")
    assert [path.name for path in tmp_path.iterdir()] == ["alone.zkp"]


def test_verification_needs_numpy_alone(smallest: Proved) -> None:
    program = "from zkaudit.cli import main; sys.exit(main(sys.argv[1:]))"
    done = without_heavy_packages(program, "verify", str(smallest.proof))
    assert done.returncode == 0, done.stderr


def test_segments_make_a_folder_that_verifies_as_a_chain(chain: Proved) -> None:
    names = sorted(path.name for path in chain.proof.iterdir() if path.suffix == ".zkp")
    assert names == ["segment-00000.zkp", "segment-00001.zkp", "segment-00002.zkp"]
    verdict = json.loads(succeed("verify", chain.proof, "--json"))
    assert (verdict["valid"], verdict["steps"], verdict["segments"]) == (True, 5, 3)


def test_segments_verify_one_by_one_and_as_a_list(chain: Proved) -> None:
    files = sorted(chain.proof.glob("*.zkp"))
    assert [json.loads(succeed("verify", file, "--json"))["steps"] for file in files] == [2, 2, 1]
    assert json.loads(succeed("verify", *files, "--json"))["steps"] == 5


def test_json_verdict_has_the_promised_keys(smallest: Proved) -> None:
    verdict = json.loads(succeed("verify", smallest.proof, "--json", "--threads", "1"))
    assert verdict["valid"] is True
    assert isinstance(verdict["reason"], str)
    assert verdict["steps"] == 1
    assert verdict["soundness_bits"] >= 100
    assert 0 < verdict["seconds"] < 60
    assert verdict["statements"][0]["widths"] == [4, 3]


def test_inspect_shows_the_statement(smallest: Proved) -> None:
    shown = json.loads(succeed("inspect", smallest.proof, "--json"))
    assert shown["statement"]["widths"] == [4, 3]
    assert shown["statement"]["seed"] == "smallest"
    assert sum(shown["section_bytes"].values()) <= smallest.proof.stat().st_size
    assert "4-3" in succeed("inspect", smallest.proof)


def test_metrics_hold_both_accuracies(chain: Proved) -> None:
    metrics = json.loads((chain.run / "metrics.json").read_text())
    assert 0 <= metrics["test_accuracy"] <= 1
    assert 0 <= metrics["float_test_accuracy"] <= 1
    assert metrics["widths"] == [13, 7, 5, 3]
    assert metrics["steps"] == 5
    assert metrics["learning_rate"] == pytest.approx([0.05, 0.05, 0.04, 0.03, 0.02], rel=0.02)


def test_other_users_can_read_neither_run_nor_opening(chain: Proved, tmp_path: Path) -> None:
    succeed("reveal", chain.run, "--what", "end-weights", "--out", tmp_path / "opening")
    private = [chain.run, *chain.run.rglob("*"), tmp_path / "opening"]
    assert {oct(stat.S_IMODE(path.stat().st_mode) & 0o077) for path in private} == {"0o0"}


def test_finished_training_is_left_as_it_is(smallest: Proved) -> None:
    before = (smallest.run / "model.safetensors").read_bytes()
    succeed("train", smallest.config, "--out", smallest.run)
    assert (smallest.run / "model.safetensors").read_bytes() == before


def test_proved_model_matches_its_opening(chain: Proved, tmp_path: Path) -> None:
    succeed("reveal", chain.run, "--what", "end-weights", "--out", tmp_path / "opening")
    model = chain.run / "model.safetensors"
    printed = succeed("verify", chain.proof, "--model", model, "--opening", tmp_path / "opening")
    assert str(model) in printed


def test_model_with_one_other_weight_is_refused(chain: Proved, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    succeed("reveal", chain.run, "--what", "end-weights", "--out", tmp_path / "opening")
    tensors = load_file(chain.run / "model.safetensors")
    name = min(name for name in tensors if name.startswith("end.") and name.endswith("bias"))
    tensors[name][0] += 2.0**-32
    save_file(tensors, tmp_path / "other.safetensors", _metadata(chain.run / "model.safetensors"))
    done = zkaudit("verify", chain.proof, "--model", tmp_path / "other.safetensors", "--opening", tmp_path / "opening")
    assert done.returncode == 1
    assert done.stdout.startswith("INVALID: ")


def test_model_of_another_run_is_refused(chain: Proved, smallest: Proved, tmp_path: Path) -> None:
    succeed("reveal", chain.run, "--what", "end-weights", "--out", tmp_path / "opening")
    model = smallest.run / "model.safetensors"
    done = zkaudit("verify", chain.proof, "--model", model, "--opening", tmp_path / "opening")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr + done.stdout


def test_every_kind_of_opening_is_written(chain: Proved, tmp_path: Path) -> None:
    for what in ("end-weights", "start-weights", "data"):
        succeed("reveal", chain.run, "--what", what, "--out", tmp_path / what)
        assert (tmp_path / what).stat().st_size > 0


def _metadata(model: Path) -> dict[str, str]:
    raw = model.read_bytes()
    return dict(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"])


def test_altered_proof_is_invalid(smallest: Proved, tmp_path: Path) -> None:
    altered = bytearray(smallest.proof.read_bytes())
    altered[-20] ^= 1
    (tmp_path / "altered.zkp").write_bytes(altered)
    done = zkaudit("verify", tmp_path / "altered.zkp")
    assert done.returncode == 1
    assert done.stdout.startswith("INVALID: ")
    verdict = json.loads(zkaudit("verify", tmp_path / "altered.zkp", "--json").stdout)
    assert verdict["valid"] is False
    assert verdict["reason"]


@pytest.mark.parametrize("order", [(0, 2), (0, 0, 1, 2)])
def test_chain_with_a_missing_or_repeated_segment_is_invalid(chain: Proved, order: tuple[int, ...]) -> None:
    files = sorted(chain.proof.glob("*.zkp"))
    done = zkaudit("verify", *(files[i] for i in order))
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert not done.stdout.startswith("VALID")
