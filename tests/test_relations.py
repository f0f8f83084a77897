"""Each relation by itself: a false witness that only this relation could catch.

Ranges, bits and the loss are proved alone, with the gather that settles them and no other argument. Products and history are
cheated on in one step of training, where each claim they leave is the only one that meets the lie."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zkaudit.zk import field, gather, lookup, loss, relu
from zkaudit.zk.channel import ClearProver, ClearVerifier
from zkaudit.zk.claims import Claim
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear
from zkaudit.zk.network import Network
from zkaudit.zk.statement import Statement
from zkaudit.zk.tables import narrow, weight_tables
from zkaudit.zk.testing.segments import example, prove_in_the_clear, statement_of, trained, verify_in_the_clear, witness_of
from zkaudit.zk.witness import Witness

RELATIONS: dict[str, Callable[[Network, Any], list[Claim]]] = {
    "lookup": lambda network, channel: lookup.verify(network.layout, channel),
    "sign": lambda network, channel: relu.sign_claims(network.layout, channel),
    "loss": lambda network, channel: loss.loss_claims(network.layout, channel),
    "first segment": loss.first_segment_claims,
}


def cube(layout: Layout) -> Claim:
    """0 = 0 about the largest table, so that the gather runs over as many variables as in a whole proof."""
    claim, counts = Claim(Linear()), layout.named["count.16"]
    claim.add_block(counts, 0, field.full(1, 1), field.zeros(counts.lows))
    return claim


def accepted(relation: str, witness: Witness, changes: dict[str, Any]) -> bool:
    """Whether this relation alone, one of RELATIONS, holds for the witness with some tables changed."""
    layout, tables = witness.layout, {**witness.tables, **changes}
    network = Network(layout, witness.batches)
    adopted = [*layout.data, *layout.start, *layout.end]
    prover = ClearProver(b"one relation")
    prover.adopt(adopted, tables)
    prover.commit(layout.witness, tables, "witness")
    tables |= lookup.count(layout, tables)
    prover.commit(layout.multiplicities, tables, "multiplicities")
    claims = lookup.prove(layout, tables, prover) if relation == "lookup" else RELATIONS[relation](network, prover)
    gather.prove([*claims, cube(layout)], tables, layout, prover)
    verifier = ClearVerifier(b"one relation", prover.proof)
    verifier.adopt(adopted, tables)
    try:
        verifier.receive_commitment(layout.witness, "witness")
        verifier.receive_commitment(layout.multiplicities, "multiplicities")
        gather.verify([*RELATIONS[relation](network, verifier), cube(layout)], layout, verifier)
        verifier.settle()
    except InvalidProof:
        return False
    return True


def honest(**shape: Any) -> Witness:
    statement = statement_of(**shape)
    return witness_of(statement, trained(statement, example(statement, scale=0.9)))


def changed(witness: Witness, name: str, row: int, column: int, value: int) -> dict[str, Any]:
    table = witness.tables[name].astype(np.int64)
    assert table[row, column] != value
    table[row, column] = value
    return {name: narrow(table)}


CLASSES = honest(widths=(5, 4, 3))
SQUARE = honest(widths=(5, 4, 3), loss="square")
RANGES = {
    "p0": 1 << 16, "ga0": 1 << 16, "r0.0": 1 << 16, "r0.1": 1 << 16, "rg0.0": 1 << 16, "rg0.1": 1 << 16,
    "r1.0": 1 << 16, "r1.1": 1 << 16, "d": 1 << 16, "e": 65537, "m": 1 << 16, "q": 1 << 16, "rho.0": 1 << 16,
    "rho.1": 1 << 16, "sigma.0": 1 << 16, "sigma.1": 1 << 16, "x": 1 << 16, "y": 2,
    **{f"start{j}{part}.{k}": 16 if k == 2 else 1 << 16 for j in (0, 1) for part in ("", ".bias") for k in (0, 1, 2)},
}  # fmt: skip


@pytest.mark.parametrize("loss_name", ["cross_entropy", "square"])
@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_holds_for_an_honest_witness(relation: str, loss_name: str) -> None:
    if (relation, loss_name) != ("loss", "square"):  # which has no claim to settle
        assert accepted(relation, CLASSES if loss_name == "cross_entropy" else SQUARE, {})


@pytest.mark.parametrize("amount", ["above", "negative"])
@pytest.mark.parametrize("name", RANGES)
def test_an_entry_outside_its_range_is_caught_by_the_lookup(name: str, amount: str) -> None:
    value = RANGES[name] if amount == "above" else -1
    assert not accepted("lookup", CLASSES, changed(CLASSES, name, 0, 0, value))


@pytest.mark.parametrize("name", ["z", "y", "x"])
def test_an_entry_outside_its_range_is_caught_for_the_square_loss(name: str) -> None:
    assert not accepted("lookup", SQUARE, changed(SQUARE, name, 0, 0, 1 << 16))


def test_padding_outside_its_range_is_caught() -> None:
    block = CLASSES.layout.named["p0"]
    assert not accepted("lookup", CLASSES, changed(CLASSES, "p0", block.highs - 1, block.lows - 1, -1))


def test_an_exponential_of_another_distance_is_caught() -> None:
    distance = int(CLASSES.tables["d"][0, 0])
    assert not accepted("lookup", CLASSES, changed(CLASSES, "d", 0, 0, distance + 300))


@pytest.mark.parametrize("value", [-1, 2])
def test_a_sign_that_is_no_bit_is_caught(value: int) -> None:
    assert not accepted("sign", CLASSES, changed(CLASSES, "b0", 3, 8, value))


@pytest.mark.parametrize("labels", [(1, 1, 0), (0, 0, 0), (1, 1, 1)])
def test_bits_that_are_not_one_hot_are_caught(labels: tuple[int, ...]) -> None:
    table = CLASSES.tables["y"].astype(np.int64)
    table[:3, 10] = labels
    assert not accepted("first segment", CLASSES, {"y": narrow(table)})


@pytest.mark.parametrize("name", ["start0", "start1", "start0.bias", "start1.bias"])
def test_a_start_weight_that_is_not_its_limbs_is_caught(name: str) -> None:
    weight = int(CLASSES.tables[name][0, 0])
    assert not accepted("first segment", CLASSES, changed(CLASSES, name, 0, 0, weight + 1))


def _softmax_cheats() -> dict[str, dict[str, Any]]:
    """Of the loss's six relations each of these breaks the one it is named after, in the first sample."""
    d, e, q, s, rho, sigma = (_first(name) for name in ("d", "e", "q", "s", "rho", "sigma"))
    far = sorted(range(3), key=lambda o: d[o])
    weights = np.zeros(3, np.int64)
    weights[far[1]], weights[far[2]] = d[far[2]], -d[far[1]]
    weights[far[0]] = 1 - weights.sum()
    all_of_it = np.full(3, 1 << CLASSES.layout.statement.gradient_bits)
    assert d[far[1]] > 0
    assert e.min() > 0
    assert sigma.min() > 0
    nearest = np.eye(3, dtype=np.int64)[far[0]]
    return {
        "bit": {"h": weights},
        "one-hot": {"h": 0 * nearest},
        "at the maximum": {"h": np.eye(3, dtype=np.int64)[far[1]]},
        "sum": {"q": all_of_it, "s": e, "rho": 0 * rho, "sigma": e - 1},
        "division": {"q": q + 1},
        "remainder below the sum": {"q": q - 1, "rho": rho + s},
    }


