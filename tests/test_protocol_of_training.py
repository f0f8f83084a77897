"""The whole proof of training under the property-test kit, as it is shipped: a suite of its own (`--zk-cheats`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zkaudit.zk import argument
from zkaudit.zk.argument import Phases
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.layout import Layout
from zkaudit.zk.methods import FP8
from zkaudit.zk.samplers import ViewBatch
from zkaudit.zk.statement import Statement, derive_batch_seed
from zkaudit.zk.tables import narrow
from zkaudit.zk.testing import ChannelProtocol
from zkaudit.zk.testing.segments import Committed, committed, example, statement_of
from zkaudit.zk.testing.strategies import invalid
from zkaudit.zk.witness import Witness

pytestmark = pytest.mark.slow

SMALL = statement_of(widths=(4, 3, 2), batch=2, steps=2, rows=5, columns=8)
SHAPES = [SMALL, statement_of(widths=(3, 2), batch=1, steps=1, rows=2, loss="square", columns=8)]


class Training(ChannelProtocol):
    """The whole argument of a first segment, as it is shipped; lies are segments of which one committed table is changed."""

    domain = argument.DOMAIN
    examples = 6
    runs = 40

    def instances(self) -> SearchStrategy[tuple[Statement, Committed]]:
        return st.builds(self.made, st.sampled_from(SHAPES), st.integers(0, 7))

    def lies(self) -> SearchStrategy[tuple[Statement, Committed]]:
        return st.builds(self.changed, self.instances(), st.integers(0, 1 << 20), st.integers(0, 1 << 20))

    def made(self, statement: Statement, seed: int) -> tuple[Statement, Committed]:
        done = committed(example(statement, seed), statement)
        return done.statement, done

    def changed(self, instance: tuple[Statement, Committed], table: int, entry: int) -> tuple[Statement, Committed]:
        """One valid entry of the witness off by one; what is committed before the proof stays as it is."""
        statement, done = instance
        layout = done.witness.layout
        inside = [block for block in layout.witness if "." not in block.name and block.highs > 1]
        block = inside[table % len(inside)]
        changed = done.witness.tables[block.name].astype(np.int64)
        unit = entry % statement.widths[-1]
        changed[unit, entry % (statement.steps * statement.batch)] += 1
        witness = Witness(layout, {**done.witness.tables, block.name: narrow(changed)}, done.witness.batches)
        return statement, replace(done, witness=witness)

    def mutations(self, statement: Statement) -> Iterator[tuple[str, Statement]]:
        """Those that are refused by themselves need no proof to be."""
        added = {
            "sampler": ViewBatch(1),
            "records": "00" * 32,
            "fp8": FP8(*((x,) * (statement.layers - 1) for x in (-1, -6)), "e4m3"),
        }
        optional = ((f"'{name}' added", replace(statement, **{name: value})) for name, value in added.items())
        return ((what, other) for what, other in (*super().mutations(statement), *optional) if not invalid(other))

    def prover(self, statement: Statement, witness: Committed, channel: Any) -> None:
        layout = witness.witness.layout
        for blocks, opening in zip((layout.data, layout.start, layout.end), witness.openings, strict=True):
            channel.adopt(blocks, witness.witness.tables, opening.blindings)
        argument.prove(statement, witness.witness, channel, Phases())

    def verifier(self, statement: Statement, channel: Any) -> None:
        layout = Layout(statement)
        sizes = argument.committed_bytes(statement, layout)[:3]
        if [len(statement.data), len(statement.start), len(statement.end)] != list(sizes):
            raise InvalidProof("a commitment has another size")
        if statement.segment == 0 and statement.batch_seed != derive_batch_seed(statement):
            raise InvalidProof("the batch seed does not follow")
        groups = ((layout.data, statement.data), (layout.start, statement.start), (layout.end, statement.end))
        for blocks, encoded in groups:
            channel.adopt(blocks, encoded)
        argument.verify(statement, channel)


training = Training(columns=8)
