"""The two builds of the core, one element a lane and eight, write the same bytes; large arrays' memory is used again safely."""

import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.zk import backend, field, kernels, mle

scalar = import_module("zkaudit.zk._field")
needs_two_builds = pytest.mark.skipif(backend.core is scalar, reason="this CPU runs the scalar core only")


def vector(rng, n):
    """n elements, zeros and ones among them."""
    a = field.from_wide_bytes(rng.bytes(64 * n))
    a[rng.random(n) < 0.1] = 0
    a[rng.random(n) < 0.1] = field.from_ints([1])
    return a


def everything(seed, n):
    """The result of every kernel on arrays of about n elements."""
    rng = np.random.default_rng(seed)
    a, b, r = vector(rng, n), vector(rng, n), field.to_ints(vector(rng, 1))[0]
    point = field.to_ints(vector(rng, 6))
    yield from (field.add(a, b), field.sub(a, b), field.mul(a, b), field.mul(a, r), field.neg(a), field.inverse(a))
    yield from (field.dot(a, b), field.total(a), field.powers(r, n), mle.eq_table(point))
    yield from (field.exclusive_cumsum(a[None]), field.scatter_add(a, rng.integers(0, 9, n), 9))
    for dtype in ("uint8", "uint16", "int32", "uint32", "int64"):
        info = np.iinfo(dtype)
        matrix = rng.integers(info.min, info.max, (n, n), dtype, endpoint=True)
        yield from (field.combine(a, matrix), field.segment_dot(a, matrix, 1, n), field.evaluate_small(matrix, a, b))
        yield from (field.dot_small(a, matrix[0]), field.affine(r, [(r, matrix[0]), (-1, matrix[-1])], n))
    yield field.outer_sum(np.stack([a, b]), np.stack([b, a]))
    tables = [vector(rng, 64) for _ in range(4)]
    yield from (
        mle.evaluate(tables[0], point),
        mle.fold(tables[0], r),
        kernels.products_round(tables, [(0, 1, 2), (0, 1, 3), (2,)], 4),
    )
    p, q = vector(rng, 2 * n), vector(rng, 2 * n)
    low, high = mle.eq_table(point[:4]), mle.eq_table(point[4:])
    yield from (kernels.fraction_round(p, q, r, low, high), *kernels.fraction_layer(p, q), *kernels.fraction_fold(p, q, r))


@needs_two_builds
@settings(max_examples=40)
@given(st.integers(0, 1 << 32), st.integers(1, 40))
def test_both_builds_write_the_same_bytes(seed, n):
    wide = list(everything(seed, n))
    with pytest.MonkeyPatch.context() as patch:
        for module in (backend, field, kernels, mle):
            patch.setattr(module, "core", scalar)
        narrow = list(everything(seed, n))
    for one, eight in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(one, eight)


@needs_two_builds
def test_the_environment_can_ask_for_scalar_lanes():
    program = "from zkaudit.zk import backend; print(backend.core.__name__)"
    environment = {**os.environ, "ZKAUDIT_LANES": "scalar"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "zkaudit.zk._field"


def test_loading_the_core_leaves_the_environment_as_it_was():
    program = "import os; before = dict(os.environ); from zkaudit.zk import backend; print(before == dict(os.environ))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_memory_in_use_is_not_handed_out_again():
    n = 1 << 18
    first = field.full(n, 1)
    second = field.add(first, first)
    view = second[5:7]
    del second
    others = [field.add(first, 1 + k) for k in range(4)]
    assert field.to_ints(view) == [2, 2]
    assert [field.to_ints(a[-1:])[0] for a in others] == [2, 3, 4, 5]


def test_memory_of_dropped_arrays_is_used_again():
    addresses = set()
    for _ in range(20):
        addresses.add(backend.empty(1 << 18, 4).ctypes.data)
    assert len(addresses) == 1
