"""For every relation, a prover that breaks just that one and computes everything else honestly is rejected, in the clear.

The clear channel shows that the relations catch the cheat, not the hiding. The cheating prover is as strong as it can be
without breaking the hash: its sumcheck messages always fit the claim they answer, so that only a false end gives it away.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.layout import exponential_table
from zkaudit.zk.statement import Statement
from zkaudit.zk.tables import narrow, placed, weight_tables
from zkaudit.zk.testing.segments import (
    MemoryTrace,
    Tamper,
    end_weights,
    example,
    prove_in_the_clear,
    statement_of,
    trained,
    verify_in_the_clear,
    witness_of,
)
from zkaudit.zk.witness import Witness, softmax_tables

SHAPES = [
    dict(widths=(5, 6, 4, 3), loss="cross_entropy"),
    dict(widths=(5, 6, 4, 3), loss="square"),
    dict(widths=(7, 3), loss="cross_entropy", batch=1, steps=1),
    dict(widths=(4, 2), loss="square", batch=5, steps=2),
    dict(widths=(3, 9, 5, 8, 2), loss="cross_entropy", batch=2, steps=5, bits=(6, 10, 24), rate=2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_honest_proof_is_accepted(shape: dict[str, Any]) -> None:
    statement = statement_of(**shape)
    witness = witness_of(statement, trained(statement, example(statement)))
    verify_in_the_clear(statement, witness.tables, prove_in_the_clear(statement, witness, check_trace=True))


def assert_rejected(statement: Statement, witness: Witness, adopted: Any = None) -> None:
    proof = prove_in_the_clear(statement, witness)
    with pytest.raises(InvalidProof):
        verify_in_the_clear(statement, witness.tables if adopted is None else adopted, proof)


def at(name: str, step: int, layer: int, change: Callable[[Any], Any]) -> Tamper:
    """Change one intermediate where it arises."""

    def tamper(seen: str, t: int, j: int, value: Any) -> Any:
        return change(value) if (seen, t, j) == (name, step, layer) else value

    return tamper


def plus(amount: int) -> Callable[[Any], Any]:
    """Add to the first entry."""

    def change(value: Any) -> Any:
        out = np.array(value, dtype=object)
        out.reshape(-1)[0] += amount
        return out

    return change


IN_TRAINING = {
    "forward product, first layer": at("z_acc", 1, 0, plus(1)),
    "forward product, hidden layer": at("z_acc", 1, 1, plus(-3)),
    "forward product, last layer": at("z_acc", 2, 2, plus(1 << 20)),
    "forward rescale": at("r", 1, 1, plus(1)),
    "forward rescale, last layer": at("r", 0, 2, plus(-1)),
    "backward product": at("ga_acc", 1, 0, plus(1)),
    "backward product, upper layer": at("ga_acc", 2, 1, plus(-1)),
    "backward rescale": at("rg", 1, 1, plus(1)),
}


@pytest.mark.parametrize("loss", ["cross_entropy", "square"])
@pytest.mark.parametrize("cheat", IN_TRAINING)
def test_cheating_in_a_product_or_rescale_is_rejected(cheat: str, loss: str) -> None:
    statement = statement_of(loss=loss)
    witness = witness_of(statement, trained(statement, example(statement), IN_TRAINING[cheat]))
    assert_rejected(statement, witness)


@pytest.mark.parametrize(("name", "layer"), [("z", 0), ("z", 1), ("z", 2), ("ga", 0), ("ga", 1)])
@pytest.mark.parametrize("amount", [1, -1])
def test_rounding_by_one_unit_more_is_rejected(name: str, layer: int, amount: int) -> None:
    """The remainder makes up for it, so that only its range is broken."""
    statement = statement_of()
    trace = trained(statement, example(statement), at(name, 1, layer, plus(amount)))
    remainder = "r" if name == "z" else "rg"
    shifted = np.array(trace.arrays[f"{remainder}{layer}"], dtype=object)
    accumulated = trained(statement, example(statement)).arrays
    true_sum = (int(accumulated[f"{name}{layer}"][1].flat[0]) << 32) + int(accumulated[f"{remainder}{layer}"][1].flat[0])
    shifted[1].flat[0] = true_sum - (int(trace.arrays[f"{name}{layer}"][1].flat[0]) << 32)
    trace.arrays[f"{remainder}{layer}"] = shifted
    assert not 0 <= shifted[1].flat[0] < 1 << 32
    assert_rejected(statement, witness_of(statement, trace))


def test_cheating_on_sign_bit_is_rejected() -> None:
    """Z' >= 0 is called negative: P and B still compose to Z', but P leaves its range."""
    statement = statement_of()

    def chosen(value: Any) -> Any:
        flat = np.array(value, dtype=object)
        flat.reshape(-1)[np.flatnonzero(flat.reshape(-1) == 0)[0]] = 1
        return flat

    trace = trained(statement, example(statement), at("B", 1, 0, chosen))
    witness = witness_of(statement, trace)
    bits = _samples(trace, "B0")
    z = _samples(trace, "z0")
    tables = {"b0": bits, "p0": z + (bits << 16)}
    assert tables["p0"].max() >= 1 << 16
    assert_rejected(statement, _changed(witness, {name: placed(witness.layout, name, t) for name, t in tables.items()}))


def test_sign_that_is_no_bit_is_rejected() -> None:
    """An overflowing Z' = P + 2^16 with B = -1 satisfies everything but B (1 - B) = 0."""
    statement = statement_of(widths=(5, 4, 3))
    trace = trained(statement, example(statement), at("z_acc", 0, 0, lambda z: _with_entry(z, 1 << (32 + 16))))
    z = _samples(trace, "z0")
    assert (z >= 1 << 16).any()
    overflowing = (z >= 1 << 16).astype(np.int64)
    witness = witness_of(statement, _clamped(trace, "z0", 1 << 16))
    bits = (z < 0).astype(np.int64) - overflowing
    tables = {"b0": bits, "p0": z + (bits << 16)}
    assert tables["p0"].min() >= 0
    assert tables["p0"].max() < 1 << 16
    assert_rejected(statement, _changed(witness, {name: placed(witness.layout, name, t) for name, t in tables.items()}))


