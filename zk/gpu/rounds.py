"""Calls of sumcheck rounds and of the fraction tree (cuda/cpu/bind_sumcheck.hpp), for a machine.

Only whole pairs are seen here: ragged ends come up in small layers alone, which the host has (zk/kernels.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from zkaudit.zk import field
from zkaudit.zk.gpu.machine import WORKERS, Machine, added_up, count, reduce, run
from zkaudit.zk.mle import eq_below

GROUP = 8  # products that one bracket may hold (cuda/sumcheck.cuh)
PAIRS = 4  # of gates a thread, at least


def products_round(m: Machine, tables: Sequence[Any], terms: Sequence[tuple[int, ...]], degree: int, out: Any) -> None:
    tables = [m.put(table) for table in tables]
    groups, lengths, factors = _program(tuple(terms))
    pointers = np.array([m.pointer(table) for table in tables], np.uint64)
    words = [pointers.view(np.int32), np.array([*(x for group in groups for x in group), *lengths, *factors], np.int32)]
    program = m.put(np.concatenate(words))
    begin = m.pointer(program)
    after = begin + 8 * len(tables)
    places = (begin, after, after + 16 * len(groups), after + 16 * len(groups) + 4 * len(lengths))
    sizes = np.array([len(tables), len(groups)], np.int32)  # two int fields
    out[:] = reduce(m, f"products_round_{degree}", degree, count(tables[0]) // 2, *places, sizes)


def fraction_layer(m: Machine, p: Any, q: Any, p_out: Any, q_out: Any) -> None:
    run(m, "fraction_layer", count(p_out), p, q, p_out, q_out)


def fraction_round(m: Machine, p: Any, q: Any, lam: Any, low: Any, high: Any, out: Any) -> None:
    pairs = count(p) // 4
    out[:] = weighed(m, "fraction_round", pairs, low, high, p, q, lam)
    add_neutral(out, lam, low, high, pairs)


def fraction_fold(m: Machine, old: Any, r: Any, neutral: Any, out: Any) -> None:
    run(m, "fraction_fold", count(old) // 4, old, out, r)


def fraction_fold_round(
    m: Machine, p: Any, q: Any, r: Any, lam: Any, low: Any, high: Any, p_out: Any, q_out: Any, out: Any
) -> None:
    pairs = count(p) // 8
    out[:] = weighed(m, "fraction_fold_round", pairs, low, high, p, q, r, p_out, q_out, lam)
    add_neutral(out, lam, low, high, pairs)


def weighed(m: Machine, kernel: str, pairs: int, low: Any, high: Any, *fields: Any, first: int = 0) -> Any:
    """The two sums of a round over `pairs` pairs of gates, weighed as those from `first` on; on the host: (2, 4)."""
    width = len(low)
    workers = width * max(1, min(-(-pairs // (PAIRS * width)), WORKERS // width))
    partial = m.empty((2, workers, 4))
    run(m, kernel, workers, *fields, m.put(low), m.put(high), width.bit_length() - 1, partial, first, pairs, workers)
    return added_up(m, partial)


def add_neutral(out: Any, lam: Any, low: Any, high: Any, pairs: int) -> None:
    """Pairs of neutral gates have the value lambda at 0 each."""
    rest = field.to_ints(lam)[0] * (1 - eq_below(low, high, pairs))
    out[:1] = field.add(out[:1], rest)


@cache
def _program(terms: tuple[tuple[int, ...], ...]) -> tuple[list[tuple[int, int, int, int]], list[int], list[int]]:
    """Groups of terms that begin with the same table, how many factors each has after it, and the factors: as `Program` in
    cuda/cpu/bind_sumcheck.hpp."""
    groups: list[tuple[int, int, int, int]] = []
    lengths: list[int] = []
    factors: list[int] = []
    done = [False] * len(terms)

    def append(term: tuple[int, ...]) -> None:
        lengths.append(len(term) - 1)
        factors.extend(term[1:])

    for t, term in enumerate(terms):
        if done[t]:
            continue
        begin, factor = len(lengths), len(factors)
        append(term)
        for u in range(t + 1, len(terms)):
            if len(lengths) - begin == GROUP:
                break
            if not done[u] and len(term) >= 3 and len(terms[u]) >= 3 and terms[u][0] == term[0]:
                append(terms[u])
                done[u] = True
        groups.append((term[0], begin, len(lengths), factor))
    return groups, lengths, factors
