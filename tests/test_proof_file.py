"""The proof file: strict, bounded, and no flipped byte gets through."""

import dataclasses
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.zk import proof_file
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.methods import FP8, GaLore, LoRA
from zkaudit.zk.proof_file import ProofFile, decode, encode
from zkaudit.zk.samplers import ViewBatch
from zkaudit.zk.statement import Statement
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of
from zkaudit.zk.verifier import verify_files, verify_segment, work


@pytest.fixture(scope="module")
def proved() -> ProofFile:
    statement = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5, columns=6)
    return hidden_proof(example(statement), statement)


def accepted(data: bytes) -> bool:
    """Whether these bytes pass; anything but the two errors of a bad file escapes and fails the test."""
    try:
        verify_segment(decode(data, "test"))
    except (BadInput, InvalidProof):
        return False
    return True


def test_an_honest_file_is_accepted(proved: ProofFile, tmp_path: Path) -> None:
    path = tmp_path / "proof.zkp"
    proof_file.write_whole(path, encode(proved), 0o644)
    assert proof_file.read(path) == proved
    verdict = verify_files([path])
    assert verdict.valid
    assert verdict.steps == 2
    assert verdict.soundness_bits >= 100


@pytest.mark.slow
def test_no_flipped_byte_is_accepted(proved: ProofFile) -> None:
    data = encode(proved)
    rng = random.Random(1)
    positions = range(len(data)) if len(data) <= 2500 else [*range(700), *rng.sample(range(700, len(data)), 1800)]
    assert len(positions) >= 2000
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= rng.randrange(1, 256)
        assert not accepted(bytes(changed)), position


def test_no_truncation_is_accepted(proved: ProofFile) -> None:
    data = encode(proved)
    for size in [*range(0, 900, 7), *range(900, len(data), 97), len(data) - 1]:
        assert not accepted(data[:size]), size


def test_nothing_may_follow(proved: ProofFile) -> None:
    assert not accepted(encode(proved) + b"\0")
    assert not accepted(encode(ProofFile(proved.statement, proved.proof + b"\0" * 48)))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_no_other_bytes_are_accepted(data: bytes) -> None:
    assert not accepted(data)
    assert not accepted(proof_file.MAGIC + (1).to_bytes(4, "little") + data)


def test_a_huge_length_is_refused_before_allocation(proved: ProofFile) -> None:
    data = bytearray(encode(proved))
    data[12:20] = b"\xff" * 8
    with pytest.raises(BadInput, match="truncated or corrupt in section 'header'"):
        decode(bytes(data), "test")


def test_another_version_is_named(proved: ProofFile) -> None:
    data = bytearray(encode(proved))
    data[8] = 9
    with pytest.raises(BadInput, match="version 9"):
        decode(bytes(data), "test")


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"hello")
    with pytest.raises(BadInput, match="not a zkaudit proof file"):
        proof_file.read(path)
    with pytest.raises(BadInput, match="No such file"):
        proof_file.read(tmp_path / "missing")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Statement)])
def test_a_proof_is_refused_under_another_statement(proved: ProofFile, field: str) -> None:
    statement = proved.statement
    other = {
        "seed": "other", "rates": statement.rates[::-1], "batch_seed": "00" * 32, "end": statement.start,
        "start": statement.end, "data": statement.data[48:] + statement.data[:48], "rows": 6, "batch": 1, "weight_bits": 33,
        "widths": (4, 3, 3), "loss": "square", "first_step": 1, "activation_bits": 7, "gradient_bits": 13, "columns": 7,
        "segment": 1, "start_bound": statement.start_bound + 1, "previous": "00" * 32, "records": "00" * 32,
        "galore": GaLore("sgd", "random", 2, (1, 1), ("left", "left"), 10, 20, 10, 0, 0, 1), "lora": LoRA((1, 0), 1, 1),
        "fp8": FP8((-1,), (-6,), "e4m3"), "sampler": ViewBatch(1),
    }  # fmt: skip
    changed = dataclasses.replace(statement, **{field: other[field]})
    assert not accepted(encode(ProofFile(changed, proved.proof)))


def test_work_counts_bytes_generators_and_both_sides_of_every_table() -> None:
    statement = statement_of(widths=(4, 2), loss="square", batch=2, steps=2, rows=5, bits=(8, 8, 16), columns=6)
    file = ProofFile(dataclasses.replace(statement, data=b"12", start=b"345", end=b"6"), b"789")
    data = (4 + 8) + (2 + 8)  # x and y
    weights = (2 + 4) + (1 + 2)
    witness = 2 * (2 + 4) + 2 * weights  # z, one limb of the remainder; two limbs of each start weight
    counts = (1 + 2**4) + (1 + 2**16)  # start weights have 20 bits: a limb of 16 and one of 4
    expected = len(statement.header()) + 9 + 2**6 + data + 2 * weights + witness + counts
    assert work(file) == expected


def test_a_budget_lets_its_own_work_through_and_no_more(proved: ProofFile, tmp_path: Path) -> None:
    path = tmp_path / "proof.zkp"
    path.write_bytes(encode(proved))
    assert verify_files([path], work(proved)).valid
    with pytest.raises(BadInput, match=rf"proof.zkp: .* {work(proved)} units of work; the budget is {work(proved) - 1}"):
        verify_files([path], work(proved) - 1)
    with pytest.raises(BadInput, match=r"proof.zkp has \d+ bytes"):
        verify_files([path], 1000)


def test_a_small_file_that_states_much_is_above_the_budget(proved: ProofFile, tmp_path: Path) -> None:
    path = tmp_path / "small.zkp"
    path.write_bytes(encode(ProofFile(dataclasses.replace(proved.statement, rows=1 << 22), b"")))
    assert path.stat().st_size < 10_000
    with pytest.raises(BadInput, match="units of work"):
        verify_files([path], 1_000_000)


def test_a_row_that_is_no_point_is_refused_before_the_dialogue(proved: ProofFile) -> None:
    broken = dataclasses.replace(proved.statement, end=bytes(48) + proved.statement.end[48:])
    with pytest.raises(InvalidProof, match="point 0: it is not marked as compressed"):
        verify_segment(ProofFile(broken, proved.proof[: -len(proved.proof) // 8]))
