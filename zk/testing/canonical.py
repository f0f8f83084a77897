"""Whether a parser is strict: one encoding for each thing, one error for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from zkaudit.zk.testing.checkers import search
from zkaudit.zk.testing.protocol import CounterExample

SHOWN = 120  # characters of a counter-example's bytes


def assert_canonical(
    parser: Callable[[bytes], Any],
    encoder: Callable[[Any], bytes],
    values: SearchStrategy[Any],
    error: type[Exception] | tuple[type[Exception], ...] = ValueError,
    others: SearchStrategy[bytes] | None = None,
    examples: int | None = None,
) -> None:
    """CounterExample unless `parser` undoes `encoder` and refuses, with `error`, whatever no value is encoded as.

    Tried: encodings of `values`; the same with bytes changed, cut off, appended, inserted, left out or doubled; random bytes;
    and `others`, encodings that somebody might take for good ones.
    """

    def strict(case: tuple[str, Any, bytes]) -> None:
        what, value, data = case
        try:
            parsed = parser(data)
        except error as refused:
            if what == "":
                raise CounterExample(f"an encoding is refused\n  value      {value!r}\n  refused    {refused}") from None
            return
        except Exception as other:
            raise CounterExample(f"{_shown(what, data)}\n  found      {type(other).__name__}: {other}") from other
        again = encoder(parsed)
        if again != data:
            raise CounterExample(
                f"{_shown(what, data)}\n  found      it is read, and is not how that is encoded: {again.hex()[:SHOWN]}"
            )
        if what == "" and encoder(value) != again:
            raise CounterExample(f"{_shown('an encoding', data)}\n  found      it is read as {parsed!r}, not {value!r}")

    search(strict, _cases(encoder, values, others), examples)


def _shown(what: str, data: bytes) -> str:
    return f"the parser is not strict\n  bytes      {data.hex()[:SHOWN]}{'..' if 2 * len(data) > SHOWN else ''} ({what})"


def _cases(
    encoder: Callable[[Any], bytes], values: SearchStrategy[Any], others: SearchStrategy[bytes] | None
) -> SearchStrategy[tuple[str, Any, bytes]]:
    @st.composite
    def case(draw: DrawFn) -> tuple[str, Any, bytes]:
        value = draw(values)
        data = encoder(value)
        ways = ["", "changed", "cut", "appended", "inserted", "left out", "doubled", "random"]
        if others is not None:
            ways.append("other")
        how = draw(st.sampled_from(ways))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        if how == "":
            return "", value, data
        if how == "other" and others is not None:
            return "made up", value, draw(others)
        if how == "random":
            return "random", value, draw(st.binary(max_size=2 * len(data)))
        if how == "changed" and data:
            return f"byte {at} changed", value, data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
        if how == "cut":
            return f"cut off after {at} bytes", value, data[:at]
        if how == "left out" and data:
            return f"byte {at} left out", value, data[:at] + data[at + 1 :]
        if how == "doubled" and data:
            return f"byte {at} doubled", value, data[: at + 1] + data[at:]
        extra = draw(st.binary(min_size=1, max_size=8))
        if how == "inserted":
            return f"{len(extra)} bytes inserted at {at}", value, data[:at] + extra + data[at:]
        return f"{len(extra)} bytes appended", value, data + extra

    return case()
