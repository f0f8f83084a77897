"""Rows of each step's batch by public rules: uniform epochs, repeated views, and buckets of like lengths.

All are functions of a seed and of public integers alone, so that whoever verifies makes the same batches: integer arithmetic,
SHAKE-256, ties by the lower row. A pass is a fresh order: rows sorted by 64-bit words of SHAKE-256(tag, seed, pass)."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.errors import BadInput

if TYPE_CHECKING:
    from zkaudit.zk.statement import Statement

Integers = NDArray[np.int64]
LARGEST_LENGTH = 1 << 40
LARGEST_ODDS = 1 << 20


def batches(s: Statement) -> Integers:
    """Data rows of each step of a statement's segment, (steps, batch)."""
    seed = bytes.fromhex(s.batch_seed)
    if s.sampler is None:
        return batch_rows(seed, s.rows, s.batch, s.first_step, s.steps)
    return s.sampler.drawn(seed, s.rows, s.batch, s.first_step, s.steps)


def batch_rows(batch_seed: bytes, rows: int, batch: int, first_step: int, steps: int) -> Integers:
    """Data rows of each step without a sampler, (steps, batch): an epoch has rows // batch steps and drops what is left over.

    The words that sort an epoch's rows are SHAKE-256(tag, batch_seed, epoch), without the lengths that `shuffled` frames.
    """
    per_epoch = rows // batch
    chosen = np.empty((steps, batch), np.int64)
    epoch, order = -1, np.empty(0, np.int64)
    for i in range(steps):
        at, place = divmod(first_step + i, per_epoch)
        if at != epoch:
            epoch = at
            stream = hashlib.shake_256(b"zkaudit batches" + batch_seed + epoch.to_bytes(8, "little")).digest(8 * rows)
            order = np.argsort(np.frombuffer(stream, "<u8"), kind="stable").astype(np.int64)
        chosen[i] = order[place * batch : (place + 1) * batch]
    return chosen


