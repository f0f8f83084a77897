"""Real proofs of small segments trained with a method, made in memory."""

from __future__ import annotations

from dataclasses import replace

from method_reference import Data
from method_segments import Trained, honest, train

from zkaudit.zk.argument import Phases
from zkaudit.zk.channel import Blinder
from zkaudit.zk.engine.job import prove_segment
from zkaudit.zk.layout import Layout
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import Statement, derive_batch_seed
from zkaudit.zk.tables import data_tables, weight_tables
from zkaudit.zk.testing.segments import opened
from zkaudit.zk.witness import Witness


def hidden_method_proof(statement: Statement, data: Data, blinder: Blinder) -> ProofFile:
    """Commit to data and start, which fixes the batches, train, commit to the end, prove."""
    layout = Layout(statement)
    fixed = data_tables(layout, data.inputs, data.targets, data.frozen)
    fixed |= weight_tables(layout, "start", [*data.start, *Trained(statement, data, {}).moments])
    openings = [opened(statement, blocks, fixed, blinder) for blocks in (layout.data, layout.start)]
    statement = replace(statement, data=openings[0].commitment, start=openings[1].commitment)
    statement = replace(statement, batch_seed=derive_batch_seed(statement))
    witness = honest(train(statement, data))
    openings.append(opened(statement, layout.end, witness.tables, blinder))
    statement = replace(statement, end=openings[2].commitment)
    return prove_segment(statement, Witness(Layout(statement), witness.tables, witness.batches), openings, blinder, Phases())