def _first(name: str) -> Any:
    """The first sample's entries, of limbs together."""
    if name in ("rho", "sigma"):
        return _first(f"{name}.0") + (_first(f"{name}.1") << 16)
    return CLASSES.tables[name][:3, 0].astype(np.int64)


@pytest.mark.parametrize("cheat", ["bit", "one-hot", "at the maximum", "sum", "division", "remainder below the sum"])
def test_cheating_on_one_relation_of_the_softmax_is_caught(cheat: str) -> None:
    changes = {}
    for name, values in _softmax_cheats()[cheat].items():
        limbs = {f"{name}.0": values & 0xFFFF, f"{name}.1": values >> 16} if name in ("rho", "sigma") else {name: values}
        for limb, column in limbs.items():
            table = CLASSES.tables[limb].astype(np.int64)
            table[:3, 0] = column
            changes[limb] = narrow(table)
    assert not accepted("loss", CLASSES, changes)


ONE_STEP = statement_of(widths=(5, 6, 4, 3), steps=1)


class Lying(Witness):
    """One entry of a tensor is another one in the matrix products only, or in the update history only.

    The history begins when the prover asks for the end weights."""

    def __init__(self, witness: Witness, name: str, layer: int, in_history: bool) -> None:
        super().__init__(witness.layout, witness.tables, witness.batches)
        self.history = False
        true = getattr(self, name)

        def tensor(j: int) -> Any:
            table = true(j).astype(np.int64)
            table[0, 0] += j == layer and self.history == in_history
            return narrow(table)

        setattr(self, name, tensor)

    @property
    def end(self) -> list[Any]:
        self.history = True
        return super().end


