"""A proof of GaLore, LoRA or FP8 training made on a GPU is the host's: on a real one, and on the twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from method_segments import VARIANTS, train

from zkaudit.zk import argument, field
from zkaudit.zk.argument import Phases
from zkaudit.zk.backend import HOST, Place
from zkaudit.zk.channel import ClearProver
from zkaudit.zk.layout import Layout
from zkaudit.zk.statement import Statement
from zkaudit.zk.witness import segment_witness

CHOSEN = (
    "galore",
    "galore, random",
    "galore, sgd",
    "galore, stored by groups",
    "lora",
    "fp8, e5m2",
    "fp8 with galore",
    "fp8 with lora",
)


def clear_proof(statement: Statement, at: Place) -> list[Any]:
    made = train(statement)
    witness = segment_witness(made.trace, Layout(statement), made.batches, at)
    prover = ClearProver(argument.DOMAIN, True)
    for blocks in (witness.layout.data, witness.layout.start, witness.layout.end):
        prover.adopt(blocks, witness.tables)
    argument.prove(statement, witness, prover, Phases())
    return prover.proof


def plain(item: Any) -> Any:
    """A part of a clear proof as Python's own numbers."""
    if isinstance(item, np.ndarray):
        return field.to_ints(item) if item.dtype == np.uint64 else np.asarray(item.view(np.ndarray)).tolist()
    return {key: plain(value) for key, value in item.items()} if isinstance(item, dict) else item


@pytest.mark.parametrize("name", CHOSEN)
def test_the_proof_is_the_host_s(place: Place, name: str) -> None:
    host, device = (clear_proof(VARIANTS[name], at) for at in (HOST, place))
    assert len(host) == len(device)
    assert all(plain(a) == plain(b) for a, b in zip(host, device, strict=True))
