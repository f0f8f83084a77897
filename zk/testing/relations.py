"""Relations by themselves: given blocks are committed, ranges looked up, claims settled, and nothing else is proved.

For circuits in the making, zkaudit's own and others: `accepted` says whether tables pass; `prove` and `verify` are the two
sides of a ChannelProtocol, so that every cheat can be tried on them (docs/testing.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from zkaudit.zk import field, gather, lookup
from zkaudit.zk.block import LIMB, Block, Lookup
from zkaudit.zk.channel import Blinder, Channel, ClearProver, ClearVerifier, ProverChannel, VerifierChannel
from zkaudit.zk.claims import Claim
from zkaudit.zk.errors import InvalidProof
from zkaudit.zk.hiding import HidingProver, HidingVerifier
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear
from zkaudit.zk.tables import narrow
from zkaudit.zk.testing.segments import statement_of

DOMAIN = b"zkaudit relations by themselves"


@dataclass(frozen=True)
class Relations:
    """Blocks and what is claimed of them.

    ranges: blocks with the bits of their ranges, 1 to 16; one has 16. others: blocks that no range is asked of. claims: what
    holds, given the blocks by name and a channel for random weights; both sides call it.
    """

    ranges: Sequence[tuple[Block, int]]
    claims: Callable[[dict[str, Block], Channel], list[Claim]]
    others: Sequence[Block] = ()

    def __post_init__(self) -> None:
        if max((bits for _, bits in self.ranges), default=0) != LIMB:
            raise ValueError(f"ranges: one block must have {LIMB} bits and none more")

    def placed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Tables as a prover has them: integers (units, samples) in the corner of their blocks, zeros beside them."""
        return {block.name: _placed(block, np.asarray(values[block.name])) for block in _Own.of(self).witness}


def prove(relations: Relations, values: Mapping[str, Any], channel: ProverChannel) -> None:
    """Commit to `values` (block name -> integers, at most of the block's shape) and prove that the relations hold."""
    layout, tables = _Own.of(relations), relations.placed(values)
    channel.commit(layout.witness, tables, "blocks")
    tables |= lookup.count(layout, tables)
    channel.commit(layout.multiplicities, tables, "multiplicities")
    claims = lookup.prove(layout, tables, channel)
    gather.prove([*claims, *relations.claims(layout.named, channel), _cube(layout)], tables, layout, channel)
    channel.settle()


def verify(relations: Relations, channel: VerifierChannel) -> None:
    """The verifier's side: InvalidProof names what does not hold."""
    layout = _Own.of(relations)
    channel.receive_commitment(layout.witness, "blocks")
    channel.receive_commitment(layout.multiplicities, "multiplicities")
    claims = lookup.verify(layout, channel)
    gather.verify([*claims, *relations.claims(layout.named, channel), _cube(layout)], layout, channel)
    channel.settle()


def accepted(relations: Relations, values: Mapping[str, Any], columns: int | None = None) -> bool:
    """Whether the verifier accepts what the prover makes of `values`, which need not be true: in the clear, or, with `columns`,
    the logarithm of a committed row's length, on the hiding channel."""
    verifier: VerifierChannel
    if columns is None:
        prover = ClearProver(DOMAIN)
        prove(relations, values, prover)
        verifier = ClearVerifier(DOMAIN, prover.proof)
    else:
        hiding = HidingProver(DOMAIN, columns, Blinder(), check=False)
        prove(relations, values, hiding)
        verifier = HidingVerifier(DOMAIN, columns, bytes(hiding.proof))
    try:
        verify(relations, verifier)
    except InvalidProof:
        return False
    return True


@dataclass(frozen=True)
class _Own(Layout):
    """The relations' blocks, all committed inside the proof. Ranges are of single blocks, so the statement says nothing."""

    relations: Relations

    @staticmethod
    def of(relations: Relations) -> _Own:
        return _Own(statement_of(), relations)

    @cached_property
    def data(self) -> list[Block]:
        return []

    @cached_property
    def start(self) -> list[Block]:
        return []

    @cached_property
    def end(self) -> list[Block]:
        return []

    @cached_property
    def witness(self) -> list[Block]:
        return [*(block for block, _ in self.relations.ranges), *self.relations.others]

    @cached_property
    def lookups(self) -> list[Lookup]:
        return [Lookup(bits, (block,)) for block, bits in self.relations.ranges]


def _placed(block: Block, values: Any) -> Any:
    """ValueError if they have not the block's form."""
    if values.ndim != 2 or values.shape[0] > block.highs or values.shape[1] > block.lows:
        raise ValueError(f"values of block '{block.name}' have shape {values.shape}; at most {block.highs} x {block.lows} fit")
    table = np.zeros((block.highs, block.lows), np.int64)
    table[: values.shape[0], : values.shape[1]] = values
    return narrow(table)


def _cube(layout: Layout) -> Claim:
    """0 = 0 about the largest block, so that the gather's point reaches every block's variables."""
    largest, claim = max(layout.blocks, key=lambda block: block.size), Claim(Linear())
    claim.add_block(largest, 0, field.zeros(largest.highs), field.zeros(largest.lows))
    return claim
