"""A proof system that leaves one relation out, and cheats on just that one: each must succeed there, and must not in ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from weakened import is_accepted

from zkaudit.zk.circuit import galore
from zkaudit.zk.layout import Layout
from zkaudit.zk.statement import Statement
from zkaudit.zk.tables import narrow
from zkaudit.zk.testing.segments import Tamper, prove_in_the_clear, verify_in_the_clear
from zkaudit.zk.witness import Witness

Change = Callable[[pytest.MonkeyPatch], None]

# circuit/galore.py's claims of a layer in a first segment, in order
OF_MOMENTS = ("rounded", "start", "end", "zero")
OF_LAYER = (
    *("root", "root below", "quotient", "quotient below"),
    *(f"{kind} {claim}" for kind in ("first", "second") for claim in OF_MOMENTS),
)
OF_LATER_LAYER = tuple(name for name in OF_LAYER if not name.endswith(" zero"))  # in later segments
# of stored moments
OF_STORED = (
    *("root", "root below", "rounded", "quotient", "quotient below"),
    *(f"{kind} {claim}" for kind in ("first", "second") for claim in ("end", "zero")),
)
OF_LATER_STORED = tuple(name for name in OF_STORED if not name.endswith(" zero"))
OF_PROJECTION = ("result", "kept", "over", "basis", "products", "left", "right")


@dataclass(frozen=True)
class Cheat:
    """A cheating prover: its witness, the relation that alone is broken, and what the verifier knows of the commitments, by
    default what the witness says."""

    witness: Callable[[], Witness]
    relation: Change
    adopted: Callable[[Witness], dict[str, Any]] = lambda witness: dict(witness.tables)
    statement: Statement | None = None  # that it is verified for, if another

    def succeeds(self) -> bool:
        """Whether the proof is accepted."""
        witness = self.witness()
        statement = self.statement or witness.layout.statement
        proof = prove_in_the_clear(statement, witness)
        return is_accepted(lambda: verify_in_the_clear(statement, self.adopted(witness), proof))

    def succeeds_without_the_relation(self) -> bool:
        """Whether it is accepted by a verifier that lacks the relation."""
        with pytest.MonkeyPatch.context() as patch:
            self.relation(patch)
            return self.succeeds()


def ranges(*names: str) -> Change:
    """No block whose name begins like one of these is looked up."""

    def leave_out(patch: pytest.MonkeyPatch) -> None:
        every = Layout.lookups.func  # type: ignore[attr-defined]
        kept = property(lambda layout: [x for x in every(layout) if not x.blocks[-1].name.startswith(names)])
        patch.setattr(Layout, "lookups", kept)

    return leave_out


def pairs(name: str) -> Change:
    """No pair whose cast is in the block of this name is looked up."""

    def leave_out(patch: pytest.MonkeyPatch) -> None:
        every = Layout.lookups.func  # type: ignore[attr-defined]
        kept = property(lambda layout: [x for x in every(layout) if len(x.blocks) == 1 or x.blocks[1].name != name])
        patch.setattr(Layout, "lookups", kept)

    return leave_out


def claim(module: ModuleType, place: int) -> Change:
    """The claim at this place of those that the module's prove and verify, or its `claims`, leave is not settled."""

    def without(kept: Any) -> Any:
        if isinstance(kept, tuple):
            return without(kept[0]), kept[1]
        assert place < len(kept)
        return [x for i, x in enumerate(kept) if i != place]

    def leave_out(patch: pytest.MonkeyPatch) -> None:
        for name in ("claims",) if hasattr(module, "claims") else ("prove", "verify"):
            every = getattr(module, name)
            patch.setattr(module, name, lambda *given, every=every: without(every(*given)))

    return leave_out


def of_layer(name: str, layer: int, claims: tuple[str, ...] = OF_LAYER) -> Change:
    """The claim of this name of a layer's root, quotient or moments, `claims` being all of a layer's."""
    return claim(galore, layer * len(claims) + claims.index(name))


def both(*changes: Change) -> Change:
    """Each of them left out."""

    def leave_out(patch: pytest.MonkeyPatch) -> None:
        for change in changes:
            change(patch)

    return leave_out


def told(*lies: Tamper) -> Tamper:
    """Several lies."""

    def tamper(name: str, step: int, layer: int, value: Any) -> Any:
        for lie in lies:
            value = lie(name, step, layer, value)
        return value

    return tamper


def plus(amount: int, place: int = 0) -> Callable[[Any], Any]:
    """Add to one entry, by default the first."""

    def change(value: Any) -> Any:
        out = np.array(value, dtype=object)
        out.reshape(-1)[place] += amount
        return out

    return change


def altered(witness: Witness, **tables: Any) -> Witness:
    """With other tables."""
    return Witness(witness.layout, {**witness.tables, **tables}, witness.batches)


def bumped(table: Any, row: int = 0, column: int = 0, amount: int = 1) -> Any:
    """One entry changed."""
    out = table.astype(np.int64)
    out[row, column] += amount
    return narrow(out)
