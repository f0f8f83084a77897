"""The statement: canonical, bounded, and every field of it bound to proof and successor."""

import dataclasses
import sys
from dataclasses import replace
from hashlib import shake_256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.zk.block import limb_bits
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import MODULUS
from zkaudit.zk.layout import Layout, exponential_table
from zkaudit.zk.methods import FP8
from zkaudit.zk.sampling import batch_rows
from zkaudit.zk.statement import (
    LONGEST_HEADER,
    MOST_BRACKETS,
    Statement,
    check,
    check_succession,
    derive_batch_seed,
    end_bound,
    largest_integer,
    parse,
)
from zkaudit.zk.testing.segments import statement_of


def reparsed(statement: Statement, header: bytes | None = None) -> Statement:
    return parse(header or statement.header(), statement.data, statement.start, statement.end)


def test_a_statement_survives_its_encoding() -> None:
    statement = replace(statement_of(), data=b"d", start=b"s", end=b"e")
    assert reparsed(statement) == statement


@given(st.binary(max_size=200))
def test_any_other_header_is_refused(header: bytes) -> None:
    with pytest.raises(BadInput):
        parse(header, b"", b"", b"")


def test_the_longest_header_is_read_and_a_longer_one_is_not() -> None:
    longest = replace(
        statement_of(), widths=(1 << 16,) * 65, rates=(1 << 48,) * (1 << 20), batch=1 << 20, rows=1 << 22, first_step=1 << 40,
        seed="\U0001f600" * 1024, segment=1 << 32, start_bound=1 << 240, previous="00" * 32,
    )  # fmt: skip
    assert LONGEST_HEADER - (1 << 14) < len(longest.header()) <= LONGEST_HEADER
    with pytest.raises(BadInput, match="header has"):
        parse(b"[" * (LONGEST_HEADER + 1), b"", b"", b"")


def test_a_header_that_exponents_make_too_long_is_refused_before_it_is_proved() -> None:
    hidden = 62
    activations, gradients = (((exponent,) * (1 << 12),) * hidden for exponent in (-1, -6))
    statement = replace(
        statement_of(), widths=(4, *(1 << 16,) * hidden, 3), rates=(1 << 48,) * (1 << 20),
        fp8=FP8(activations, gradients, "e4m3"),
    )  # fmt: skip
    with pytest.raises(BadInput, match=f"more than {LONGEST_HEADER} bytes"):
        check(statement)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_refused_whatever_the_recursion_limit(opening: str) -> None:
    """py_ecc raises the limit beyond what the stack can hold."""
    closing = "]" if opening == "[" else "}"
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1 << 30)
    try:
        for depth in (MOST_BRACKETS, 200_000):
            header = statement_of().header()[:-1].decode() + f',"batch":{opening * depth}1{closing * depth}' + "}"
            with pytest.raises(BadInput, match="nests too deeply"):
                parse(header.encode(), b"", b"", b"")
    finally:
        sys.setrecursionlimit(before)


def test_a_seed_of_brackets_is_no_nesting() -> None:
    statement = replace(statement_of(), seed="[{" * 512)
    assert parse(statement.header(), b"", b"", b"") == statement


def test_a_refusal_quotes_no_more_than_a_line() -> None:
    for field in ("loss", "batch", "seed", "widths", "more"):
        header = statement_of().header()[:-1] + b',"' + field.encode() + b'":"' + b"x" * 100_000 + b'"}'
        with pytest.raises(BadInput) as refusal:
            parse(header, b"", b"", b"")
        assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.replace(b'"batch":3', b'"batch": 3'),
        lambda h: h.replace(b'"batch":3', b'"batch":3.0'),
        lambda h: h.replace(b'"batch":3', b'"batch":true'),
        lambda h: h.replace(b'"batch":3', b'"batch":3,"batch":3'),
        lambda h: h.replace(b'"batch":3', b'"batch":-3'),
        lambda h: h.replace(b'"batch":3', b'"batch":"3"'),
        lambda h: h.replace(b'"batch":3', b'"batch":1e999'),
        lambda h: h.replace(b'"batch":3,', b""),
        lambda h: h.replace(b'"version":1', b'"version":2'),
        lambda h: h.replace(b'"square"', b'"other"').replace(b'"cross_entropy"', b'"other"'),
        lambda h: h + b" ",
        lambda h: h[:-1],
        lambda h: h.replace(b'"seed":"test"', b'"seed":"\\u0074est"'),
        lambda h: h.replace(b'"seed":"test"', b'"seed":"\\ud800"'),
        lambda h: h[:-1] + b',"zz":1}',
    ],
)
def test_a_header_that_is_not_canonical_is_refused(change: Any) -> None:
    statement = statement_of()
    header = change(statement.header())
    assert header != statement.header()
    with pytest.raises(BadInput):
        reparsed(statement, header)


