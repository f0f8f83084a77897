"""What a proof shows: commitments and uniform scalars, nothing that depends on the secrets. Simulators are tests.

Each simulator makes the message of a sub-protocol from public values alone, in the order challenge first, so that it satisfies
the verifier's equation; that the equation then holds shows that a verifier could have made the message itself.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_protocol_of_training import Training

from zkaudit.zk import argument, curve, field, inner_product, pedersen
from zkaudit.zk.block import Block
from zkaudit.zk.channel import Blinder
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.field import MODULUS
from zkaudit.zk.hiding import HidingProver, HidingVerifier
from zkaudit.zk.hyrax import commit
from zkaudit.zk.layout import Layout
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import derive_batch_seed
from zkaudit.zk.testing import Coins
from zkaudit.zk.testing.protocol import refusal, simulated
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of
from zkaudit.zk.testing.simulator import random_points
from zkaudit.zk.verifier import verify_segment

scalars = st.integers(0, MODULUS - 1)
SMALL = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5)


@pytest.fixture(scope="module")
def two_proofs() -> tuple[ProofFile, ProofFile]:
    return hidden_proof(example(SMALL, seed=1), SMALL), hidden_proof(example(SMALL, seed=2), SMALL)


def test_secrets_of_one_shape_give_proofs_of_one_shape(two_proofs: tuple[ProofFile, ProofFile]) -> None:
    one, other = two_proofs
    assert one.sizes() == other.sizes()


def test_no_commitment_is_used_twice(two_proofs: tuple[ProofFile, ProofFile]) -> None:
    """Blinding makes every commitment fresh, also those of equal tables in two proofs of the same secrets."""
    again = hidden_proof(example(SMALL, seed=1), SMALL)
    points: Counter[bytes] = Counter()
    for file in (*two_proofs, again):
        statement = file.statement
        inside = argument.committed_bytes(statement, Layout(statement))[3]
        rows = statement.data + statement.start + statement.end + file.proof[:inside]
        points.update(rows[i : i + 48] for i in range(0, len(rows), 48))
    assert points.most_common(1)[0][1] == 1


def test_no_commitment_is_that_of_its_table_without_blinding() -> None:
    """Not even of a table of zeros: a padded row is as random as any other."""
    blocks = [Block("zeros", 2, 64)]
    points, _ = commit(blocks, {"zeros": np.zeros((2, 64), np.uint8)}, 6, Blinder())
    assert points.any(axis=1).all()
    assert not curve.equal(points[:1], points[1:])


def test_blinding_comes_fresh_from_the_system() -> None:
    drawn = field.to_ints(np.concatenate([Blinder().scalars(50) for _ in range(4)]))
    assert len(set(drawn)) == 200


def test_bytes_of_proofs_of_different_secrets_have_one_distribution(two_proofs: tuple[ProofFile, ProofFile]) -> None:
    """A chi-square test on the bytes of points' x-coordinates; top bytes, which are not uniform, left out."""
    counts = []
    for file in two_proofs:
        inside = argument.committed_bytes(file.statement, Layout(file.statement))[3]
        rows = np.frombuffer(file.proof[:inside], np.uint8).reshape(-1, 48)[:, 1:]
        counts.append(np.bincount(rows.reshape(-1), minlength=256))
    table = np.array(counts, dtype=float)
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    chi_square = ((table - expected) ** 2 / expected).sum()
    assert chi_square < 255 + 8 * np.sqrt(2 * 255)


def test_no_secret_scalar_stands_in_a_proof(two_proofs: tuple[ProofFile, ProofFile]) -> None:
    """No 32 bytes of a proof are a small number: values, sums of tables and their products are all far below 2^200."""
    for file in two_proofs:
        inside = argument.committed_bytes(file.statement, Layout(file.statement))[3]
        rest = file.proof[inside:]
        windows = (int.from_bytes(rest[i : i + 32], "little") for i in range(len(rest) - 31))
        assert all(value > 1 << 200 for value in windows)


@given(scalars, scalars)
@settings(max_examples=10)
def test_a_message_can_be_simulated(value: int, other: int) -> None:
    """For every value there is a blinding under which a commitment to another value is the commitment to it.

    The test knows the generators' relation (it makes its own), which a prover does not.
    """
    blinder = Blinder()
    trapdoor, blinding = blinder.scalar(), blinder.scalar()
    slot = curve.mul(pedersen.blinding(), field.from_ints([trapdoor]))
    bases = np.concatenate([slot, pedersen.blinding()])
    first = curve.msm(field.from_ints([value, blinding]), bases)
    second = curve.msm(field.from_ints([other, blinding + (value - other) * trapdoor]), bases)
    assert curve.equal(first, second)


def settled_product(prover: HidingProver, values: tuple[int, int, int]) -> None:
    x, y, z = prover.send(list(values), "factors")
    prover.require_product(x, y, z, "product")


def dialogue(values: tuple[int, int, int]) -> HidingProver:
    prover = HidingProver(b"simulate", 4, Blinder(), check=False)
    block, table = [Block("t", 1, 16)], {"t": np.arange(16, dtype=np.int32).reshape(1, 16)}
    prover.commit(block, table, "table")
    settled_product(prover, values)
    point = prover.challenges("point", 4)
    value = prover.send([sum(i * w for i, w in enumerate(eq(point)))], "value")[0]
    prover.open(block, [1], point, value)
    prover.settle()
    return prover


def eq(point: list[int]) -> list[int]:
    from zkaudit.zk import mle

    return field.to_ints(mle.eq_table(point))


