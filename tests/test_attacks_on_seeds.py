"""What a prover can choose of its batches, and what not: exactly what docs/security.md says under "What a proof does not say".

Batches follow from the public seed and the commitments to data and start weights. Trying seeds or committing again gives
others: these tests do it, and our verifier accepts. Past that the batches are fixed, and a verifier that lacks one check is
shown to let the prover choose them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weakened import is_accepted

from zkaudit.zk import argument, curve, verifier
from zkaudit.zk.channel import Blinder
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.sampling import batch_rows
from zkaudit.zk.statement import Statement, derive_batch_seed
from zkaudit.zk.testing import segments
from zkaudit.zk.testing.segments import (
    example,
    hidden_proof,
    prove_in_the_clear,
    statement_of,
    trained,
    verify_in_the_clear,
    witness_of,
)
from zkaudit.zk.verifier import verify_segment

SMALL = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5)
DATA = example(SMALL)
WANTED = {0, 1}  # rows for the first batch


def first_batch(statement: Statement) -> set[int]:
    seed = bytes.fromhex(statement.batch_seed)
    return set(batch_rows(seed, statement.rows, statement.batch, 0, 1)[0].tolist())


@pytest.fixture(scope="module")
def fixed() -> Statement:
    """With the commitments of a prover whose blindings are always these."""
    return hidden_proof(DATA, SMALL, Blinder(b"once")).statement


def test_seeds_can_be_tried_until_the_batches_are_as_wanted(fixed: Statement) -> None:
    """Nothing in a proof says where the seed came from: who must not choose it has to be given it."""
    tried = (replace(fixed, seed=f"seed {k}") for k in range(1000))
    found = next(s for s in tried if first_batch(replace(s, batch_seed=derive_batch_seed(s))) == WANTED)
    file = hidden_proof(DATA, replace(SMALL, seed=found.seed), Blinder(b"once"))
    assert (file.statement.data, file.statement.start) == (fixed.data, fixed.start)
    assert first_batch(file.statement) == WANTED
    verify_segment(file)


def test_committing_again_gives_other_batches_under_the_same_seed() -> None:
    """The same data and weights with other blindings, or with one weight a unit larger."""
    bumped = (DATA[0], DATA[1], [DATA[2][0] + (np.arange(15).reshape(5, 3) == 0), DATA[2][1]])
    files = [hidden_proof(data, SMALL, Blinder(b"%d" % k)) for data in (DATA, bumped) for k in range(2)]
    for file in files:
        verify_segment(file)
    assert {file.statement.seed for file in files} == {"test"}
    assert len({file.statement.batch_seed for file in files}) == len(files)
    assert any(0 in first_batch(file.statement) for file in files)
    assert any(0 not in first_batch(file.statement) for file in files)


def test_rates_steps_and_widths_can_be_chosen_when_the_batches_are_known(fixed: Statement) -> None:
    other = statement_of(widths=(4, 4, 2), batch=2, steps=3, rows=5, rate=9)
    start = [np.pad(DATA[2][0], ((0, 0), (0, 1))), np.insert(DATA[2][1], 3, 0, axis=0)]
    file = hidden_proof((DATA[0], DATA[1], start), other, Blinder(b"once"))
    assert (file.statement.data, file.statement.start) == (fixed.data, fixed.start)
    assert file.statement.batch_seed == fixed.batch_seed
    verify_segment(file)


CHANGES: dict[str, Callable[[Statement], Any]] = {
    "seed": lambda s: s.seed + "x", "data": lambda s: s.data[48:], "start": lambda s: s.start[48:], "rows": lambda s: 6,
    "batch": lambda s: 1, "rates": lambda s: (1, 2, 3), "widths": lambda s: (3, 3, 2), "end": lambda s: b"",
    "weight_bits": lambda s: 33, "activation_bits": lambda s: 7, "gradient_bits": lambda s: 13, "columns": lambda s: 8,
    "loss": lambda s: "square", "segment": lambda s: 1, "first_step": lambda s: 9, "batch_seed": lambda s: "00" * 32,
    "start_bound": lambda s: 1, "previous": lambda s: "00" * 32,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_the_batch_seed_follows_from_seed_commitments_and_numbers_of_rows_alone(name: str, fixed: Statement) -> None:
    changed = replace(fixed, **{name: CHANGES[name](fixed)})
    assert getattr(changed, name) != getattr(fixed, name)
    binds = name in ("seed", "data", "start", "rows", "batch")
    assert (derive_batch_seed(changed) != derive_batch_seed(fixed)) == binds


def test_a_batch_seed_that_the_commitments_do_not_give_is_refused(fixed: Statement, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison the prover tries batch seeds after it has committed, with a public seed that it did not choose."""
    tried = (f"{k:064x}" for k in range(1000))
    chosen = next(seed for seed in tried if first_batch(replace(fixed, batch_seed=seed)) == WANTED)
    monkeypatch.setattr(segments, "derive_batch_seed", lambda statement: chosen)
    file = hidden_proof(DATA, SMALL, Blinder(b"once"))
    assert (file.statement.data, file.statement.start, file.statement.seed) == (fixed.data, fixed.start, fixed.seed)
    assert first_batch(file.statement) == WANTED
    with monkeypatch.context() as patch:
        patch.setattr(verifier, "derive_batch_seed", lambda statement: statement.batch_seed)
        verify_segment(file)
    assert not is_accepted(lambda: verify_segment(file))


def test_commitments_cannot_be_written_in_another_way_after_the_batches_are_known(fixed: Statement) -> None:
    """The seed binds bytes. A commitment's negative or multiple, or the same rows in another order, are other bytes, and the
    proof does not hold for them even with the seed they give."""
    file = hidden_proof(DATA, SMALL)
    points = curve.decompress(file.statement.start)
    for rows in (curve.neg(points), np.ascontiguousarray(points[::-1]), curve.add(points, points)):
        other = replace(file.statement, start=curve.compress(rows))
        assert not is_accepted(lambda s=other: verify_segment(ProofFile(s, file.proof)))  # type: ignore[misc]
        derived = replace(other, batch_seed=derive_batch_seed(other))
        assert derived.batch_seed != file.statement.batch_seed
        assert not is_accepted(lambda s=derived: verify_segment(ProofFile(s, file.proof)))  # type: ignore[misc]


def test_training_on_other_batches_than_the_seed_s_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the clear. The rows that a sample uses are public weights on the data; a verifier that takes them from the prover
    accepts any."""
    chosen = np.array([[0, 1], [0, 1]])
    witness = witness_of(SMALL, trained(SMALL, DATA, batches=chosen), chosen)

    def attack() -> bool:
        proof = prove_in_the_clear(SMALL, witness)
        return is_accepted(lambda: verify_in_the_clear(SMALL, witness.tables, proof))

    with monkeypatch.context() as patch:
        patch.setattr(argument, "batches", lambda *given: chosen)
        assert attack()
    assert not attack()