OUT_OF_RANGE: dict[str, Any] = {
    "widths": (5, 0, 3), "loss": "hinge", "batch": 0, "first_step": 1, "rates": (), "rows": 2, "activation_bits": 1,
    "gradient_bits": 16, "weight_bits": 49, "seed": "x" * 2000, "batch_seed": "5A" * 32, "columns": 40, "segment": -1,
    "start_bound": 1, "previous": "00",
}  # fmt: skip


@pytest.mark.parametrize("field", OUT_OF_RANGE)
def test_a_field_out_of_range_is_refused(field: str) -> None:
    with pytest.raises(BadInput):
        check(replace(statement_of(), **{field: OUT_OF_RANGE[field]}))


def test_every_field_is_named_in_the_digest() -> None:
    statement = statement_of()
    for field in dataclasses.fields(statement):
        value = getattr(statement, field.name)
        if value is None:
            continue  # methods' fields, tests/test_methods_in_statements.py
        changed = {int: lambda v: v + 1, str: lambda v: v + "0", bytes: lambda v: v + b"0", tuple: lambda v: (*v, 1)}
        other = replace(statement, **{field.name: changed[type(value)](value)})
        assert other.digest() != statement.digest(), field.name


def test_a_statement_that_could_wrap_around_is_refused() -> None:
    statement = replace(statement_of(), segment=1, start_bound=1 << 199, previous="00" * 32)
    check(statement)
    with pytest.raises(BadInput, match="wrap around"):
        check(replace(statement, start_bound=1 << 239))
    assert largest_integer(statement) < MODULUS >> 2


def test_the_weight_bound_grows_by_the_largest_update() -> None:
    statement = statement_of(loss="square", bits=(8, 12, 32))
    largest = 2**16 * (2**15 + 2**16) * 2**4
    assert end_bound(statement) >= statement.start_bound + sum(statement.rates) * statement.batch * largest


def test_succession_checks_every_field() -> None:
    before = replace(statement_of(), data=b"d", start=b"s", end=b"e")
    after = replace(
        before,
        segment=1,
        first_step=before.steps,
        start=b"e",
        end=b"f",
        start_bound=end_bound(before),
        previous=before.digest(),
    )
    check_succession(before, after)
    free = {"rates", "end"}
    for field in dataclasses.fields(after):
        if field.name in free:
            continue
        value = getattr(after, field.name)
        if value is None:
            continue  # methods' fields, tests/test_methods_in_statements.py
        changed = {int: lambda v: v + 1, str: lambda v: v[::-1] + "1", bytes: lambda v: v + b"0", tuple: lambda v: (*v, 1)}
        with pytest.raises(BadInput, match=field.name):
            check_succession(before, replace(after, **{field.name: changed[type(value)](value)}))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 30), st.integers(1, 20), st.binary(min_size=32, max_size=32))
def test_batches_are_slices_of_each_epochs_permutation(rows: int, batch: int, first: int, steps: int, seed: bytes) -> None:
    batch = min(batch, rows)
    drawn = batch_rows(seed, rows, batch, first, steps)
    per_epoch = rows // batch
    for i, chosen in enumerate(drawn):
        epoch, place = divmod(first + i, per_epoch)
        stream = shake_256(b"zkaudit batches" + seed + epoch.to_bytes(8, "little")).digest(8 * rows)
        words = [int.from_bytes(stream[8 * k : 8 * k + 8], "little") for k in range(rows)]
        order = sorted(range(rows), key=lambda k: (words[k], k))
        assert chosen.tolist() == order[place * batch : (place + 1) * batch]


def test_batch_seed_depends_on_seed_data_and_start_weights() -> None:
    statement = replace(statement_of(), data=b"d", start=b"s")
    seeds = {derive_batch_seed(replace(statement, **change)) for change in ({}, {"seed": "t"}, {"data": b"e"}, {"start": b"t"})}
    assert len(seeds) == 4


@pytest.mark.parametrize("bits", range(2, 15))
def test_exponential_table_is_exact(bits: int) -> None:
    from decimal import Decimal, getcontext

    getcontext().prec = 40
    table, step = exponential_table(bits), (Decimal(-1) / (1 << bits)).exp()
    value = Decimal(1 << 16)
    for d in range(1 << 16):
        assert table[d] == int(value), d
        if value < Decimal("1e-6"):
            assert not table[d:].any()
            break
        value *= step


@given(st.integers(1, 100))
def test_limbs_cover_their_width(width: int) -> None:
    assert sum(limb_bits(width)) == width
    assert all(1 <= bits <= 16 for bits in limb_bits(width))


def test_every_committed_number_is_looked_up_or_constrained_as_a_bit() -> None:
    """No witness block escapes: a block is in a lookup, is a sign or one-hot bit, or is the sum of the exponentials."""
    for loss in ("cross_entropy", "square"):
        layout = Layout(statement_of(loss=loss))
        looked_up = {block.name for lookup in layout.lookups for block in lookup.blocks}
        free = {block.name for block in [*layout.data, *layout.witness]} - looked_up
        assert free == ({"b0", "b1", "h", "s"} if loss == "cross_entropy" else {"b0", "b1"})
