"""The proof of training with GaLore, LoRA and FP8 under the property-test kit, hidden as it is shipped.

test_protocol_of_training.py puts plain SGD through the whole suite; here are the checks that a method's own tables and fields
could fail: completeness, binding, one false entry anywhere, and hiding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from method_reference import Data
from method_segments import Trained, data_of, fp8_of, galore_of, honest, lora_of, stored_of, train
from test_protocol_of_training import Training

from zkaudit.zk import argument, curve, hyrax
from zkaudit.zk.block import Block
from zkaudit.zk.channel import Blinder
from zkaudit.zk.layout import Layout
from zkaudit.zk.opening import Opening
from zkaudit.zk.statement import Statement, check, derive_batch_seed
from zkaudit.zk.tables import data_tables, narrow, weight_tables
from zkaudit.zk.testing import Coins, assert_bound, assert_complete
from zkaudit.zk.testing.protocol import mutated_fields, refusal, run, simulated
from zkaudit.zk.testing.segments import Committed, statement_of
from zkaudit.zk.testing.simulator import random_points
from zkaudit.zk.testing.strategies import invalid
from zkaudit.zk.witness import Witness

SMALL = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5, columns=8, rate=40)
SHAPES = {
    "galore": galore_of(SMALL, gap=1, ranks=(2, 1)),
    "random galore": galore_of(SMALL, basis="random", ranks=(1, 2), sides=("right", "left")),
    "stored galore": stored_of(SMALL, gap=1, ranks=(2, 1)),
    "lora": lora_of(SMALL, (2, 1), 9, 4),
    "fp8": fp8_of(SMALL, activation=-8),
}


def committed(statement: Statement, data: Data, blinder: Blinder | None = None) -> Committed:
    """A first segment as it is shipped: data, frozen weights and start committed, which fixes batches and random bases; then
    trained."""
    blinder, layout = blinder or Blinder(), Layout(statement)

    def opened(blocks: Sequence[Block], tables: dict[str, Any]) -> Opening:
        points, blindings = hyrax.commit(blocks, tables, statement.columns, blinder)
        return Opening(statement.columns, curve.compress(points), blindings, "")

    begun = Trained(statement, data, {})
    of_data = opened(layout.data, data_tables(layout, data.inputs, data.targets, data.frozen))
    start = opened(layout.start, weight_tables(layout, "start", [*data.start, *begun.moments]))
    statement = replace(statement, data=of_data.commitment, start=start.commitment)
    statement = replace(statement, batch_seed=derive_batch_seed(statement))
    witness = honest(train(statement, data))
    end = opened(layout.end, witness.tables)
    statement = replace(statement, end=end.commitment)
    return Committed(statement, Witness(Layout(statement), witness.tables, witness.batches), [of_data, start, end])


class Methods(Training):
    """First segments with one of the methods."""

    def __init__(self, name: str) -> None:
        super().__init__(columns=SHAPES[name].columns)
        self.shape, self.method = SHAPES[name], name.split()[-1]

    def instances(self) -> SearchStrategy[tuple[Statement, Committed]]:
        return st.builds(lambda seed: self.made(self.shape, seed), st.integers(0, 7))

    def made(self, statement: Statement, seed: int) -> tuple[Statement, Committed]:
        done = committed(statement, data_of(statement, seed))
        return done.statement, done

    def mutations(self, statement: Statement) -> Iterator[tuple[str, Statement]]:
        """Of the method alone, and what leaves it out or adds another; plain training has the other fields."""
        plain = replace(statement, **{self.method: None})
        for what, other in super().mutations(statement):
            if replace(other, **{self.method: None}) == plain:
                yield what, other
        yield "without the method", plain
        for name in ("lora", "fp8"):
            other = replace(statement, **{name: getattr(SHAPES[name], name)})
            if other != statement and not invalid(other):
                yield f"with {name}", other


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_honest_proofs_are_accepted(name: str) -> None:
    assert_complete(Methods(name), examples=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_proofs_are_bound_to_the_method(name: str) -> None:
    """Every challenge depends on every field, and no proof serves two statements."""
    protocol = Methods(name)
    _, done = protocol.made(protocol.shape, 0)
    assert len(list(protocol.mutations(done.statement))) > 3
    assert_bound(protocol, examples=1)


@cache
def made(name: str) -> Committed:
    return committed(SHAPES[name], data_of(SHAPES[name]), Blinder(b"methods"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=8)
@given(st.data())
def test_one_false_entry_of_a_method_s_tables_is_refused(name: str, draws: st.DataObject) -> None:
    """The first entry of any of them, off by a little; all else is as it was."""
    done, protocol, plain = made(name), Methods(name), Layout(SMALL).named
    layout = done.witness.layout
    block = draws.draw(st.sampled_from([block for block in layout.witness if block.name not in plain]))
    table = done.witness.tables[block.name].astype(np.int64)
    table[0, 0] += draws.draw(st.sampled_from([1, -1, 256]))
    changed = {**done.witness.tables, block.name: narrow(table)}
    witness = replace(done, witness=Witness(layout, changed, done.witness.batches))
    spoken = run(protocol, done.statement, witness)
    assert refusal(protocol, done.statement, spoken.messages, spoken.coins) is not None


@pytest.mark.parametrize("name", SHAPES)
def test_a_whole_proof_can_be_simulated_without_a_witness(name: str) -> None:
    """Commitments to nothing, no data, no training: accepted with the oracle programmed, refused with the hash."""
    statement = SHAPES[name]
    sizes = argument.committed_bytes(statement, Layout(statement))[:3]
    data, start, end = (random_points(size // 48) for size in sizes)
    statement = replace(statement, data=data, start=start, end=end)
    statement = replace(statement, batch_seed=derive_batch_seed(statement))
    check(statement)
    protocol = Methods(name)
    made = simulated(protocol, statement, Coins(programmed=True))
    assert refusal(protocol, statement, made.messages, made.coins) is None
    assert refusal(protocol, statement, made.messages, Coins()) is not None


@pytest.mark.parametrize("name", SHAPES)
def test_secrets_of_one_shape_give_proofs_of_one_shape(name: str) -> None:
    """Weights, bases, moments and adapters change no message's name or size."""
    protocol = Methods(name)
    spoken = [run(protocol, *protocol.made(protocol.shape, seed)) for seed in (1, 2)]
    shapes: list[list[Any]] = [[(message.name, message.kind) for message in one.messages] for one in spoken]
    assert shapes[0] == shapes[1]


def test_a_field_that_is_not_used_has_no_other_values() -> None:
    """The kit cannot know what it could hold; all other fields of the statement are altered in turn."""
    altered = {what.split("'")[1] for what, _ in mutated_fields(SMALL)}
    unused = {name for name, value in vars(SMALL).items() if value is None}
    assert unused >= {"galore", "lora", "fp8"}
    assert altered == vars(SMALL).keys() - unused
