"""The lowest levels of a lookup's fraction tree: far larger than all levels above together, and never kept.

Most leaves are 1 / (gamma - v) for integers v of 16 bits, some are of pairs of such integers. The passes over the three lowest
levels make fractions from these as they go (cuda/leaves.cuh, cuda/pair_leaves.cuh); level 3 is written when its turn comes, and
level 4 is the lowest that is kept. Leaves of other kinds (wider pairs, and on a GPU all of them, table rows with their counts,
blocks shorter than a run, integers that are too wide) are few: they are fractions in memory, between the runs of integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk import field, kernels, mle
from zkaudit.zk.backend import HOST, Array, Place, contiguous, empty, home, is_short, place_of

WRITTEN = 3  # level of the lowest fractions that are ever written
KEPT = 4  # level of the lowest fractions that are kept from the start
RUN = 64  # runs begin and end at multiples of this many leaves
NONE = np.empty(0, np.uint16)
WHOLE = 1 << 14  # leaves are filled up to a multiple of this, which keeps the large levels even


@dataclass(frozen=True)
class Part:
    """Looked-up rows with one table number, or a table's rows with their counts: leaves -count / (gamma - <scales, row>)."""

    offset: int
    gamma: int  # with the table's number taken off
    columns: Sequence[tuple[int, Any]]  # scale and small integers
    counts: NDArray[np.int64] | None = None  # None for looked-up rows, whose numerators are 1

    @property
    def size(self) -> int:
        return int(self.columns[0][1].size)

    @property
    def is_run(self) -> bool:
        """Whether the leaves can be made from 16-bit integers, or, on the host, from pairs of them."""
        narrow = all(values.dtype in (np.uint8, np.uint16) for _, values in self.columns)
        pairs = len(self.columns) == 1 or place_of(*(values for _, values in self.columns)) is HOST
        return self.counts is None and pairs and self.columns[0][0] == 1 and narrow and self.size >= RUN


@dataclass(frozen=True)
class _Run:
    """Leaves up to `end`: integers, pairs of integers, or fractions p / q of the level at hand."""

    end: int
    gamma: int
    beta: int
    values: NDArray[np.uint16]
    seconds: NDArray[np.uint16]  # empty but for pairs
    p: Array
    q: Array

    @property
    def stored(self) -> bool:
        return len(self.values) == 0


