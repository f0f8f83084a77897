"""What near-duplicate removal does to a mixture: no removal, inside each source, and across all of them, side by side.

Removal across sources keeps the lowest id of a component, so the order of the sources decides which of them loses the copy.
SlimPajama-DC (Shen et al. 2023, arXiv 2309.10818) trains on the mixtures that result; here they are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zkaudit.training.errors import TrainingError
from zkaudit.training.filters.minhash import Deduplicated, DedupOptions, deduplicate

SCOPES = ("none", "local", "global")


@dataclass(frozen=True)
class Row:
    """One source under one scope: records and size left, the share of its size that was removed, of the mixture it makes."""

    scope: str
    source: str
    records: int
    size: int
    removed: float
    mixture: float


@dataclass(frozen=True)
class Study:
    """`rows` by scope and source; `kept` ids by scope; `across`: pairs of a dropped record's and its keeper's source."""

    rows: tuple[Row, ...]
    kept: dict[str, tuple[int, ...]]
    across: dict[tuple[str, str], int]

    def table(self) -> str:
        """For people: a line a row."""
        lines = [f"{'scope':8}{'source':20}{'records':>9}{'size':>12}{'removed':>9}{'mixture':>9}"]
        for row in self.rows:
            shares = f"{100 * row.removed:8.2f}%{100 * row.mixture:8.2f}%"
            lines.append(f"{row.scope:8}{row.source:20}{row.records:9}{row.size:12}{shares}")
        return "\n".join(lines)


def study(
    texts: Sequence[str],
    sources: Sequence[str],
    sizes: Sequence[int] | None = None,
    *,
    run_seed: str,
    options: DedupOptions | None = None,
) -> Study:
    """Count all three scopes; `sizes` (n,) are tokens or bytes, those of UTF-8 if None. The option `scope` is not looked at."""
    weights = [len(text.encode("utf-8", "surrogatepass")) for text in texts] if sizes is None else list(sizes)
    if not len(texts) == len(sources) == len(weights):
        raise TrainingError(f"texts, sources and sizes must be equally many, not {len(texts)}, {len(sources)}, {len(weights)}")
    found: dict[str, Deduplicated] = {
        scope: deduplicate(texts, sources, run_seed=run_seed, options=replace(options or DedupOptions(), scope=scope))
        for scope in SCOPES[1:]
    }
    kept = {"none": tuple(range(len(texts)))} | {scope: result.kept for scope, result in found.items()}
    rows = [row for scope in SCOPES for row in _rows(scope, kept[scope], sources, weights)]
    joined = [(i, root) for i, root in enumerate(found["global"].component) if root not in (-1, i)]
    across = Counter((sources[i], sources[root]) for i, root in joined)
    return Study(tuple(rows), kept, dict(across))


def _rows(scope: str, kept: Sequence[int], sources: Sequence[str], weights: Sequence[int]) -> list[Row]:
    before, records, size = Counter[str](), Counter[str](), Counter[str]()
    for source, weight in zip(sources, weights, strict=True):
        before[source] += weight
    for i in kept:
        records[sources[i]] += 1
        size[sources[i]] += weights[i]
    all_of_it = sum(size.values())
    return [
        Row(scope, s, records[s], size[s], 1 - size[s] / max(1, before[s]), size[s] / max(1, all_of_it)) for s in sorted(before)
    ]
