"""Casts to 8 bits as lookups: which blocks hold the casts of which, and the tables that say what is cast to what.

A cast is one lookup of the pair (x, cast(x)) in a table of 2^16 rows that everybody computes; that is the range check of x as
well. A block has one exponent, or one for each 16 of its units, which then have a table of their own. A table serves all blocks
and groups of its kind and exponent. Kinds: "p" and "ga", FP8's activations and gradients (fp8.py); "first" and "second", stored
moments (stored_moments.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk.backend import place_of
from zkaudit.zk.block import Block, Lookup
from zkaudit.zk.circuit import expanded, fp8
from zkaudit.zk.methods import GROUP

if TYPE_CHECKING:
    from zkaudit.zk.statement import Statement

KINDS = ("p", "ga", "first", "second")
FIRST_TABLE = 65  # their numbers are above all others'


@dataclass(frozen=True)
class Cast:
    """Block `result` holds the casts of block `argument`, with one exponent or one for each GROUP of their units."""

    kind: str
    argument: str
    result: str
    exponents: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Units from `begin` to before `end`, whose casts are in table number `table`; padding units belong to the last group."""

    begin: int
    end: int
    table: int


def of_layer(s: Statement, kind: str, j: int) -> Cast:
    """That of layer j's activations "p", gradients "ga", or moments "first" or "second", where the statement has it."""
    if kind in fp8.FIELDS:
        assert s.fp8 is not None
        return Cast(kind, f"{kind}{j}", fp8.cast_name(kind, j), s.fp8.of_group(fp8.FIELDS[kind], j))
    assert s.galore is not None
    argument = f"first{j}.exact" if kind == "first" else f"root{j}"
    return Cast(kind, argument, f"{kind}{j}", s.galore.of_group(f"{kind}_exponents", j))


def of_moments(s: Statement) -> list[Cast]:
    """Both of each layer; none where moments are not stored in 8 bits."""
    if s.galore is None or not s.galore.is_stored:
        return []
    return [of_layer(s, kind, j) for j in range(s.layers) for kind in ("first", "second")]


def tables(s: Statement) -> dict[int, tuple[str, int]]:
    """Table number -> kind and exponent: kind after kind, exponents in the order in which they first occur."""
    found = [of_layer(s, kind, j) for j in range(s.layers - 1) for kind in fp8.FIELDS] if s.fp8 is not None else []
    found += of_moments(s)
    kinds = [(kind, exponent) for kind in KINDS for cast in found if cast.kind == kind for exponent in cast.exponents]
    return {FIRST_TABLE + i: kind for i, kind in enumerate(dict.fromkeys(kinds))}


def table(s: Statement, number: int) -> NDArray[np.int32]:
    """The casts of the stored numbers 0 to 2^16 - 1, as they are stored: both with their offset where numbers have a sign."""
    kind, exponent = tables(s)[number]
    return fp8.table(s, kind, exponent) if kind in fp8.FIELDS else expanded.table(kind, exponent)


def numbers(s: Statement) -> dict[tuple[str, int], int]:
    """Kind and exponent -> table number."""
    return {kind: number for number, kind in tables(s).items()}


def groups(cast: Cast, known: Mapping[tuple[str, int], int], units: int) -> list[Group]:
    """Of so many units of a block, given `numbers`: one, or one for each GROUP of units, a block's padding among them."""
    if len(cast.exponents) == 1:
        return [Group(0, units, known[cast.kind, cast.exponents[0]])]
    last, parts = len(cast.exponents) - 1, range(-(-units // GROUP))
    return [Group(g * GROUP, (g + 1) * GROUP, known[cast.kind, cast.exponents[min(g, last)]]) for g in parts]


def lookups(cast: Cast, known: Mapping[tuple[str, int], int], named: Mapping[str, Block]) -> list[Lookup]:
    """The pair's, given `numbers`, for each group of units that has an exponent."""
    pair = named[cast.argument], named[cast.result]
    found = groups(cast, known, pair[0].highs)
    if len(found) == 1:
        return [Lookup(found[0].table, pair)]
    return [Lookup(group.table, pair, (group.begin, group.end)) for group in found]


def casting(s: Statement, cast: Cast, units: int) -> Callable[[Any], NDArray[np.int32]]:
    """What makes the casts of stored numbers, (units, ..), on the host; a block's padding is cast like all else."""
    parts = [(slice(group.begin, group.end), table(s, group.table)) for group in groups(cast, numbers(s), units)]

    def casts(argument: Any) -> NDArray[np.int32]:
        stored = place_of(argument).get(argument)
        return np.concatenate([pairs[stored[part]] for part, pairs in parts])

    return casts


def cast_block(s: Statement, cast: Cast, argument: Any) -> NDArray[np.uint16]:
    """The result's table from the argument's."""
    return casting(s, cast, len(argument))(argument).astype(np.uint16)
