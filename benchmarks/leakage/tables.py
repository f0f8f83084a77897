"""The tables that are printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leakage.beside import ATTACKERS, where_pursuit_loses

HEADS = {
    "published": "DAGER, published",
    "calibrated": "DAGER",
    "span": "span test",
    "static": "static",
    "pursuit": "pursuit",
}
Entry = tuple[str, str, str, Mapping[str, Any]]  # name, title, gate, result


def report(entries: Sequence[Entry]) -> Iterator[str]:
    """Tests first, then the comparison, then what each part cost."""
    tests = [entry for entry in entries if "rows" in entry[3]]
    compared = [entry for entry in entries if "cells" in entry[3]]
    for name, title, gate, result in tests:
        yield f"\n{name}. {title}{f' ({gate} gate)' if gate else ''}"
        rows = [(row["outcome"], spread(row), row["what"], row["expected"]) for row in result["rows"]]
        yield from aligned(("", "measured", "what", "expected"), rows)
    if compared:
        yield "\nOurs against DAGER as published. Recall of what is claimed / precision / recall at n / records exact."
        yield "Ratio: recall of pursuit over that of DAGER as published."
    for name, _, _, result in compared:
        yield f"\n{name.partition(':')[2]}, d = {result['cells'][0]['width']}, seeds: {result['cells'][0]['seeds']}"
        heads = ("condition", "r", "K", "n", "n/d", *(HEADS[attacker] for attacker in ATTACKERS), "ratio")
        yield from aligned(heads, [cell(entry) for entry in result["cells"]])
        behind = [(entry, where_pursuit_loses(entry)) for entry in result["cells"]]
        for entry, others in behind:
            if others:
                where = f"{entry['condition']}, r = {entry['rank']}, n = {entry['inputs']}"
                yield f"pursuit is behind at {where}: {', '.join(others)}"
    yield "\nCost"
    costs = [
        (name, f"{part['seconds']:.0f} s", f"{part['cpu_seconds']:.0f} s", f"{part['peak_bytes'] / 1e6:.0f} MB")
        for name, _, _, part in entries
        if "seconds" in part  # a part put together from several processes has no cost of its own
    ]
    yield from aligned(("", "wall", "processor", "memory above start"), costs)
    for name, _, _, part in entries:
        if "error" in part:
            yield f"{name} failed: {part['error']}"


def spread(row: Mapping[str, Any]) -> str:
    """The mean over seeds and its interval."""
    value, low, high = (f"{row[key]:.3g}" for key in ("value", "low", "high"))
    return value if low == high else f"{value} ({low} to {high})"


def cell(entry: Mapping[str, Any]) -> list[str]:
    """One line of the comparison."""
    columns = [entry["condition"], str(entry["rank"]), str(entry["capacity"]), str(entry["inputs"])]
    columns.append(f"{entry['inputs'] / entry['width']:.2f}")
    names = ("token_recall", "token_precision", "recall_at_n", "exact_match")
    for attacker in ATTACKERS:
        scores = entry.get(attacker)
        columns.append("-" if scores is None else " ".join(short(scores[name]["value"]) for name in names))
    ours, theirs = entry["pursuit"]["token_recall"]["value"], entry["published"]["token_recall"]["value"]
    columns.append("=" if ours == theirs else f"{ours / theirs:.1f}" if theirs else "inf")
    return columns


def short(value: float) -> str:
    """Two digits."""
    return "1.0" if value > 0.995 else f"{value:.2f}".removeprefix("0") if value else "0"


def aligned(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns of the same width."""
    lines = [tuple(heads), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
