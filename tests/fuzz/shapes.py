"""Statements at the edges: field values on either side of what is allowed, and other shapes that hold together."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from fuzz import seeds
from fuzz.drafts import Draft
from fuzz.method_shapes import OBJECTS, edged, fitting_methods
from fuzz.target import BUDGET
from zkaudit.zk import argument, methods, samplers
from zkaudit.zk.errors import BadInput
from zkaudit.zk.layout import Layout
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import Statement, check, derive_batch_seed, first_start_bound
from zkaudit.zk.verifier import work

_DIALOGUE = 40_000  # bytes of a proof beside its rows, of few layers

RANGES = {  # of integers, as docs/proof-format.md has them
    "version": (1, 1), "batch": (1, 1 << 20), "first_step": (0, 1 << 40), "rows": (1, 1 << 22), "activation_bits": (2, 14),
    "gradient_bits": (2, 15), "weight_bits": (16, 48), "columns": (4, 15), "segment": (0, 1 << 32),
    "start_bound": (1, 1 << 240),
}  # fmt: skip

ANYTHING: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        1.0,
        0.5,
        -1.0,
        float("inf"),
        float("nan"),
        [],
        {},
        [[]],
        {"a": 1},
        "",
        "1",
        "x" * 3000,
        10**400,
        -(10**30),
    ),
)


def edge(rng: Random, name: str, value: Any = None) -> Any:
    """A value at the edge of what the field may hold, on either side of it; `value` is what an object holds now."""
    if name in OBJECTS:
        return edged(rng, value) if isinstance(value, dict) else {"ranks": [1], "kind": "view-batch", "views": 1}
    if name in RANGES:
        low, high = RANGES[name]
        return rng.choice(
            (low - 1, low, low + 1, high - 1, high, high + 1, rng.randint(low, high), rng.randint(low, min(high, 99)))
        )
    if name == "widths":
        width = rng.choice((0, 1, 2, 3, 1 << 16, (1 << 16) + 1))
        return rng.choice(
            ([width] * rng.choice((1, 2, 3, 64, 65, 66)), [1, width], [width, 1, width], [1, "1"], [True, 1], [1, 1.0])
        )
    if name == "rates":
        rate = rng.choice((0, 1, 2, 1 << 48, (1 << 48) + 1, -1))
        return [rate] * rng.choice((0, 1, 2, 3, 64, 1000, 1 << 14))
    if name == "loss":
        return rng.choice(("square", "cross_entropy", "Square", "", "hinge", 0))
    digits = rng.choice((0, 1, 63, 64, 65, 1024, 1025))
    return rng.choice(("0123456789abcdef", "F", "é", "\ud800", "\U0001f600", "\0", "\x1b[2J", '"', "\\"))[0] * digits


def fitting(rng: Random, draft: Draft) -> Statement | None:
    """The draft's statement with other small shapes, if they pass every check and the budget."""
    statement = statement_in(draft)
    if statement is None:
        return None
    gradient = rng.randint(2, 15)
    drawn: dict[str, Any] = {
        "widths": tuple(rng.choice((1, 1, 2, 3, 5, 16)) for _ in range(rng.choice((2, 2, 2, 3, 3, 5, 12)))),
        "loss": rng.choice(("square", "cross_entropy")),
        "batch": rng.randint(1, 4),
        "rates": (rng.choice((1, 2, 1 << 20)),) * rng.choice((1, 1, 2, 3, 9)),
        "rows": rng.choice((1, 4, 5, 64, 1000)),
        "gradient_bits": gradient,
        "activation_bits": rng.randint(2, gradient),
        "weight_bits": rng.choice((16, 17, 32, 33, 48)),
        "columns": rng.choice((4, 8, 8, 8, 8, 15)),
        "seed": rng.choice(("", "test", "é")),
        "segment": rng.choice((0, 0, 1, 1 << 32)),
        "first_step": rng.choice((0, 1, 1 << 40)),
    }
    names = rng.sample(list(drawn), rng.choice((1, 2, 12)))
    statement = _chained(replace(statement, **{name: drawn[name] for name in names}))
    statement = replace(statement, **fitting_methods(rng, statement))
    return statement if is_within(statement) else None


def enlarged(rng: Random, s: Statement, power: int) -> Statement:
    """One of the shapes, or two, at 2^power, or just above half of it, which costs as much."""
    many = (1 << power) - rng.randrange(2)
    few = max(1, many >> 6)
    large = rng.choice(
        (
            {"rows": many},
            {"rows": many, "batch": max(1, many >> 1)},
            {"rows": many, "rates": (1, 1), "first_step": many - 1, "segment": 1, "batch": 1},
            {"rates": (1,) * many, "batch": 1},
            {"rows": many, "rates": (1,), "batch": many},
            {"widths": (many, 1)},
            {"widths": (1, many, 1)},
            {"widths": (1,) * 65, "rates": (1,) * few, "batch": 1},
            {"widths": (1,) * 65, "rows": few, "rates": (1,), "batch": few},
            {"widths": (1, few) * 32},
        )
    )
    columns = rng.choice((4, 8, 12, 15, 15, 15))
    larger = _chained(replace(s, **{"columns": columns, "weight_bits": rng.choice((32, 48)), "seed": "edge", **large}))
    return replace(larger, **fitting_methods(rng, larger))


def _chained(s: Statement) -> Statement:
    """With the fields that follow from being the first segment or a later one."""
    if s.segment:
        return replace(s, previous="5a" * 32)
    return replace(s, previous="", first_step=0, start_bound=first_start_bound(s))


def is_within(statement: Statement) -> bool:
    """Whether the statement passes its checks, and the file that states it most likely the budget."""
    try:
        check(statement)
    except BadInput:
        return False
    return stated_work(statement) < BUDGET


def stated_work(statement: Statement) -> int:
    """The verifier's work on this statement with commitments that fit and a proof of about the right length."""
    committed = argument.committed_bytes(statement, Layout(statement))
    empty = replace(statement, data=b"", start=b"", end=b"")
    return work(ProofFile(empty, b"")) + sum(committed) + _DIALOGUE


def resized(rng: Random, statement: Statement) -> Statement:
    """The statement with commitments of the right length, and the batch seed that follows."""
    *sizes, _ = argument.committed_bytes(statement, Layout(statement))
    fitted = [
        seeds.fitted(data, size, lambda: points(rng, 1))
        for (_, data), size in zip(statement.sections()[1:], sizes, strict=True)
    ]
    data, start, end = fitted
    return seeded(replace(statement, data=data, start=start, end=end))


def seeded(statement: Statement) -> Statement:
    return statement if statement.segment else replace(statement, batch_seed=derive_batch_seed(statement))


def statement_in(draft: Draft) -> Statement | None:
    """The draft's statement, if its header is one."""
    fields = draft.fields()
    if fields is None or fields.pop("version", None) != 1:
        return None
    try:
        fields["widths"], fields["rates"] = tuple(fields["widths"]), tuple(fields["rates"])
        fields |= {name: methods.read(kind, fields.get(name)) for name, kind in methods.SPECS.items()}
        fields["sampler"] = samplers.read(fields.get("sampler"))
        statement = Statement(**fields, data=draft.data, start=draft.start, end=draft.end)
        check(statement)
    except (BadInput, TypeError, KeyError, ValueError):
        return None
    return statement


def points(rng: Random, count: int) -> bytes:
    return b"".join(rng.choice(seeds.good_points()) for _ in range(count))