def view_batch_rows(seed: bytes, rows: int, batch: int, first_step: int, steps: int, views: int) -> Integers:
    """Rows of each step, shape (steps, batch): in a cycle of `views` epochs each row comes `views` times, all in a row.

    A cycle is an order of all rows, each repeated, cut into views * rows // batch batches; what is left over is dropped.
    BadInput if no batch can be filled.
    """
    chosen = np.empty((steps, batch), np.int64)
    at, order = -1, np.empty(0, np.int64)
    for i, (cycle, places) in enumerate(_view_places(rows, batch, first_step, steps, views)):
        if cycle != at:
            at, order = cycle, shuffled(b"zkaudit view batches", seed, cycle, np.arange(rows))
        chosen[i] = order[places // views]
    return chosen


def view_numbers(rows: int, batch: int, first_step: int, steps: int, views: int) -> Integers:
    """Which view of its row each entry of `view_batch_rows` is, from 0 to views - 1. (steps, batch)"""
    found = [places % views for _, places in _view_places(rows, batch, first_step, steps, views)]
    return np.array(found, np.int64).reshape(steps, batch)


def length_bucket_rows(
    seed: bytes,
    lengths: Integers,
    batch: int,
    first_step: int,
    steps: int,
    odds: Sequence[int] = (),
    cycles: int = 8,
) -> Integers:
    """Rows of each step, shape (steps, batch): batches of one bucket each, buckets as in `LengthBuckets`."""
    plan = LengthBuckets(seed, lengths, dict.fromkeys(buckets_of(lengths), batch), odds, cycles)
    chosen = [rows for _, _, rows in plan.steps(first_step, steps)]
    return np.array(chosen, np.int64).reshape(steps, batch)


def buckets_of(lengths: Integers) -> dict[int, Integers]:
    """Bucket k -> rows of length 2^k to 2^(k+1) - 1, ascending. BadInput for lengths below 1 or too large."""
    lengths = np.asarray(lengths, np.int64)
    if lengths.ndim != 1 or not len(lengths) or lengths.min() < 1 or lengths.max() > LARGEST_LENGTH:
        raise BadInput(f"lengths must be a number from 1 to {LARGEST_LENGTH} for each row")
    exponents = np.searchsorted(1 << np.arange(1, 42, dtype=np.int64), lengths, side="right")  # floor of the logarithm
    return {int(k): np.flatnonzero(exponents == k) for k in np.unique(exponents)}


@dataclass(frozen=True)
class _Cycle:
    """Batches of each bucket, and the odds of drawing one of it."""

    counts: dict[int, int]
    odds: dict[int, int]


class LengthBuckets:
    """Steps that take their batch from one bucket each.

    seed: of the run. batch: bucket -> rows of its batches; buckets that are left out are not used. A pass over the data makes a
    fresh order of each bucket, cut into batches (the rest is dropped) and dealt out to `cycles` cycles. Within a cycle a step
    draws a bucket with odds = tokens that the bucket has in the cycle, times `odds` of it, until it is empty. odds: an integer
    for each bucket from the shortest to the longest that is used; none are equal ones. BadInput for anything out of range, and
    if no batch can be filled.
    """

    def __init__(
        self, seed: bytes, lengths: Integers, batch: Mapping[int, int], odds: Sequence[int] = (), cycles: int = 8
    ) -> None:
        rows = {k: members for k, members in buckets_of(lengths).items() if k in batch}
        self.seed, self.rows, self.batch = seed, rows, {k: batch[k] for k in rows}
        _in_range("cycles", cycles, 1, 1 << 20)
        for k, size in self.batch.items():
            _in_range(f"batch of bucket {k}", size, 1, 1 << 22)
        if odds and len(odds) != len(rows):
            raise BadInput(f"odds has {len(odds)} entries for {len(rows)} buckets in use")
        for value in odds:
            _in_range("odds", value, 1, LARGEST_ODDS)
        factors = dict(zip(sorted(rows), odds or [1] * len(rows), strict=True))
        whole = {k: len(rows[k]) // self.batch[k] for k in sorted(rows)}
        self._dealt = {k: [count * part // cycles for part in range(cycles + 1)] for k, count in whole.items()}
        self._cycles = [
            _Cycle(counts, {k: count * self.batch[k] * factors[k] << k for k, count in counts.items()})
            for counts in ({k: ends[i + 1] - ends[i] for k, ends in self._dealt.items()} for i in range(cycles))
        ]
        self._ends = list(accumulate(sum(cycle.counts.values()) for cycle in self._cycles))
        if not self._ends[-1]:
            raise BadInput("no bucket has rows enough for one batch")

    @property
    def steps_of_a_pass(self) -> int:
        return self._ends[-1]

    def steps(self, first_step: int, steps: int) -> Iterator[tuple[int, int, Integers]]:
        """Cycle (counted through all passes), bucket and rows of each step from `first_step` on."""
        step, last, at, orders = first_step, first_step + steps, -1, dict[int, Integers]()
        while step < last:
            through, within = divmod(step, self.steps_of_a_pass)
            if through != at:
                at, orders = through, {}
            part = bisect_right(self._ends, within)
            begun = step - within + (self._ends[part - 1] if part else 0)
            for offset, drawn in enumerate(self._cycle(through, part, orders), begun):
                if step <= offset < last:
                    yield drawn
                    step = offset + 1

    def _cycle(self, through: int, part: int, order: dict[int, Integers]) -> Iterator[tuple[int, int, Integers]]:
        """order: of each bucket that the pass has used so far; more are added."""
        cycle, number = self._cycles[part], through * len(self._cycles) + part
        left = dict(cycle.counts)
        words = _words(b"zkaudit bucket draws", self.seed, number, 2 * sum(left.values()))
        for draw in range(sum(left.values())):
            odds = {k: cycle.odds[k] for k, count in left.items() if count}
            ends = list(accumulate(odds.values()))
            # 128 bits, so that what the odds lose by rounding is below 2^-64
            word = int(words[2 * draw]) << 64 | int(words[2 * draw + 1])
            k = list(odds)[bisect_right(ends, word * ends[-1] >> 128)]
            if k not in order:
                order[k] = shuffled(b"zkaudit bucket %d" % k, self.seed, through, self.rows[k])
            place = (self._dealt[k][part + 1] - left[k]) * self.batch[k]
            left[k] -= 1
            yield number, k, order[k][place : place + self.batch[k]]


def shuffled(tag: bytes, seed: bytes, number: int, rows: Integers) -> Integers:
    """The rows in an order of their own for each tag, seed and number; ties keep their order."""
    found: Integers = np.asarray(rows, np.int64)[np.argsort(_words(tag, seed, number, len(rows)), kind="stable")]
    return found


def _view_places(rows: int, batch: int, first_step: int, steps: int, views: int) -> Iterator[tuple[int, Integers]]:
    """Cycle, and places among its views * rows entries, of each step."""
    for name, value in (("rows", rows), ("batch", batch), ("views", views)):
        _in_range(name, value, 1, 1 << 22)
    per_cycle = views * rows // batch
    if not per_cycle:
        raise BadInput(f"a batch of {batch} cannot be filled with {views} views of {rows} rows")
    for step in range(first_step, first_step + steps):
        cycle, place = divmod(step, per_cycle)
        yield cycle, np.arange(place * batch, (place + 1) * batch, dtype=np.int64)


def _words(tag: bytes, seed: bytes, number: int, count: int) -> NDArray[np.uint64]:
    framed = b"".join(len(part).to_bytes(8, "little") + part for part in (tag, seed)) + number.to_bytes(8, "little")
    return np.frombuffer(hashlib.shake_256(framed).digest(8 * count), "<u8")


def _in_range(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise BadInput(f"{name} is {str(value)[:40]}; it must be an integer from {low} to {high}")