class OtherTensors(Witness):
    """Computes with activations or gradients that are not those of its committed tables."""

    def __init__(self, witness: Witness, name: str, layer: int) -> None:
        super().__init__(witness.layout, witness.tables, witness.batches)
        honest = getattr(self, name)

        def changed(j: int) -> Any:
            table = honest(j).astype(np.int64)
            if j == layer:
                table[0, 0] += 1
            return narrow(table)

        setattr(self, name, changed)


@pytest.mark.parametrize(("name", "layer"), [("activation", 1), ("activation", 2), ("gradient", 0), ("gradient", 1)])
def test_cheating_on_a_relu_product_is_rejected(name: str, layer: int) -> None:
    statement = statement_of()
    witness = witness_of(statement, trained(statement, example(statement)))
    assert_rejected(statement, OtherTensors(witness, name, layer))


def test_cheating_on_the_input_is_rejected() -> None:
    statement = statement_of()
    witness = witness_of(statement, trained(statement, example(statement)))
    assert_rejected(statement, OtherTensors(witness, "activation", 0))


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("step", [0, 2])
def test_cheating_on_an_update_is_rejected(layer: int, step: int) -> None:
    """One step adds one to a weight; all later steps and the end weights follow honestly."""
    statement = statement_of()
    trace = trained(statement, example(statement), at("dw", step, layer, plus(1)))
    witness = witness_of(statement, trace)
    end = weight_tables(witness.layout, "end", end_weights(trace, statement.layers))
    assert_rejected(statement, _changed(witness, end))


def test_a_skipped_step_is_rejected() -> None:
    statement = statement_of()
    trace = trained(statement, example(statement), at("dw", 1, 0, lambda dw: dw * 0))
    witness = witness_of(statement, trace)
    end = weight_tables(witness.layout, "end", end_weights(trace, statement.layers))
    assert_rejected(statement, _changed(witness, end))


@pytest.mark.parametrize("name", ["end0", "end1.bias", "end2"])
def test_cheating_on_end_weights_is_rejected(name: str) -> None:
    statement = statement_of()
    witness = witness_of(statement, trained(statement, example(statement)))
    assert_rejected(statement, _changed(witness, {name: _bumped(witness.tables[name])}))


@pytest.mark.parametrize("name", ["start0", "start2.bias", "x", "y", "end1"])
def test_opening_of_other_tables_than_committed_is_rejected(name: str) -> None:
    statement = statement_of()
    witness = witness_of(statement, trained(statement, example(statement)))
    adopted = {**witness.tables, name: _bumped(witness.tables[name])}
    assert_rejected(statement, witness, adopted)


def test_batches_of_the_prover_s_choice_are_rejected() -> None:
    statement = statement_of()
    chosen = np.arange(statement.steps * statement.batch).reshape(statement.steps, -1) % statement.rows
    trace = trained(statement, example(statement), batches=chosen)
    assert_rejected(statement, witness_of(statement, trace, chosen))


