"""What a statement may say of how batches are chosen: repeated views, or buckets of like lengths (sampling.py). Public.

An object of the header with a `kind`; absent for a run whose epochs are fresh orders of all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zkaudit.zk.errors import BadInput
from zkaudit.zk.sampling import (
    LARGEST_LENGTH,
    LARGEST_ODDS,
    Integers,
    buckets_of,
    length_bucket_rows,
    view_batch_rows,
)
from zkaudit.zk.statement_fields import require_integer

LARGEST_VIEWS = 1 << 16
MOST_LENGTHS = 1 << 20  # rows of a run with buckets, all of whose lengths stand in the header
MOST_CYCLES = 1 << 10
DRAW = 16  # units of work that a draw of a bucket takes (verifier.work)


@dataclass(frozen=True)
class ViewBatch:
    """Each row comes `views` times in a row, in a cycle of as many epochs."""

    views: int

    kind: ClassVar[str] = "view-batch"

    def check(self, rows: int, batch: int) -> None:
        """BadInput for values out of range."""
        require_integer("sampler.views", self.views, 1, LARGEST_VIEWS)

    def drawn(self, seed: bytes, rows: int, batch: int, first_step: int, steps: int) -> Integers:
        """Rows of each step, (steps, batch)."""
        return view_batch_rows(seed, rows, batch, first_step, steps, self.views)

    def epoch_steps(self, rows: int, batch: int) -> int:
        """Steps of a cycle."""
        return self.views * rows // batch

    def work(self, rows: int, batch: int, steps: int) -> int:
        """What a verifier does for it beside what it does for any statement."""
        return 0


@dataclass(frozen=True)
class Buckets:
    """Batches of rows whose lengths have one floor of the logarithm; `lengths` are declared, a public integer for each row.

    odds: how much more often than by its tokens a bucket is drawn, from the shortest to the longest; none are equal ones.
    """

    lengths: tuple[int, ...]
    odds: tuple[int, ...] = ()
    cycles: int = 8  # parts of a pass over the data

    kind: ClassVar[str] = "length-buckets"

    def check(self, rows: int, batch: int) -> None:
        """BadInput for values out of range, and if no bucket can fill a batch."""
        for name in ("lengths", "odds"):
            if not isinstance(getattr(self, name), tuple):
                raise BadInput(f"statement field 'sampler.{name}' must be a list")
        if len(self.lengths) != rows or rows > MOST_LENGTHS:
            found = f"{len(self.lengths)} entries for {rows} rows"
            raise BadInput(f"statement field 'sampler.lengths' has {found}; it must have one each, at most {MOST_LENGTHS}")
        for length in self.lengths:
            require_integer("sampler.lengths", length, 1, LARGEST_LENGTH)
        for value in self.odds:
            require_integer("sampler.odds", value, 1, LARGEST_ODDS)
        require_integer("sampler.cycles", self.cycles, 1, MOST_CYCLES)
        if self.odds and len(self.odds) != (used := len(self._sizes())):
            raise BadInput(f"statement field 'sampler.odds' must have no entry or {used}, one for each bucket")
        if not self.epoch_steps(rows, batch):
            raise BadInput(f"no bucket of like lengths has rows enough for a batch of {batch}")

    def drawn(self, seed: bytes, rows: int, batch: int, first_step: int, steps: int) -> Integers:
        """Rows of each step, (steps, batch)."""
        return length_bucket_rows(seed, np.array(self.lengths, np.int64), batch, first_step, steps, self.odds, self.cycles)

    def epoch_steps(self, rows: int, batch: int) -> int:
        """Steps of a pass."""
        return sum(size // batch for size in self._sizes())

    def work(self, rows: int, batch: int, steps: int) -> int:
        """Draws are made from the beginning of a cycle, of which one is longer than all steps at most."""
        return DRAW * (rows // batch + steps)

    def _sizes(self) -> list[int]:
        return [len(members) for members in buckets_of(np.array(self.lengths, np.int64)).values()]


Sampler = ViewBatch | Buckets
KINDS: dict[str, type[ViewBatch] | type[Buckets]] = {kind.kind: kind for kind in (ViewBatch, Buckets)}


def read(value: object) -> Sampler | None:
    """The object of a header or a manifest, lists as tuples; None stays None. ValueError for other fields than its kind's."""
    if value is None:
        return None
    kind = KINDS.get(str(value.get("kind"))[:40]) if isinstance(value, Mapping) else None
    if kind is None or not isinstance(value, Mapping):
        raise ValueError(f"a sampler is an object with a kind, one of {', '.join(KINDS)}")
    names = [x.name for x in dataclasses.fields(kind)]
    if sorted(value) != sorted([*names, "kind"]):
        raise ValueError(f"a {kind.kind} sampler has the fields kind, {', '.join(names)}")
    given: dict[str, Any] = {name: tuple(x) if isinstance(x := value[name], list) else x for name in names}
    return kind(**given)


def written(sampler: Sampler) -> dict[str, Any]:
    """The object that `read` reads, in JSON's types."""
    values = {x.name: getattr(sampler, x.name) for x in dataclasses.fields(sampler)}
    return {"kind": sampler.kind} | {name: list(x) if isinstance(x, tuple) else x for name, x in values.items()}
