"""JSON that nests too deeply is refused, whatever the interpreter's recursion limit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.steps import parse_header
from zkaudit.zk import strict_json

VALUES = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@pytest.fixture
def no_limit() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1 << 30)
    yield
    sys.setrecursionlimit(before)


@given(VALUES)
def test_what_is_not_deep_is_read_as_ever(value: object) -> None:
    assert strict_json.loads(json.dumps(value).encode()) == value


def test_many_brackets_side_by_side_are_not_deep() -> None:
    value = [[1]] * 10000
    assert strict_json.loads(json.dumps(value).encode()) == value


@pytest.mark.usefixtures("no_limit")
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"b":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(ValueError, match="deep"):
        strict_json.loads(opening * 100000)
    with pytest.raises(TrainingError, match="deep"):
        parse_header(opening * 100000)