def test_start_weights_beyond_their_bound_are_rejected() -> None:
    """The weight lies outside; its limbs compose to it, the last one outside its table."""
    statement = statement_of(widths=(4, 3))
    inputs, targets, start = example(statement)
    inputs[:, 0] = 0
    start[0][0, 0] = 1 << 36
    trace = trained(statement, (inputs, targets, start))
    trace.states[0] = [np.clip(m, -(1 << 35), (1 << 35) - 1) for m in start]
    witness = witness_of(statement, trace)
    changed = weight_tables(witness.layout, "start", start)
    high = witness.tables["start0.2"].astype(np.int64)
    shifted = changed["start0"].astype(np.int64) + (1 << 35)
    changed |= {f"start0.{k}": narrow((shifted >> (16 * k)) & 0xFFFF) for k in range(2)}
    changed["start0.2"] = narrow(shifted >> 32)
    assert changed["start0.2"].max() > 15 >= high.max()
    changed |= weight_tables(witness.layout, "end", end_weights(trace, 1))
    assert_rejected(statement, _changed(witness, changed))


@pytest.mark.parametrize("name", ["start0.0", "start1.bias.1"])
def test_cheating_on_a_limb_of_start_weights_is_rejected(name: str) -> None:
    statement = statement_of()
    witness = witness_of(statement, trained(statement, example(statement)))
    table = witness.tables[name].astype(np.int64)
    table[0, 0] ^= 1
    assert_rejected(statement, _changed(witness, {name: narrow(table)}))


@pytest.mark.parametrize("labels", [(1, 1, 0), (0, 0, 0), (2, -1, 0)])
def test_labels_that_are_not_one_hot_are_rejected(labels: tuple[int, ...]) -> None:
    statement = statement_of(widths=(4, 3))
    inputs, targets, start = example(statement)
    trace = trained(statement, (inputs, targets, start))
    witness = witness_of(statement, trace)
    table = witness.tables["y"].astype(np.int64)
    table[:3, 0] = labels
    assert_rejected(statement, _changed(witness, {"y": narrow(table)}))


def _loss_changes(statement: Statement, trace: MemoryTrace) -> dict[str, dict[str, Any]]:
    z, quotient, rho = (_samples(trace, name) for name in (f"z{statement.layers - 1}", "p", "rho"))
    honest = softmax_tables(z, quotient, rho, statement.activation_bits)
    total, scaled = honest["s"], honest["e"] << statement.gradient_bits

    def first(table: Any, amount: int) -> Any:
        return np.array(table) + amount * (np.arange(table.size).reshape(table.shape) == 0)

    lower = first(quotient, -1)
    remainder = scaled - lower * total
    upper = first(quotient, 1)
    two = honest["h"] + (honest["d"] == honest["d"].max(axis=0)) * (np.arange(z.shape[1]) == 0)
    none = honest["h"] * (np.arange(z.shape[1]) != 0)
    wrong = np.roll(honest["h"], 1, axis=0)
    higher = honest["m"] + (np.arange(z.shape[1]) == 0)
    distance = honest["d"] + (np.arange(z.shape[1]) == 0)
    exponential = exponential_table(statement.activation_bits)[distance].astype(np.int64)
    raised_total = exponential.sum(axis=0, keepdims=True)
    raised_quotient = (exponential << statement.gradient_bits) // raised_total
    raised_rho = (exponential << statement.gradient_bits) - raised_quotient * raised_total

    certain = np.full_like(quotient, 1 << statement.gradient_bits)
    assert honest["e"].min() > 0

    def rest(total: Any, quotient: Any, rho: Any) -> dict[str, Any]:
        sigma = total - 1 - rho
        limbs = {"rho.0": rho & 0xFFFF, "rho.1": rho >> 16, "sigma.0": sigma & 0xFFFF, "sigma.1": sigma >> 16}
        return {"q": quotient, "s": np.broadcast_to(total, quotient.shape), **limbs}

    return {
        "quotient one too small": rest(total, lower, remainder),
        "quotient one too large": rest(total, upper, scaled - upper * total),
        "remainder": rest(total, quotient, first(rho, 1)),
        "sum": rest(first(total, 1), quotient, rho),
        "a sum for each class": rest(honest["e"], certain, 0 * scaled),
        "exponential": {"e": first(honest["e"], 1)},
        "sigma": {"sigma.0": first(honest["sigma.0"], 1)},
        "two maxima": {"h": two},
        "no maximum": {"h": none},
        "another maximum": {"h": wrong},
        "one-hot of no bits": {"h": honest["h"] * 2 - (honest["h"] * 0 + 1) * (np.arange(len(z))[:, None] < 1)},
        "maximum too large": {"m": higher, "d": distance, "e": exponential, **rest(raised_total, raised_quotient, raised_rho)},
    }


