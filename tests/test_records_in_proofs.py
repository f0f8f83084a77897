"""A proof's statements carry the head of the run's step records: whichever record is changed, `verify --records` names it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_proved_samplers import BUCKETS, VIEWS, configured
from tiny_runs import assert_refused, command, succeed

from zkaudit.cli import step_records
from zkaudit.training import trace as trace_module
from zkaudit.training.step_file import StepFile, StepWriter
from zkaudit.training.steps import StepRecord, parse_header, parse_record
from zkaudit.zk import proof_file
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.records import Records
from zkaudit.zk.sampling import batches
from zkaudit.zk.statement import check_succession
from zkaudit.zk.trace import read_trace

STEPS, CUT = 10, 4
LINES = "steps.jsonl"
RUNS = {"uniform": "", "views": VIEWS, "buckets": BUCKETS}
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module", params=RUNS)
def proved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A run with records, and its proof in segments of 4, 4 and 2 steps."""
    folder = tmp_path_factory.mktemp("records")
    config = configured(folder, f"records = true\n{RUNS[request.param]}")
    succeed("train", config, "--out", folder / "run")
    succeed("prove", folder / "run", "--out", folder / "proofs", "--segment-steps", str(CUT))
    return folder / "run", sorted((folder / "proofs").glob("*.zkp"))


def rewritten(lines: list[bytes], change: Callable[[int, dict[str, Any]], None]) -> bytes:
    """All records after `change`, chained anew: the forger's best effort."""
    head, out = parse_header(lines[0]).digest(), lines[:1]
    for step, line in enumerate(lines[1:]):
        fields = json.loads(line)
        change(step, fields)
        fields["prev_hash"] = head
        out.append(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
        head = parse_record(out[-1]).digest()
    return b"".join(line + b"\n" for line in out)


def of(run: Path) -> list[bytes]:
    return (run / LINES).read_bytes().splitlines()


def test_records_are_those_that_the_statements_bind(proved: tuple[Path, list[Path]]) -> None:
    run, files = proved
    statements = [proof_file.read(file).statement for file in files]
    links = [record.digest() for record in StepFile(run).records()]
    assert [s.records for s in statements] == [links[3], links[7], links[9]]
    for before, after in itertools.pairwise(statements):
        check_succession(before, after)
    assert f"head {links[9][:16]}" in succeed("verify", *files, "--records", run / LINES)
    assert json.loads(succeed("verify", *files, "--records", run, "--json"))["records"]
    assert json.loads(succeed("verify", *files, "--json"))["records"] is None


def test_replay_makes_the_records_again(proved: tuple[Path, list[Path]]) -> None:
    run, files = proved
    head = proof_file.read(files[-1]).statement.records
    assert head is not None
    said = succeed("replay", run, "--seed", "samplers", "--head", head)
    assert said.startswith("REPLAYED: 10 steps")
    assert "ids" in next(line for line in said.splitlines() if "recomputed" in line)


@pytest.mark.parametrize("chained", [False, True], ids=["as it was chained", "chained anew"])
def test_two_swapped_records_are_caught(proved: tuple[Path, list[Path]], chained: bool, tmp_path: Path) -> None:
    """By replay, without the proof, and by the proof."""
    run, files = proved
    lines = of(run)
    lines[3], lines[6] = lines[6], lines[3]
    content = b"".join(line + b"\n" for line in lines)
    if chained:
        content = rewritten(lines, lambda step, fields: fields.update(step=step))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LINES).write_bytes(content)
    if (run / "columns").exists():
        (folder / "columns").symlink_to(run / "columns")
    done = command("replay", folder)
    assert (done.code, done.out.split(":")[0]) == (1, "DIFFERS")
    assert "step 2" in done.out or "line 4" in done.out
    refused = command("verify", *files, "--records", folder / LINES)
    assert refused.code == 1
    assert refused.out.startswith("INVALID")
    assert "line 4, the record of step 2" in refused.out


def other_id(fields: dict[str, Any]) -> None:
    fields["ids"][1] = next(row for row in range(36) if row not in fields["ids"])


CHANGES: dict[str, Change] = {
    "ids": other_id,
    "learning_rate": lambda fields: fields.update(learning_rate=0.25),
    "epoch": lambda fields: fields.update(epoch=7),
    "weights": lambda fields: fields.update(weights=[1.0, 2.0, 1.0, 1.0]),
    "selector": lambda fields: fields.update(selector="uds"),
    "objective_id": lambda fields: fields.update(objective_id="ul2"),
}


