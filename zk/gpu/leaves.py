"""Calls on the lowest levels of a lookup's fraction tree (cuda/cpu/bind_leaves.hpp), for a machine.

Pairs of integers are fractions in memory here (zk/leaves.py), so that no run has second ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from zkaudit.zk import field
from zkaudit.zk.backend import Array
from zkaudit.zk.backend import core as host
from zkaudit.zk.field import MODULUS
from zkaudit.zk.gpu.machine import Machine, added_up, run
from zkaudit.zk.gpu.rounds import add_neutral, weighed
from zkaudit.zk.mle import eq_below

BLOCK = 64  # items a thread, of a round or of what is written
P_WORDS, Q_WORDS = (0, 1, 3), (1, 2, 5)  # symmetric sums by level (cuda/leaves.cuh)


def leaf_round(
    m: Machine, ends: Sequence[int], values: Sequence[Any], seconds: Sequence[Any], gammas: Array, betas: Array,
    p: Sequence[Any], q: Sequence[Any], level: int,
    chi: Any, lam: Any, low: Any, high: Any, out: Any,
) -> None:  # fmt: skip
    rounds = len(chi).bit_length() - 1
    log = level + 2 + rounds
    batch = field.to_ints(lam)[0]
    unit = level == 0
    if unit and batch == 0:  # has no inverse, and never comes up
        fetched = ([m.get(array) for array in arrays] for arrays in (values, p, q))
        integers, numerators, denominators = fetched
        return host.leaf_round(
            ends, integers, seconds, gammas, betas, numerators, denominators, level, chi, lam, low, high, out
        )  # fmt: skip
    inverse = pow(batch, -1, MODULUS) if unit else 0
    shift = field.from_ints([inverse])
    runs = _runs(m, ends, values, gammas, p, q)
    folds = _prepared(m, runs, len(ends), level, chi, shift)
    pairs, width = ends[-1] >> log, len(low)
    block = min(BLOCK, width)
    workers = -(-pairs // block)
    partial = m.empty((2, workers, 4))
    equality = (m.put(low), m.put(high), width.bit_length() - 1)
    fields = (runs, len(ends), folds, *equality, partial, pairs, block, workers, lam, shift)
    run(m, f"leaf_round_{level}_{rounds}", workers, *fields)
    sums = added_up(m, partial)
    if unit:
        sums = field.mul(sums, batch)
    shifts = 0
    for begin, end, integers, numerators, denominators in zip([0, *ends[:-1]], ends, values, p, q, strict=True):
        first, last = begin >> log, end >> log
        if len(integers) == 0:
            sums = field.add(
                sums, weighed(m, "fraction_round", last - first, low, high, numerators, denominators, lam, first=first)
            )
        elif unit:
            shifts += inverse * (eq_below(low, high, last) - eq_below(low, high, first))
    out[:] = sums
    out[:1] = field.sub(out[:1], shifts)
    add_neutral(out, lam, low, high, pairs)


def leaf_write(
    m: Machine, ends: Sequence[int], values: Sequence[Any], seconds: Sequence[Any], gammas: Array, betas: Array,
    p: Sequence[Any], q: Sequence[Any], level: int,
    chi: Any, p_out: Any, q_out: Any,
) -> None:  # fmt: skip
    rounds = len(chi).bit_length() - 1
    runs = _runs(m, ends, values, gammas, p, q)
    folds = _prepared(m, runs, len(ends), level, chi, field.zeros(1))
    gates = ends[-1] >> (level + 1 + rounds)
    run(m, f"leaf_write_{level}_{rounds}", -(-gates // BLOCK), runs, len(ends), folds, p_out, q_out, gates, BLOCK)


def leaf_layer(
    m: Machine, ends: Sequence[int], values: Sequence[Any], seconds: Sequence[Any], gammas: Array, betas: Array,
    p: Sequence[Any], q: Sequence[Any], level: int,
    p_out: Any, q_out: Any,
) -> None:  # fmt: skip
    runs = _runs(m, ends, values, gammas, p, q)
    folds = _prepared(m, runs, len(ends), 2, field.full(1, 1), field.zeros(1))
    fractions = ends[-1] >> level
    block = BLOCK // 8
    run(m, f"leaf_layer_{level}", -(-fractions // block), runs, len(ends), folds, p_out, q_out, fractions, block)


def _runs(m: Machine, ends: Sequence[int], values: Sequence[Any], gammas: Array, p: Sequence[Any], q: Sequence[Any]) -> Any:
    """The structs `Run` (cuda/gpu/leaf_blocks.cuh), in the machine's memory."""
    structs = []
    for end, integers, gamma, numerators, denominators in zip(ends, values, gammas, p, q, strict=True):
        places = [m.pointer(array) if len(array) else 0 for array in (integers, numerators, denominators)]
        structs.append(struct.pack("<qQQQ", end, *places) + gamma.tobytes())
    return m.put_bytes(b"".join(structs))


def _prepared(m: Machine, runs: Any, number: int, level: int, chi: Any, shift: Array) -> Any:
    """The constants of each run, `LeafFold`."""
    rounds = len(chi).bit_length() - 1
    elements = 2 + len(chi) * (P_WORDS[level] + 1 + Q_WORDS[level])
    folds = m.empty((number * elements, 4))
    run(m, f"prepare_leaves_{level}_{rounds}", number, runs, m.put(chi), folds, shift)
    return folds