@dataclass(frozen=True)
class Leaves:
    """A level below WRITTEN, the first variables of its layer bound. `length` leaves, then 0 / 1."""

    level: int
    bound: tuple[int, ...]
    runs: tuple[_Run, ...]

    @staticmethod
    def of(parts: Sequence[Part]) -> Leaves:
        """Level 0, unbound; `parts` adjoin each other, the largest first, all of power-of-two sizes."""
        runs: list[_Run] = []
        between: list[Part] = []
        end = 0
        for part in parts:
            if not part.is_run:
                between.append(part)
                continue
            runs += _stored(between, end, part.offset)
            between = []
            values, *others = (contiguous(column, np.uint16).reshape(-1) for _, column in part.columns)
            beta, seconds = (part.columns[1][0], others[0]) if others else (0, NONE)
            end = part.offset + part.size
            runs.append(_Run(end, part.gamma, beta, values, seconds, field.zeros(0), field.zeros(0)))
        runs += _stored(between, end, -(-(parts[-1].offset + parts[-1].size) // WHOLE) * WHOLE)
        return Leaves(0, (), tuple(runs))

    @property
    def length(self) -> int:
        """Leaves up to the end of the last run, a multiple of WHOLE."""
        return self.runs[-1].end

    def beside(self, fractions: Array) -> Array:
        """Fractions of a level above, where the leaves are unless they are short."""
        return fractions if is_short(fractions) else _place(self.runs).put(fractions)

    def above(self) -> Leaves:
        """The level of neighbours' sums."""
        return self._with(self.level + 1, (), [kernels.fraction_layer(run.p, run.q) for run in self.runs if run.stored])

    def written(self, level: int) -> tuple[Array, Array]:
        """p and q of level WRITTEN or KEPT, from level 0."""
        runs, at = self, _place(self.runs)
        p, q = at.empty(self.length >> level, 4), at.empty(self.length >> level, 4)
        for _ in range(level):
            runs = runs.above()
        at.core.leaf_layer(*_arguments(runs.runs, at), level, p, q)
        return home(p), home(q)

    def round(self, batch: int, rest: Sequence[int]) -> tuple[int, int]:
        """h(0) and h's leading coefficient, as kernels.fraction_round."""
        low, high = mle.eq_halves(rest)
        out, at = empty(2, 4), _place(self.runs)
        chi = mle.eq_table(self.bound)
        at.core.leaf_round(*_arguments(self.runs, at), self.level, chi, field.from_ints([batch]), low, high, out)
        constant, leading = field.to_ints(out)
        return constant, leading

    def fold(self, r: int) -> Leaves | tuple[Array, Array]:
        """The gates' lowest variable bound; once a level has shrunk to the size of level WRITTEN, its fractions."""
        stored = [kernels.fraction_fold(run.p, run.q, r) for run in self.runs if run.stored]
        folded = self._with(self.level, (*self.bound, r), stored)
        if self.level + len(folded.bound) < WRITTEN:
            return folded
        at = _place(self.runs)
        p, q = at.empty(self.length >> WRITTEN, 4), at.empty(self.length >> WRITTEN, 4)
        at.core.leaf_write(*_arguments(folded.runs, at), self.level, mle.eq_table(folded.bound), p, q)
        return home(p), home(q)

    def _with(self, level: int, bound: tuple[int, ...], stored: Sequence[tuple[Array, Array]]) -> Leaves:
        """The same runs with other fractions where they are in memory."""
        runs, fractions = [], iter(stored)
        for run in self.runs:
            p, q = next(fractions) if run.stored else (run.p, run.q)
            runs.append(replace(run, p=p, q=q))
        return Leaves(level, bound, tuple(runs))


def _stored(parts: Sequence[Part], begin: int, end: int) -> list[_Run]:
    """A run of fractions in memory, or none: those of `parts`, and 0 / 1 where they leave room."""
    if begin == end:
        return []
    at = place_of(*(column for part in parts for _, column in part.columns))
    p, q = at.put(field.zeros(end - begin)), at.put(field.full(end - begin, 1))
    for part in parts:
        inside = slice(part.offset - begin, part.offset - begin + part.size)
        terms = [(-scale, contiguous(column).reshape(-1)) for scale, column in part.columns]
        numerators = field.full(part.size, 1) if part.counts is None else field.neg(field.from_small(part.counts))
        p[inside], q[inside] = at.put(numerators), at.put(field.affine(part.gamma, terms, part.size))
    return [_Run(end, 0, 0, NONE, NONE, p, q)]


def count_words(tables: Sequence[Any], size: int) -> NDArray[np.int64]:
    """How often each x < size stands in the tables; what is outside is not counted."""
    counts = np.zeros(size, np.int64)
    words = [table.reshape(-1) for table in tables if table.dtype == np.uint16]
    if words:
        at = place_of(*words)
        found = at.zeros((1 << 16,), np.int64)
        for values in words:
            at.core.histogram(at.put(values), found)
        counts += at.get(found)[:size]
    for table in tables:
        if table.dtype != np.uint16:
            values = place_of(table).get(table).reshape(-1)
            counts += np.bincount(values[(values >= 0) & (values < size)], minlength=size)
    return counts


def _place(runs: Sequence[_Run]) -> Place:
    return place_of(*(array for run in runs for array in (run.values, run.p)))


def _arguments(runs: Sequence[_Run], at: Place) -> tuple[Any, ...]:
    """Ends, integers and second ones, gammas and betas, p and q of the runs, as the core's calls take them."""
    gammas, betas = (field.from_ints([getattr(run, name) for run in runs]) for name in ("gamma", "beta"))
    fractions = [(at.put(run.p), at.put(run.q)) if run.stored else (run.p, run.q) for run in runs]
    integers = [run.values for run in runs], [run.seconds for run in runs]
    return [run.end for run in runs], *integers, gammas, betas, [p for p, _ in fractions], [q for _, q in fractions]