@pytest.mark.parametrize("field", CHANGES)
def test_one_changed_record_is_named_though_the_chain_was_made_anew(
    proved: tuple[Path, list[Path]], field: str, tmp_path: Path
) -> None:
    run, files = proved
    forged = tmp_path / LINES
    forged.write_bytes(rewritten(of(run), lambda step, fields: CHANGES[field](fields) if step == 5 else None))
    done = command("verify", *files, "--records", forged)
    assert done.code == 1
    assert f"line 7, the record of step 5: {field} is " in done.out


def test_a_record_from_before_the_segments_given_cannot_be_changed_either(
    proved: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    """Its fields follow from no statement that was given; but the head after the segment holds it."""
    run, files = proved
    assert "records 4 to 7" in succeed("verify", files[1], "--records", run / LINES)
    forged = tmp_path / LINES
    forged.write_bytes(rewritten(of(run), lambda step, fields: other_id(fields) if step == 2 else None))
    done = command("verify", files[1], "--records", forged)
    assert done.code == 1
    assert "record of step 7: the head after it is " in done.out


def test_a_statement_with_another_head_is_refused(proved: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """By the proof, which absorbs the header; and the records by themselves do not have that head."""
    run, files = proved
    file = proof_file.read(files[0])
    for head in ("ab" * 32, None):
        other = replace(file.statement, records=head)
        path = tmp_path / "other.zkp"
        path.write_bytes(proof_file.encode(ProofFile(other, file.proof)))
        assert command("verify", path).code == 1
        with pytest.raises(InvalidProof, match="segment 0 states abab" if head else "names no step records"):
            step_records.check(run / LINES, [other])


@pytest.mark.parametrize("kept", [1, 4, STEPS])
def test_missing_records_are_named(proved: tuple[Path, list[Path]], kept: int, tmp_path: Path) -> None:
    run, files = proved
    path = tmp_path / LINES
    path.write_bytes(b"".join(line + b"\n" for line in of(run)[: 1 + kept]))
    done = command("verify", *files, "--records", path)
    assert (done.code, f"ends after {kept} records" in done.out) == ((0, False) if kept == STEPS else (1, True))


def test_another_header_is_named(proved: tuple[Path, list[Path]], tmp_path: Path) -> None:
    run, files = proved
    header = json.loads(of(run)[0])
    for name, value in (("run_seed", "other"), ("rows", 37), ("data", ""), ("rules", {}), ("columns", {"length": "00"})):
        changed = json.dumps({**header, name: value}, sort_keys=True, separators=(",", ":")).encode()
        path = tmp_path / LINES
        path.write_bytes(rewritten([changed, *of(run)[1:]], lambda step, fields: None))
        done = command("verify", *files, "--records", path)
        assert done.code == 1
        assert f"line 1: {name} is " in done.out


def test_what_is_no_file_of_records_cannot_be_used(proved: tuple[Path, list[Path]], tmp_path: Path) -> None:
    run, files = proved
    path = tmp_path / LINES
    for content in (b"", b"{}\n", (run / LINES).read_bytes().replace(b'"step":3', b'"step": 3')):
        path.write_bytes(content)
        assert_refused(command("verify", *files, "--records", path), 2, str(path))
    assert_refused(command("verify", *files, "--records", tmp_path / "none"), 2, "none")


def test_a_proof_without_records_is_tied_to_none(proved: tuple[Path, list[Path]], tmp_path: Path) -> None:
    run, _ = proved
    succeed("train", configured(tmp_path, ""), "--out", tmp_path / "run")
    assert not (tmp_path / "run" / LINES).exists()
    succeed("prove", tmp_path / "run", "--out", tmp_path / "plain.zkp")
    done = command("verify", tmp_path / "plain.zkp", "--records", run / LINES)
    assert done.code == 1
    assert "names no step records" in done.out


def test_segments_have_records_all_or_none(proved: tuple[Path, list[Path]]) -> None:
    before, after = (proof_file.read(file).statement for file in proved[1][:2])
    with pytest.raises(BadInput, match="records"):
        check_succession(before, replace(after, records=None))


@pytest.mark.parametrize("left", [0, 1, 5, STEPS])
def test_records_of_a_stopped_run_are_caught_up_with(proved: tuple[Path, list[Path]], left: int, tmp_path: Path) -> None:
    """Whether it left fewer records than steps, or a line without an end; what was there stays."""
    run, _ = proved
    whole = (run / LINES).read_bytes()
    lines = whole.splitlines(keepends=True)
    (run / LINES).write_bytes(b"".join(lines[: 1 + left]) + (b'{"bins":[' if left < STEPS else b""))
    (run / "metrics.json").unlink()
    succeed("train", run.parent / "config.toml", "--out", run)
    assert (run / LINES).read_bytes() == whole


@pytest.mark.parametrize("stopped", [0, 3, 6])
def test_a_run_that_was_stopped_has_all_records_in_the_end(
    stopped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of an unfinished chunk are trained on once more; what was recorded of them stays."""
    write = StepWriter.write

    def stop(writer: StepWriter, record: StepRecord) -> str:
        if record.step == stopped:
            raise KeyboardInterrupt
        return write(writer, record)

    config, run = configured(tmp_path, "records = true\n"), tmp_path / "run"
    monkeypatch.setattr(trace_module, "LONGEST_CHUNK", 4)
    with monkeypatch.context() as patch:
        patch.setattr(StepWriter, "write", stop)
        assert command("train", config, "--out", run).code == 130
    before = (run / LINES).read_bytes()
    assert len(before.splitlines()) == 1 + stopped
    succeed("train", config, "--out", run)
    assert (run / LINES).read_bytes().startswith(before)
    succeed("prove", run, "--out", tmp_path / "proof.zkp")
    assert "records 0 to 9" in succeed("verify", tmp_path / "proof.zkp", "--records", run / LINES)
    assert "after step 9" in succeed("inspect", tmp_path / "proof.zkp")


def test_a_run_whose_records_are_not_its_own_is_not_proved(proved: tuple[Path, list[Path]], tmp_path: Path) -> None:
    run, _ = proved
    drawn = read_trace(run / "trace").batches(0, STEPS)
    assert Records(run).head_after(drawn) == [record.digest() for record in StepFile(run).records()][-1]
    for change, words in (
        (lambda lines: lines[:-1], "ends before the record of step 9"),
        (lambda lines: [*lines[:3], lines[4], *lines[4:]], "step 2 has not the 'step'"),
        (lambda lines: [lines[0].replace(b"tiny", b"tany").replace(b"samplers", b"simplers"), *lines[1:]], "'prev_hash'"),
        (lambda lines: [*lines[:3], b"[]\n", *lines[4:]], "step 2 is no JSON object"),
        (lambda lines: [], "ends before"),
    ):
        (tmp_path / LINES).write_bytes(b"".join(change((run / LINES).read_bytes().splitlines(keepends=True))))
        with pytest.raises(BadInput, match=words):
            Records(tmp_path).head_after(drawn)
    with pytest.raises(BadInput, match="step 0 has not the 'ids'"):
        Records(run).head_after(drawn[::-1])


def test_the_prover_refuses_a_run_whose_records_were_changed(proved: tuple[Path, list[Path]], tmp_path: Path) -> None:
    run, _ = proved
    whole = (run / LINES).read_bytes()
    try:
        (run / LINES).write_bytes(rewritten(of(run), lambda step, fields: other_id(fields) if step == 5 else None))
        assert_refused(command("prove", run, "--out", tmp_path / "proof.zkp"), 2, "step 5 has not the 'ids'")
        (run / LINES).unlink()
        assert_refused(command("prove", run, "--out", tmp_path / "proof.zkp"), 2, "cannot read", LINES)
    finally:
        (run / LINES).write_bytes(whole)


def test_verifying_records_needs_no_torch(proved: tuple[Path, list[Path]]) -> None:
    run, files = proved
    program = (
        "import sys; from zkaudit.cli import main\n"
        f"code = main(['verify', *{[str(file) for file in files]!r}, '--records', {str(run / LINES)!r}])\n"
        "sys.exit(code or 'torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step records" in done.stdout


def test_records_name_the_rows_that_a_statement_fixes(proved: tuple[Path, list[Path]]) -> None:
    run, files = proved
    statement = proof_file.read(files[1]).statement
    recorded = [list(record.ids) for record in StepFile(run).records()][CUT : 2 * CUT]
    assert recorded == batches(statement).tolist()
