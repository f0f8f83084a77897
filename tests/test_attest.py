"""Attestations: in-toto statements whose every digest is of the file that it names, and that are refused for any other."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_packaging import without_heavy_packages
from tiny_runs import assert_refused, command, succeed, tiny
from zkaudit_process import Proved

SCHEMA = json.loads((Path(__file__).parent / "in_toto_statement.schema.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    made = tiny(tmp_path_factory.mktemp("tiny"), 2, 3)
    succeed("reveal", made.run, "--what", "end-weights", "--out", made.run.parent / "opening")
    return made


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    return tiny(tmp_path_factory.mktemp("other"), 2, 3, "another seed")


@pytest.fixture(scope="module")
def attested(run: Proved) -> Path:
    out = run.run.parent / "statement.json"
    succeed("attest", run.proof, *model_of(run), "--out", out)
    return out


def model_of(run: Proved) -> list[str | Path]:
    return ["--model", run.run / "model.safetensors", "--opening", run.run.parent / "opening"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def result(path: Path, proofs: list[Path] | None) -> Path:
    """A result of an audit, bound to these proofs if there are any."""
    content: dict[str, Any] = {"schema": 1, "verdict": {"level": "partly exposed", "sentences": []}}
    if proofs is not None:
        content["proof"] = {"files": [{"name": proof.name, "sha256": sha256(proof)} for proof in proofs]}
    path.write_text(json.dumps(content))
    return path


def end_section(proof: Path) -> bytes:
    """The fourth section of a proof file, by docs/proof-format.md."""
    data, at = proof.read_bytes(), 12
    for _ in range(3):
        at += 8 + int.from_bytes(data[at : at + 8], "little")
    return data[at + 8 : at + 8 + int.from_bytes(data[at : at + 8], "little")]


@pytest.mark.parametrize("what", ["proof", "model", "audit"])
def test_a_statement_is_one_of_in_toto(what: str, run: Proved, tmp_path: Path) -> None:
    more = {"proof": [], "model": model_of(run), "audit": ["--audit", result(tmp_path / "result.json", [run.proof])]}[what]
    succeed("attest", run.proof, *more, "--out", tmp_path / "s.json")
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads((tmp_path / "s.json").read_text()))


def test_the_schema_refuses_what_in_toto_does(attested: Path) -> None:
    statement = json.loads(attested.read_text())
    for change in ({"_type": "https://in-toto.io/Statement/v0.1"}, {"subject": [{"name": "x"}]}, {"predicateType": "no uri"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(SCHEMA).validate({**statement, **change})


def test_subject_is_the_model_file_and_proof_the_proof_file(attested: Path, run: Proved) -> None:
    statement = json.loads(attested.read_text())
    (subject,) = statement["subject"]
    assert subject["digest"] == {"sha256": sha256(run.run / "model.safetensors")}
    assert statement["predicate"]["proof"] == [{"name": "proof.zkp", "digest": {"sha256": sha256(run.proof)}}]


def test_without_a_model_the_subject_is_the_end_commitment(run: Proved, tmp_path: Path) -> None:
    succeed("attest", run.proof, "--out", tmp_path / "s.json")
    (subject,) = json.loads((tmp_path / "s.json").read_text())["subject"]
    assert subject["digest"] == {"zkauditCommitment": hashlib.sha256(end_section(run.proof)).hexdigest()}


def test_the_predicate_holds_what_verification_found(attested: Path, run: Proved) -> None:
    predicate = json.loads(attested.read_text())["predicate"]
    found = json.loads(succeed("verify", run.proof, "--json"))
    assert predicate["statements"] == found["statements"]
    assert predicate["verdict"] == {
        "valid": True,
        "steps": found["steps"],
        "segments": 1,
        "soundnessBits": found["soundness_bits"],
        "assumes": "",
    }


def test_the_same_files_give_the_same_bytes(attested: Path, run: Proved, tmp_path: Path) -> None:
    succeed("attest", run.proof, *model_of(run), "--out", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == attested.read_bytes()


def test_a_chain_is_attested_as_one(chain: Proved, tmp_path: Path) -> None:
    files = sorted(chain.proof.glob("segment-*.zkp"))
    succeed("attest", chain.proof, "--out", tmp_path / "folder.json")
    succeed("attest", *reversed(files), "--out", tmp_path / "files.json")
    statement = json.loads((tmp_path / "folder.json").read_text())
    assert [one["digest"]["sha256"] for one in statement["predicate"]["proof"]] == [sha256(file) for file in files]
    assert (statement["predicate"]["verdict"]["steps"], len(statement["predicate"]["statements"])) == (5, 3)
    assert statement["subject"][0]["digest"]["zkauditCommitment"] == hashlib.sha256(end_section(files[-1])).hexdigest()
    assert (tmp_path / "files.json").read_bytes() == (tmp_path / "folder.json").read_bytes()


def test_a_chain_without_its_beginning_says_so(chain: Proved, tmp_path: Path) -> None:
    succeed("attest", chain.proof / "segment-00002.zkp", "--out", tmp_path / "s.json")
    assert "segments 0 to 1" in json.loads((tmp_path / "s.json").read_text())["predicate"]["verdict"]["assumes"]


def test_an_invalid_proof_is_not_attested(run: Proved, tmp_path: Path) -> None:
    altered = bytearray(run.proof.read_bytes())
    altered[-20] ^= 1
    (tmp_path / "altered.zkp").write_bytes(altered)
    assert_refused(command("attest", tmp_path / "altered.zkp", "--out", tmp_path / "s.json"), 1, "the proof is invalid")
    assert not (tmp_path / "s.json").exists()


def test_a_model_with_one_other_weight_is_not_attested(run: Proved, tmp_path: Path) -> None:
    other_model(run.run / "model.safetensors", tmp_path / "m.safetensors")
    given = ["--model", tmp_path / "m.safetensors", "--opening", run.run.parent / "opening"]
    assert_refused(command("attest", run.proof, *given, "--out", tmp_path / "s.json"), 1, "m.safetensors", "end weights")
    assert not (tmp_path / "s.json").exists()


def other_model(model: Path, out: Path) -> None:
    """The model with one end weight changed by the smallest step."""
    tensors = load_file(model)
    tensors["end.0.bias"][0] += 2.0**-32
    with safe_open(model, framework="np") as file:
        save_file(tensors, out, file.metadata())


def test_a_model_with_one_more_tensor_beside_the_proved_ones_is_not_attested(run: Proved, tmp_path: Path) -> None:
    tensors = load_file(run.run / "model.safetensors")
    save_file({**tensors, "end.scale": tensors["end.0.bias"]}, tmp_path / "m.safetensors")
    given = ["--model", tmp_path / "m.safetensors", "--opening", run.run.parent / "opening"]
    assert_refused(command("attest", run.proof, *given, "--out", tmp_path / "s.json"), 1, "more tensors")


def test_an_opening_of_the_start_weights_is_not_of_the_model(run: Proved, tmp_path: Path) -> None:
    succeed("reveal", run.run, "--what", "start-weights", "--out", tmp_path / "start")
    given = ["--model", run.run / "model.safetensors", "--opening", tmp_path / "start"]
    assert_refused(command("attest", run.proof, *given, "--out", tmp_path / "s.json"), 1, "end weights")


def test_an_audit_is_named_with_its_verdict_and_whether_it_is_bound(run: Proved, tmp_path: Path) -> None:
    for bound in (True, False):
        path = result(tmp_path / "result.json", [run.proof] if bound else None)
        succeed("attest", run.proof, "--audit", path, "--out", tmp_path / "s.json")
        named = {"name": "result.json", "digest": {"sha256": sha256(path)}, "level": "partly exposed", "boundToProof": bound}
        assert json.loads((tmp_path / "s.json").read_text())["predicate"]["audit"] == named


def test_an_audit_of_another_proof_s_update_is_refused(run: Proved, other: Proved, tmp_path: Path) -> None:
    path = result(tmp_path / "result.json", [other.proof])
    assert_refused(command("attest", run.proof, "--audit", path, "--out", tmp_path / "s.json"), 1, "another proof")


def test_a_check_holds_for_the_same_files_wherever_they_lie(attested: Path, run: Proved, tmp_path: Path) -> None:
    shutil.copy(run.proof, tmp_path / "moved.zkp")
    shutil.copy(run.run / "model.safetensors", tmp_path / "moved.safetensors")
    printed = succeed("attest", "--check", attested, tmp_path / "moved.zkp", "--model", tmp_path / "moved.safetensors")
    assert "holds" in printed
    assert "not shown" in printed  # without the opening the model is told by its digest alone
    assert "not shown" not in succeed("attest", "--check", attested, run.proof, *model_of(run))


def test_a_check_refuses_another_proof(attested: Path, run: Proved, other: Proved) -> None:
    done = command("attest", "--check", attested, other.proof, "--model", run.run / "model.safetensors")
    assert_refused(done, 1, "predicate.proof[0].digest.sha256")


def test_a_check_refuses_another_model(attested: Path, run: Proved, tmp_path: Path) -> None:
    other_model(run.run / "model.safetensors", tmp_path / "m.safetensors")
    done = command("attest", "--check", attested, run.proof, "--model", tmp_path / "m.safetensors")
    assert_refused(done, 1, "subject[0].digest.sha256")


def test_a_check_refuses_a_changed_audit(run: Proved, tmp_path: Path) -> None:
    path = result(tmp_path / "result.json", None)
    succeed("attest", run.proof, "--audit", path, "--out", tmp_path / "s.json")
    succeed("attest", "--check", tmp_path / "s.json", run.proof, "--audit", path)
    path.write_text(path.read_text() + " ")
    done = command("attest", "--check", tmp_path / "s.json", run.proof, "--audit", path)
    assert_refused(done, 1, "predicate.audit.digest.sha256")


def set_steps(statement: Any) -> None:
    statement["predicate"]["verdict"]["steps"] = 300


def set_rows(statement: Any) -> None:
    statement["predicate"]["statements"][0]["rows"] += 1


def add_digest(statement: Any) -> None:
    statement["subject"][0]["digest"]["sha512"] = "0" * 128


def add_claim(statement: Any) -> None:
    statement["predicate"]["statements"][0]["epsilon"] = 1


def add_subject(statement: Any) -> None:
    statement["subject"].append({"name": "other", "digest": {"sha256": "0" * 64}})


def drop_verdict(statement: Any) -> None:
    del statement["predicate"]["verdict"]


@pytest.mark.parametrize("change", [set_steps, set_rows, add_digest, add_claim, add_subject, drop_verdict])
def test_a_check_refuses_a_changed_statement(
    change: Callable[[Any], None], attested: Path, run: Proved, tmp_path: Path
) -> None:
    statement = json.loads(attested.read_text())
    change(statement)
    (tmp_path / "s.json").write_text(json.dumps(statement))
    done = command("attest", "--check", tmp_path / "s.json", run.proof, "--model", run.run / "model.safetensors")
    assert_refused(done, 1, "s.json", "differs")


def test_a_check_ignores_fields_it_does_not_know_and_the_version_that_wrote_it(
    attested: Path, run: Proved, tmp_path: Path
) -> None:
    statement = json.loads(attested.read_text())
    del statement["subject"][0]["name"]
    statement["predicate"] |= {"later": 1, "verifier": {"name": "zkaudit", "version": "9.9"}}
    (tmp_path / "s.json").write_text(json.dumps(statement))
    succeed("attest", "--check", tmp_path / "s.json", run.proof, "--model", run.run / "model.safetensors")


def test_what_a_statement_names_must_be_given_to_a_check(attested: Path, run: Proved) -> None:
    assert_refused(command("attest", "--check", attested, run.proof), 2, "--model")


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100000, '{"_type": "https://in-toto.io/Statement/v1"}'])
def test_a_file_that_is_no_statement_is_one_line(text: str, run: Proved, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    assert_refused(command("attest", "--check", tmp_path / "s.json", run.proof), 2, "s.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "verdict": "fine"}'])
def test_a_file_that_is_no_audit_is_one_line(text: str, run: Proved, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    assert_refused(command("attest", run.proof, "--audit", tmp_path / "r.json", "--out", tmp_path / "s.json"), 2, "r.json")


def test_a_proof_of_lora_is_attested_with_its_method_and_adapters(tmp_path: Path) -> None:
    made = tiny(tmp_path / "lora", 2, 2, method='method = "lora"\n[lora]\nrank = 2\nalpha = 3\nlayers = [1, 2]\n')
    succeed("reveal", made.run, "--what", "end-weights", "--out", made.run.parent / "opening")
    succeed("attest", made.proof, *model_of(made), "--out", tmp_path / "s.json")
    (statement,) = json.loads((tmp_path / "s.json").read_text())["predicate"]["statements"]
    assert statement["lora"] == json.loads(succeed("inspect", made.proof, "--json"))["statement"]["lora"]
    succeed("attest", "--check", tmp_path / "s.json", made.proof, *model_of(made))


def test_options_that_do_not_go_together_are_one_line(run: Proved, tmp_path: Path) -> None:
    assert_refused(command("attest", run.proof), 2, "--out")
    assert_refused(command("attest", tmp_path / "none.zkp", "--out", tmp_path / "s.json"), 2, "none.zkp")
    model = run.run / "model.safetensors"
    assert_refused(command("attest", run.proof, "--model", model, "--out", tmp_path / "s.json"), 2, "--opening")


def test_attestation_needs_neither_torch_nor_attacks(run: Proved, tmp_path: Path) -> None:
    program = "from zkaudit.cli import main; sys.exit(main(sys.argv[1:]))"
    done = without_heavy_packages(program, "attest", str(run.proof), "--out", str(tmp_path / "s.json"))
    assert done.returncode == 0, done.stderr


def test_help_has_examples() -> None:
    assert "zkaudit attest " in succeed("attest", "--help").partition("examples:")[2]