LOSS_CHEATS = (
    *("quotient one too small", "quotient one too large", "remainder", "sum", "a sum for each class", "exponential", "sigma"),
    *("two maxima", "no maximum", "another maximum", "one-hot of no bits", "maximum too large"),
)


@pytest.mark.parametrize("cheat", LOSS_CHEATS)
def test_cheating_in_the_softmax_is_rejected(cheat: str) -> None:
    statement = statement_of(widths=(5, 3))
    trace = trained(statement, example(statement, scale=0.9))
    witness = witness_of(statement, trace)
    changes = _loss_changes(statement, trace)[cheat]
    changed = _changed(witness, {name: placed(witness.layout, name, table) for name, table in changes.items()})
    end = _end_after(changed, trace.states[0])
    assert_rejected(statement, _changed(changed, weight_tables(witness.layout, "end", end)))


def test_gradient_of_the_square_loss_with_another_target_is_rejected() -> None:
    statement = statement_of(loss="square")
    trace = trained(statement, example(statement), at("g", 1, 2, plus(16)))
    witness = witness_of(statement, trace)
    end = weight_tables(witness.layout, "end", end_weights(trace, statement.layers))
    assert_rejected(statement, _changed(witness, end))


@pytest.mark.parametrize("field", ["seed", "rates", "activation_bits", "batch_seed", "segment", "data", "end", "previous"])
def test_proof_is_bound_to_its_statement(field: str) -> None:
    statement = statement_of(widths=(4, 3), bits=(8, 13, 32))
    witness = witness_of(statement, trained(statement, example(statement)))
    proof = prove_in_the_clear(statement, witness)
    other = {
        "seed": "other", "rates": statement.rates[::-1], "activation_bits": 7, "batch_seed": "5b" * 32, "segment": 1,
        "data": b"x", "end": b"x", "previous": "00" * 32,
    }  # fmt: skip
    changed = replace(statement, **{field: other[field]})
    with pytest.raises(InvalidProof):
        verify_in_the_clear(changed, witness.tables, proof)


def test_every_changed_value_of_a_clear_proof_is_rejected() -> None:
    statement = statement_of(widths=(4, 3, 2), steps=2, batch=2, rows=4)
    witness = witness_of(statement, trained(statement, example(statement)))
    proof = prove_in_the_clear(statement, witness)
    messages = [i for i, message in enumerate(proof) if isinstance(message, list)]
    for i in messages:
        for k in range(len(proof[i])):
            changed = list(proof)
            changed[i] = [value + (1 if n == k else 0) for n, value in enumerate(proof[i])]
            with pytest.raises(InvalidProof):
                verify_in_the_clear(statement, witness.tables, changed)


def test_late_values_of_a_committed_table_are_rejected() -> None:
    """A prover that commits to one witness and proves another."""
    statement = statement_of(widths=(4, 3))
    witness = witness_of(statement, trained(statement, example(statement)))
    proof = prove_in_the_clear(statement, witness)
    for i, block in enumerate(witness.layout.witness):
        changed = list(proof)
        changed[i] = _bumped(proof[i])
        assert changed[i].shape == (block.highs, block.lows)
        with pytest.raises(InvalidProof):
            verify_in_the_clear(statement, witness.tables, changed)


def _samples(trace: MemoryTrace, name: str) -> Any:
    values = np.asarray(trace.arrays[name]).astype(np.int64)
    return values.reshape(-1, values.shape[-1]).T


def _changed(witness: Witness, tables: dict[str, Any]) -> Witness:
    return Witness(witness.layout, {**witness.tables, **tables}, witness.batches)


def _bumped(table: Any) -> Any:
    out = table.astype(np.int64)
    out[0, 0] += 1
    return narrow(out)


def _with_entry(z: Any, value: int) -> Any:
    out = np.array(z, dtype=object)
    out.reshape(-1)[0] = value + (1 << 40)
    return out


def _clamped(trace: MemoryTrace, name: str, limit: int) -> MemoryTrace:
    values = np.array(trace.arrays[name], dtype=object)
    clamped = type(trace)(trace.folder, trace.manifest)
    clamped.__dict__.update({**trace.__dict__, "arrays": {**trace.arrays, name: np.minimum(values, limit - 1)}})
    return clamped


def _end_after(witness: Witness, start: list[Any]) -> list[Any]:
    s, end = witness.layout.statement, []
    for j, matrix in enumerate(start):
        a, g = witness.activation(j).astype(np.int64), witness.gradient(j).astype(np.int64)
        rates = np.zeros(a.shape[1], np.int64)
        rates[: s.steps * s.batch] = np.repeat(s.rates, s.batch)
        end.append(matrix - (a * rates) @ g.T)
    return end
