"""The lowest levels of the fraction tree, made from integers, are those that its formulas give for the written-out leaves."""

import numpy as np
import pytest

from zkaudit.zk import field, kernels, mle
from zkaudit.zk.field import MODULUS
from zkaudit.zk.leaves import KEPT, WHOLE, WRITTEN, Leaves, Part, count_words

rng = np.random.default_rng(11)


def challenge():
    return int.from_bytes(rng.bytes(40), "little") % MODULUS


def words(size, high=1 << 16, kind=np.uint16):
    values = rng.integers(0, high, size).astype(kind)
    values[: min(size, 4)] = np.array([high - 1, high - 1, 0, high - 1])[:size]
    return values


def only(kind):
    """One part of mixed_parts, by itself."""
    part = mixed_parts()[kind]
    return [Part(0, part.gamma, part.columns, part.counts)]


def mixed_parts():
    """Runs of integers of both widths, wide integers, pairs, a table with counts, and parts shorter than a run."""
    kinds = [
        (4096, lambda n: ([(1, words(n))], None)),
        (2048, lambda n: ([(1, words(n, 1 << 20, np.int32)), (challenge(), words(n))], None)),
        (2048, lambda n: ([(1, words(n)), (challenge(), words(n))], None)),
        (1024, lambda n: ([(1, words(n, 256, np.uint8))], None)),
        (1024, lambda n: ([(1, np.arange(n, dtype=np.int32))], rng.integers(0, 1 << 40, n))),
        (128, lambda n: ([(1, words(n))], None)),
        (64, lambda n: ([(1, words(n)), (challenge(), words(n, 256, np.uint8))], None)),
        (64, lambda n: ([(1, words(n))], None)),
        (16, lambda n: ([(1, words(n))], None)),
        (2, lambda n: ([(1, words(n))], None)),
        (1, lambda n: ([(1, words(n))], None)),
    ]
    parts, offset = [], 0
    for size, make in kinds:
        columns, counts = make(size)
        parts.append(Part(offset, challenge(), columns, counts))
        offset += size
    return parts


def written(parts):
    """Numerators and denominators of all leaves, up to a multiple of WHOLE."""
    p, q = [], []
    for part in parts:
        columns = [(scale, column.astype(object)) for scale, column in part.columns]
        q += [(part.gamma - sum(scale * int(column[i]) for scale, column in columns)) % MODULUS for i in range(part.size)]
        p += [1] * part.size if part.counts is None else [-int(count) % MODULUS for count in part.counts]
    tail = -len(p) % WHOLE
    return field.from_ints(p + [0] * tail), field.from_ints(q + [1] * tail)


@pytest.mark.parametrize("parts", [mixed_parts(), only(0), only(2), only(4)])
def test_levels_rounds_and_folds_are_those_of_the_written_leaves(parts, threads):
    leaves, (p, q) = Leaves.of(parts), written(parts)
    for level in range(WRITTEN):
        at, now = (p, q), leaves
        variables = (len(p) // 2 - 1).bit_length()
        point = [challenge() for _ in range(variables)]
        for i in range(WRITTEN - level):
            batch = challenge()
            rest = point[i + 1 :]
            low, high = mle.eq_table(rest[: len(rest) // 2]), mle.eq_table(rest[len(rest) // 2 :])
            assert kernels.fraction_round(*at, batch, low, high) == now.round(batch, rest)
            assert kernels.fraction_round(*at, 0, low, high) == now.round(0, rest)
            r = challenge()
            at, now = kernels.fraction_fold(*at, r), now.fold(r)
        assert [x.tobytes() for x in at] == [x.tobytes() for x in now]
        p, q = kernels.fraction_layer(p, q)
        leaves = leaves.above()
    for level in (WRITTEN, KEPT):
        assert [x.tobytes() for x in (p, q)] == [x.tobytes() for x in Leaves.of(parts).written(level)]
        p, q = kernels.fraction_layer(p, q)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("size", [1 << 4, 1 << 16])
def test_counting_takes_values_inside_the_table_only(kind, size, threads):
    info = np.iinfo(kind)
    values = rng.integers(max(-5, info.min), min(1 << 17, info.max), 40000, endpoint=True).astype(kind)
    inside = [int(x) for x in values if 0 <= x < size]
    assert list(2 * np.bincount(inside, minlength=size)) == list(count_words([values, values], size))