def check_dialogue(proof: bytes) -> None:
    verifier = HidingVerifier(b"simulate", 4, proof)
    block = [Block("t", 1, 16)]
    verifier.receive_commitment(block, "table")
    x, y, z = verifier.receive(3, "factors")
    verifier.require_product(x, y, z, "product")
    point = verifier.challenges("point", 4)
    value = verifier.receive(1, "value")[0]
    verifier.open(block, [1], point, value)
    verifier.settle()


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
@settings(max_examples=5)
def test_a_true_product_is_accepted(x: int, y: int) -> None:
    check_dialogue(bytes(dialogue((x, y, x * y)).proof))


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 1 << 40))
@settings(max_examples=5)
def test_a_false_product_is_rejected(x: int, y: int, error: int) -> None:
    with pytest.raises(InvalidProof):
        check_dialogue(bytes(dialogue((x, y, x * y + error)).proof))


@given(scalars, scalars, scalars)
@settings(max_examples=20)
def test_a_masked_product_can_be_simulated(x: int, y: int, e: int) -> None:
    """Uniform reveals and the masks that explain them: the verifier's three equations hold for values it never knew."""
    blinder = Blinder()
    revealed_x, revealed_y = blinder.scalar(), blinder.scalar()
    mask_x, mask_y = (revealed_x - e * x) % MODULUS, (revealed_y - e * y) % MODULUS
    cross, square = (x * mask_y + y * mask_x) % MODULUS, mask_x * mask_y % MODULUS
    assert (e * x + mask_x - revealed_x) % MODULUS == 0
    assert (e * y + mask_y - revealed_y) % MODULUS == 0
    assert (e * e * x * y + e * cross + square - revealed_x * revealed_y) % MODULUS == 0


def test_revealed_factors_are_masked() -> None:
    """The same factors twice: the two scalars after the product's mask differ each time and show neither factor."""
    proofs = [bytes(dialogue((3, 5, 15)).proof) for _ in range(3)]
    revealed = {proof[3 * 48 : 3 * 48 + 64] for proof in proofs}
    assert len(revealed) == 3


@given(st.integers(0, 5))
@settings(max_examples=6)
def test_the_inner_product_argument_can_be_simulated(size: int) -> None:
    """Its input z is uniform given its product with a, so a verifier picks z, then the mask that fits the challenge."""
    n, blinder = 1 << size, Blinder()
    g, a = pedersen.slots(n), blinder.scalars(n)
    q = pedersen.inner_product()
    commitment = curve.msm(blinder.scalars(n), g)
    c, value = blinder.scalar(), blinder.scalar()
    z, blinding = blinder.scalars(n), blinder.scalar()
    shown = (field.dot(a, z) - c * value) % MODULUS
    mask = curve.add(
        curve.add(curve.msm(z, g), curve.mul(pedersen.blinding(), field.from_ints([blinding]))),
        curve.neg(curve.mul(commitment, field.from_ints([c]))),
    )
    challenges: list[int] = []
    pairs: list[np.ndarray] = []

    def send(pair: np.ndarray) -> int:
        pairs.append(pair)
        challenges.append(blinder.scalar())
        return challenges[-1]

    last = inner_product.prove(z, a, g, q, send)
    s = inner_product.final_weights(challenges)
    left = curve.add(
        curve.add(curve.mul(commitment, field.from_ints([c])), mask), curve.mul(q, field.from_ints([c * value + shown]))
    )
    left = curve.add(left, curve.neg(curve.mul(pedersen.blinding(), field.from_ints([blinding]))))
    for pair, u in zip(pairs, challenges, strict=True):
        left = curve.add(left, curve.msm(field.from_ints([u, pow(u, -1, MODULUS)]), pair))
    right = curve.add(curve.msm(field.mul(s, last), g), curve.mul(q, field.from_ints([last * field.dot(a, s)])))
    assert curve.equal(left, right)


@pytest.mark.parametrize("loss", ["cross_entropy", "square"])
def test_a_whole_proof_can_be_simulated_without_a_witness(loss: str) -> None:
    """Commitments to nothing, no data, no training: accepted with the oracle programmed, refused with the hash."""
    statement = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5, loss=loss)
    sizes = argument.committed_bytes(statement, Layout(statement))[:3]
    data, start, end = (random_points(size // 48) for size in sizes)
    statement = replace(statement, data=data, start=start, end=end)
    statement = replace(statement, batch_seed=derive_batch_seed(statement))
    training = Training(statement.columns)
    made = simulated(training, statement, Coins(programmed=True))
    assert refusal(training, statement, made.messages, made.coins) is None
    assert refusal(training, statement, made.messages, Coins()) is not None


def test_a_blinding_seed_fixes_the_proof_on_any_number_of_threads() -> None:
    proofs = []
    before = field.threads()
    for threads in (1, 2):
        field.set_threads(threads)
        curve.set_threads(threads)
        proofs.append(hidden_proof(example(SMALL), SMALL, Blinder(b"seed")))
    field.set_threads(before)
    curve.set_threads(before)
    assert proofs[0] == proofs[1]
    assert hidden_proof(example(SMALL), SMALL, Blinder(b"other")) != proofs[0]


@pytest.mark.parametrize(
    "shape",
    [
        dict(widths=(3, 2), batch=1, steps=1, rows=2, loss="square"),
        dict(widths=(3, 5, 2), batch=3, steps=2, rows=7, columns=4),
        dict(widths=(6, 9, 5, 3), batch=5, steps=3, rows=17, columns=8, bits=(6, 10, 24), rate=2),
    ],
    ids=str,
)
def test_hidden_proofs_of_odd_shapes_are_accepted(shape: dict[str, object]) -> None:
    statement = statement_of(**shape)  # type: ignore[arg-type]
    file = hidden_proof(example(statement), statement)
    verify_segment(file)
    with pytest.raises(InvalidProof):
        verify_segment(ProofFile(replace(file.statement, seed="other"), file.proof))