def assert_rejected(statement: Statement, witness: Witness) -> None:
    proof = prove_in_the_clear(statement, witness)
    with pytest.raises(InvalidProof):
        verify_in_the_clear(statement, witness.tables, proof)


@pytest.mark.parametrize(("name", "layer"), [(n, j) for n in ("activation", "gradient") for j in (0, 1, 2)])
def test_an_update_by_other_tensors_than_the_network_s_is_rejected(name: str, layer: int) -> None:
    """End weights, their claim and the history fit the lie; forward and backward products do not know it."""
    witness = witness_of(ONE_STEP, trained(ONE_STEP, example(ONE_STEP)))
    lying = Lying(witness, name, layer, in_history=True)
    lying.history = True
    end = []
    for j, start in enumerate(witness.start):
        a, g = lying.activation(j).astype(np.int64), lying.gradient(j).astype(np.int64)
        end.append(start - ONE_STEP.rates[0] * (a @ g.T))
    lying.history = False
    lying.tables = {**witness.tables, **weight_tables(witness.layout, "end", end)}
    assert_rejected(ONE_STEP, lying)


def with_first_row(product: Any, more: Any) -> Any:
    """What the product would be, were an entry of its first row's left factor larger by one."""
    return np.concatenate([product[:1] + more, product[1:]])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_forward_product_of_other_activations_is_rejected(layer: int) -> None:
    """Results, rescaling and all that follows fit the lie; the update is by the committed activations."""
    data = example(ONE_STEP)

    def tamper(name: str, step: int, j: int, value: Any) -> Any:
        return with_first_row(value, data[2][layer][0]) if (name, j) == ("z_acc", layer) else value

    assert_rejected(ONE_STEP, Lying(witness_of(ONE_STEP, trained(ONE_STEP, data, tamper)), "activation", layer, False))


@pytest.mark.parametrize("layer", [1, 2])
def test_a_backward_product_of_other_gradients_is_rejected(layer: int) -> None:
    data = example(ONE_STEP)

    def tamper(name: str, step: int, j: int, value: Any) -> Any:
        return with_first_row(value, data[2][layer][:-1, 0]) if (name, j) == ("ga_acc", layer - 1) else value

    assert_rejected(ONE_STEP, Lying(witness_of(ONE_STEP, trained(ONE_STEP, data, tamper)), "gradient", layer, False))


class OtherEnd(Witness):
    """Proves the end weights of training, and has committed to others."""

    def __init__(self, witness: Witness, changes: dict[str, Any]) -> None:
        super().__init__(witness.layout, {**witness.tables, **changes}, witness.batches)
        self.true = witness

    @property
    def end(self) -> list[Any]:
        return self.true.end


@pytest.mark.parametrize("name", ["end0", "end2", "end0.bias", "end2.bias"])
def test_a_commitment_to_other_end_weights_is_rejected(name: str) -> None:
    witness = witness_of(ONE_STEP, trained(ONE_STEP, example(ONE_STEP)))
    weight = int(witness.tables[name][0, 0])
    assert_rejected(ONE_STEP, OtherEnd(witness, changed(witness, name, 0, 0, weight + 1)))


def test_an_honest_step_is_accepted() -> None:
    witness = witness_of(ONE_STEP, trained(ONE_STEP, example(ONE_STEP)))
    assert Layout(ONE_STEP).samples == 4
    verify_in_the_clear(ONE_STEP, witness.tables, prove_in_the_clear(ONE_STEP, witness, check_trace=True))
