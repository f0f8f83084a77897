"""Every call on a GPU gives what the host gives, byte for byte: on a real one, and on the twin, the kernels run by the CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_gathered import LEFT, RIGHTS, messages, number, vector, weight
from test_gathered import tables as small_tables
from test_leaves import mixed_parts, only
from zkaudit_process import Proved

from zkaudit.zk import backend, curve, field, gpu, kernels, lookup, mle, proof_file, prover, segments
from zkaudit.zk.backend import HOST, Place, contiguous
from zkaudit.zk.channel import Blinder
from zkaudit.zk.errors import BadInput
from zkaudit.zk.gathered import LowFolded, WeightedBlocks, WeightedProduct, linear_sums, product_sum
from zkaudit.zk.layout import Layout
from zkaudit.zk.leaves import KEPT, WRITTEN, Leaves, count_words
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of
from zkaudit.zk.verifier import verify_files

rng = np.random.default_rng(17)
KINDS = [np.dtype(kind) for kind in ("uint8", "uint16", "int32", "uint32", "int64")]


def same(host: Any, device: Any, place: Place) -> bool:
    assert type(device) is place.kind  # type: ignore[attr-defined]
    return np.array_equal(host, place.get(device))


def extremes(kind: np.dtype[Any], *shape: int) -> Any:
    """Integers over the whole range, both ends among them."""
    info = np.iinfo(kind)
    values = rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True)
    values.flat[:3] = [info.min, info.max, 0]
    return values


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 3000])
def test_vectors(place: Place, n: int) -> None:
    a, b = vector(n), vector(n)
    a[n // 2] = 0
    on, beside = place.put(a), place.put(b)
    for call in (field.add, field.sub, field.mul):
        assert same(call(a, b), call(on, beside), place)
        assert same(call(a, b), call(on, b), place)
        assert same(call(a, b), call(a, beside), place)
        assert same(call(a, -7), call(on, -7), place)
    for single in (field.neg, field.inverse):
        assert same(single(a), single(on), place)
    assert field.dot(a, b) == field.dot(on, b)
    assert field.total(a) == field.total(on)
    assert field.to_ints(a) == field.to_ints(on)


@pytest.mark.parametrize("n", [1, 700, 70000])
def test_sums_of_any_length(place: Place, n: int) -> None:
    a = vector(n)
    assert field.total(a) == field.total(place.put(a))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 8), (130, 192), (700, 3)])
def test_small_integers(place: Place, kind: np.dtype[Any], rows: int, columns: int) -> None:
    matrix = extremes(kind, max(rows, 3), columns)[:rows]
    on, high, low = place.put(matrix), vector(rows), vector(columns)
    assert same(field.combine(high, matrix), field.combine(high, on), place)
    for pieces in (1, columns):
        length = columns // pieces
        assert same(field.segment_dot(low, matrix, pieces, length), field.segment_dot(low, on, pieces, length), place)
    assert field.evaluate_small(matrix, high, low) == field.evaluate_small(on, high, low)
    assert field.dot_small(low, matrix[0]) == field.dot_small(low, contiguous(on[0]))


def test_combinations_of_several_matrices(place: Place) -> None:
    matrices = [extremes(kind, rows, 40) for kind, rows in zip(KINDS, (3, 40, 700, 5, 33), strict=True)]
    parts = [(vector(len(matrix)), matrix) for matrix in matrices]
    expected = field.zeros(40)
    for weights, matrix in parts:
        expected = field.add(expected, field.combine(weights, matrix))
    placed = [(weights, place.put(matrix)) for weights, matrix in parts]
    assert np.array_equal(expected, field.combine_all(parts, 40))
    assert same(expected, field.combine_all(placed, 40), place)
    assert np.array_equal(field.zeros(40), field.combine_all([], 40))


@pytest.mark.parametrize("terms", [0, 1, 4, 5, 9])
def test_affine_forms_of_all_kinds(place: Place, terms: int) -> None:
    forms = [(number() if k % 2 else -3, extremes(KINDS[k % 5], 50)) for k in range(terms)]
    if terms == 0:
        assert np.array_equal(field.affine(5, [], 50), field.full(50, 5))
        return
    placed = [(scale, place.put(small)) for scale, small in forms]
    assert same(field.affine(-5, forms, 50), field.affine(-5, placed, 50), place)


@pytest.mark.parametrize("kind", KINDS[2:])
@pytest.mark.parametrize(("call", "out"), [("words8", np.uint8), ("words16", np.uint16)])
def test_words(place: Place, kind: np.dtype[Any], call: str, out: Any) -> None:
    values = extremes(kind, 70, 130) // 4
    for offset, shift in ((0, 0), (1 << 15, 0), (0, 16), (0, 63)):
        host, device = np.zeros((256, 128), out), place.zeros((256, 128), out)
        getattr(HOST.core, call)(values, offset, shift, host)
        getattr(place.core, call)(place.put(values), offset, shift, device)
        assert same(host, device, place)


@pytest.mark.parametrize("high", [1, 3000, 1 << 16])
def test_counting(place: Place, high: int) -> None:
    values = np.sort(rng.integers(0, high, 5000)).astype(np.uint16)
    values[::7] = rng.integers(0, high, len(values[::7]))
    narrow = values.astype(np.uint8)
    for size in (1 << 16, 1 << 4):
        expected = count_words([values, narrow, values], size)
        assert np.array_equal(expected, count_words([place.put(values), place.put(narrow), values], size))


def test_tables(place: Place) -> None:
    highs, lows, table = vector(30).reshape(3, 10, 4), vector(60).reshape(3, 20, 4), vector(256)
    highs[1, 3:6] = 0
    point = [number() for _ in range(8)]
    assert same(field.outer_sum(highs, lows), field.outer_sum(highs, lows, place), place)
    assert same(field.exclusive_cumsum(lows), field.exclusive_cumsum(place.put(lows)), place)
    assert same(mle.fold(table, point[0]), mle.fold(place.put(table), point[0]), place)
    assert mle.evaluate(table, point) == mle.evaluate(place.put(table), point)


PROGRAMS = [
    (1, [(2,), (0,)]),
    (2, [(0, 1), (2, 3), (4,)]),
    (3, [(0, 1, 2), (0, 3, 4), (5,), (1, 1), (0, 5, 5)]),
    (4, [(0, 1, 2, 3), (1, 1), (0, 2, 2)]),
    (3, [(0, k % 6, 5) for k in range(20)]),
]


@pytest.mark.parametrize(("degree", "terms"), PROGRAMS)
@pytest.mark.parametrize("length", [2, 256, 1024])
def test_rounds_over_products(place: Place, degree: int, terms: list[tuple[int, ...]], length: int) -> None:
    tables = [vector(length) for _ in range(6)]
    mixed = [place.put(table) if k % 2 else table for k, table in enumerate(tables)]
    assert kernels.products_round(tables, terms, degree) == kernels.products_round(mixed, terms, degree)


@pytest.mark.parametrize("children", [8, 24, 400, 512])
@pytest.mark.parametrize("variables", [8, 9])
def test_the_fraction_tree(place: Place, children: int, variables: int) -> None:
    p, q = vector(children), vector(children)
    on_p, on_q = place.put(p), place.put(q)
    for host, device in zip(kernels.fraction_layer(p, q), kernels.fraction_layer(on_p, on_q), strict=True):
        assert same(host, device, place)
    for host, device in zip(kernels.fraction_fold(p, q, 5), kernels.fraction_fold(on_p, on_q, 5), strict=True):
        assert same(host, device, place)
    low, high = mle.eq_halves([number() for _ in range(variables)])
    assert kernels.fraction_round(p, q, 99, low, high) == kernels.fraction_round(on_p, on_q, 99, low, high)
    host_result, result = (kernels.fraction_fold_round(*given, 7, 99, low, high) for given in ((p, q), (on_p, on_q)))
    assert host_result[2] == result[2]
    assert all(same(host, device, place) for host, device in zip(host_result[:2], result[:2], strict=True))


def test_a_ragged_layer_is_worked_on_by_the_host(place: Place) -> None:
    p, q = vector(6), vector(6)
    low, high = mle.eq_halves([number() for _ in range(2)])
    assert kernels.fraction_round(p, q, 9, low, high) == kernels.fraction_round(place.put(p), place.put(q), 9, low, high)
    for host, found in zip(kernels.fraction_fold(p, q, 3), kernels.fraction_fold(place.put(p), place.put(q), 3), strict=True):
        assert np.array_equal(host, found)


@pytest.mark.parametrize("parts", [mixed_parts(), only(0), only(3)])
def test_leaves(place: Place, parts: list[Any]) -> None:
    placed = [dataclasses.replace(p, columns=[(scale, place.put(column)) for scale, column in p.columns]) for p in parts]
    host, device = Leaves.of(parts), Leaves.of(placed)
    for level in range(WRITTEN):
        at, now = host, device
        point = [number() for _ in range((host.length >> (level + 1)).bit_length() - 1)]
        for i in range(WRITTEN - level):
            for batch in (number(), 0):
                assert at.round(batch, point[i + 1 :]) == now.round(batch, point[i + 1 :])
            r = number()
            at, now = at.fold(r), now.fold(r)  # type: ignore[assignment]
        for written, found in zip(at, now, strict=True):  # type: ignore[call-overload]
            assert same(written, found, place)
        if level + 1 < WRITTEN:
            host, device = host.above(), device.above()
    for level in (WRITTEN, KEPT):
        for written, found in zip(Leaves.of(parts).written(level), Leaves.of(placed).written(level), strict=True):
            assert same(written, found, place)


@pytest.mark.parametrize(("highs", "lows"), [(32, 512), (128, 512), (4, 8)])
def test_sums_of_the_gather(place: Place, highs: int, lows: int) -> None:
    held = small_tables(highs, lows)
    placed = {name: place.put(table) for name, table in held.items()}
    parts = [WeightedProduct(form, [weight(highs, lows) for _ in range(2)]) for form in RIGHTS]
    linear = [WeightedBlocks(weight(highs, lows), {"p": number(), "wide": number(), "bit": 1}) for _ in range(3)]
    sent = []
    challenges = [number() for _ in range((highs * lows).bit_length())]
    for tables in (held, placed):
        sums = [product_sum(LEFT, parts, (highs, lows), tables), *linear_sums(linear, tables, LowFolded(tables))]
        sent.append(messages(sums, challenges))
    assert sent[0] == sent[1]


def test_many_rows_of_points(place: Place) -> None:
    generators = curve.generators(b"test", 300)
    generators[7], generators[8] = 0, generators[9]  # the identity, and a point twice
    generators[10:11] = curve.neg(generators[9:10])
    matrices = [extremes(kind, 4, columns) for kind, columns in zip(KINDS, (300, 17, 1, 299, 40), strict=True)]
    matrices += [rng.integers(-50, 50, (5, 300)), np.zeros((2, 300), np.uint16), np.ones((1, 13), np.uint8)]
    matrices[0][1] //= 100
    expected = curve.msm_rows(matrices, generators)
    assert np.array_equal(expected, curve.msm_rows([place.put(matrix) for matrix in matrices], generators))


@pytest.mark.parametrize("n", [1, 2, 40, 1000])
def test_sums_of_points(place: Place, n: int) -> None:
    points, scalars = curve.generators(b"test", n), vector(n)
    scalars[n // 2], points[n // 3] = 0, 0
    scalars[: n // 4] = scalars[:1]  # one bucket has many
    scalars[-1:] = field.from_ints([-1])
    assert np.array_equal(curve.msm(scalars, points), curve.msm(scalars, place.put(points)))
    same_point = np.repeat(points[:1], n, axis=0)
    assert np.array_equal(curve.msm(scalars, same_point), curve.msm(scalars, place.put(same_point)))


@pytest.mark.parametrize("x", [0, 1, 7, 8, 9, field.MODULUS - 1, 1 << 254, number()])
def test_folding_points(place: Place, x: int) -> None:
    low, high = curve.generators(b"low", 5), curve.generators(b"high", 5)
    high[1], low[2], high[3] = 0, 0, low[3]
    high[4:] = curve.neg(low[4:])
    assert same(curve.fold(low, high, x), curve.fold(place.put(low), place.put(high), x), place)


def test_more_tables_of_points_than_memory_holds_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from zkaudit.zk.gpu import rows

    monkeypatch.setattr(rows, "TABLE_BYTES", 1)
    generators, matrix = curve.generators(b"test", 100), extremes(KINDS[1], 6, 100)
    assert np.array_equal(curve.msm_rows([matrix], generators), curve.msm_rows([place.put(matrix)], generators))


def test_fewer_tables_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    place = gpu.place("twin")
    generators, matrix = curve.generators(b"test", 200), extremes(KINDS[1], 40, 200)
    expected, asked = curve.msm_rows([matrix], generators), []
    empty = place.machine.empty  # type: ignore[attr-defined]
    monkeypatch.setattr(place.machine, "largest", 1 << 18)  # type: ignore[attr-defined]
    monkeypatch.setattr(place.machine, "empty", lambda *given: asked.append(given) or empty(*given))  # type: ignore[attr-defined]
    assert np.array_equal(expected, curve.msm_rows([place.put(matrix)], generators))
    sizes = [np.prod(shape) * 8 for shape, *_ in asked]
    assert max(sizes) > 1 << 18  # was refused


def test_segments_are_as_long_as_the_memory_there_allows(
    chain: Proved, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = gpu.place("twin")
    [one] = prover.prove_run(chain.run, tmp_path / "one", device="twin")
    layout = Layout(proof_file.read(one).statement)
    monkeypatch.setattr(place.machine, "memory", (1 << 30) + segments.table_bytes(layout) - 1)  # type: ignore[attr-defined]
    files = prover.prove_run(chain.run, tmp_path / "several", device="twin")
    assert len(files) > 1
    assert verify_files(files).valid


def test_a_segment_that_does_not_fit_is_one_sentence(smallest: Proved, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu.place("twin").machine, "largest", 1 << 10)  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="a segment of 1 steps does not fit the memory of twin of a GPU: use --device cpu"):
        prover.prove_run(smallest.run, tmp_path / "proof", device="twin")


@pytest.mark.parametrize("loss", ["cross_entropy", "square"])
def test_the_proof_is_the_host_s(place: Place, loss: str) -> None:
    statement = statement_of(loss=loss)
    data = example(statement)
    host = hidden_proof(data, statement, Blinder(b"one seed"))
    device = hidden_proof(data, statement, Blinder(b"one seed"), place=place)
    assert host == device


def test_the_proof_is_the_host_s_where_tables_are_wide(place: Place) -> None:
    statement = statement_of(widths=(40, 33, 33, 10), batch=32, steps=9, rows=64)
    data = example(statement, scale=0.1)
    host = hidden_proof(data, statement, Blinder(b"one seed"))
    device = hidden_proof(data, statement, Blinder(b"one seed"), place=place)
    assert host == device


def test_scarce_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    place = gpu.place("twin")
    monkeypatch.setattr(backend, "_SHORT", 0)
    moved = []
    aside = lookup.set_aside
    monkeypatch.setattr(place.machine, "scarce", True)  # type: ignore[attr-defined]
    monkeypatch.setattr(lookup, "set_aside", lambda array: moved.append(type(aside(array))) or aside(array))
    statement = statement_of()
    data = example(statement)
    assert hidden_proof(data, statement, Blinder(b"one seed")) == hidden_proof(
        data, statement, Blinder(b"one seed"), place=place
    )
    assert np.ndarray in moved
