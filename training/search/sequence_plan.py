"""Which devices train which sequences: groups of unequal sequence-parallel degree, chosen anew for each batch
(FlexSP: Wang et al. 2025, arXiv 2412.01523).

    minimise C   over groups g of degree d_g (sum of d_g at most the devices) and counts n_kg of sequences of bucket k
    time:   sum_k n_kg (a s_k^2 + b s_k + c(d_g) s_k) / d_g + latency <= C
    memory: sum_k n_kg s_k <= d_g x tokens that a device holds

a and b are the cost of attention and of everything else, c(d) that of the all-to-all exchanges, which grows where a group
spans nodes: so short sequences want small groups, and long ones need large ones. Lengths are put into buckets by dynamic
programming (least padding in sum), and the integer program is solved by scipy's HiGHS: exactly, unless the time limit ends it
first. A greedy plan for every way to part the devices gives it an upper bound, and stands where nothing better is found;
`Plan.gap` says how far from the optimum the plan can be. A batch too large for memory is split by length into micro-batches,
which follow each other.

This plans; it does not run. All times are of the cost model: simulated, on no device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="flexsp",
    title="Sequence-parallel groups of unequal size",
    paper="Wang et al. 2025 (FlexSP), arXiv 2412.01523",
    where="zkaudit.training.search.sequence_plan.plan",
    changes=("search", "speed", "memory"),
    effect="Up to 1.98x faster training than systems with one degree for all, on batches with a long tail of lengths.",
    library="Hetu-Galvatron has the authors' system; the planner here is ours, and simulated",
    provable="It places work on devices; what a step computes does not change.",
    server_sees="What the optimizer shows.",
    use="""
cluster = Cluster.of_transformer(
    devices=64, per_node=8, tokens=6144, layers=32, width=4096, flops=150e12, inside=200e9, between=6.25e9
)
print(plan(lengths, cluster).micro_batches, homogeneous_plans(lengths, cluster))
""",
    avoid=(
        "lengths that are alike; it plans only, with times of its cost model, whose constants must be measured on your cluster"
    ),
)


@dataclass(frozen=True)
class Cluster:
    """Equal devices in nodes, and what a token costs on one of them; times in seconds. Degrees are powers of two."""

    devices: int
    per_node: int
    tokens: int  # whose activations one device holds
    attention: float  # a: per token squared
    linear: float  # b: per token
    inside: float  # per token exchanged within a node
    between: float  # per token exchanged between nodes
    latency: float = 0.0  # of a group's step

    def __post_init__(self) -> None:
        for name in ("devices", "per_node"):
            if getattr(self, name) < 1 or getattr(self, name) & (getattr(self, name) - 1):
                raise TrainingError(f"{name} must be a power of two, not {getattr(self, name)!r}")
        if self.tokens < 1:
            raise TrainingError(f"tokens must be at least 1, not {self.tokens!r}")
        for name in ("attention", "linear", "inside", "between", "latency"):
            if not 0 <= getattr(self, name) < math.inf:
                raise TrainingError(f"{name} must be a number of at least 0, not {getattr(self, name)!r}")

    @classmethod
    def of_transformer(
        cls, *, devices: int, per_node: int, tokens: int, layers: int, width: int, flops: float, inside: float, between: float,
        latency: float = 0.0,
    ) -> Self:  # fmt: skip
        """A decoder of `layers` x 12 width^2 weights at `flops` a second; `inside` and `between` are bytes a second exchanged.

        Per token: 6 FLOPs a weight, 6 width a layer for each token of causal attention, and 8 exchanges of `width` 2-byte
        numbers a layer (queries, keys, values and outputs, forward and backward)."""
        exchanged = 8 * 2 * width * layers
        return cls(
            devices, per_node, tokens, 6 * layers * width / flops, 72 * layers * width**2 / flops,
            exchanged / inside, exchanged / between, latency,
        )  # fmt: skip

    @property
    def degrees(self) -> tuple[int, ...]:
        return tuple(1 << j for j in range(self.devices.bit_length()))

    def cost(self, degree: int, length: int) -> float:
        """Seconds that one sequence adds to a group of this degree."""
        near, far = min(degree, self.per_node) - 1, max(0, degree - self.per_node)
        exchange = (near * self.inside + far * self.between) / degree
        return length * (self.attention * length + self.linear + exchange) / degree

    def time(self, degree: int, lengths: Sequence[int]) -> float:
        """Seconds of a group's step."""
        return sum(self.cost(degree, length) for length in lengths) + (self.latency if lengths else 0.0)


@dataclass(frozen=True)
class Group:
    degree: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Micro-batches that follow each other, each of groups side by side.

    `gap` bounds (C - optimum) / C of the worst micro-batch, for lengths padded to their bucket's longest."""

    micro_batches: tuple[tuple[Group, ...], ...]
    seconds: float
    gap: float


@dataclass(frozen=True)
class PlanOptions:
    buckets: int = 16
    seconds: float = 5.0  # the limit for a micro-batch: a plan that it ends depends on the machine
    gap: float = 0.0  # at which the solver may stop
    more_micro_batches: int = 1  # how many above the fewest are tried

    def __post_init__(self) -> None:
        if self.buckets < 1 or self.more_micro_batches < 0:
            raise TrainingError("buckets must be at least 1 and more_micro_batches at least 0")
        if not self.seconds > 0 or not 0 <= self.gap < 1:
            raise TrainingError("seconds must be positive and gap at least 0 and below 1")


def plan(
    lengths: Sequence[int], cluster: Cluster, options: PlanOptions | None = None, degrees: Sequence[int] | None = None
) -> Plan:
    """The fastest plan found for one batch, with groups of `degrees` (all powers of two unless given).

    TrainingError where a sequence fits into no group, or the solver finds nothing in its time."""
    options, degrees = options or PlanOptions(), tuple(degrees or cluster.degrees)
    if not lengths or min(lengths) < 1:
        raise TrainingError("a plan needs at least one sequence, of at least one token")
    if unknown := [degree for degree in degrees if degree not in cluster.degrees]:
        raise TrainingError(f"degree {unknown[0]} is none of {', '.join(map(str, cluster.degrees))}")
    if max(lengths) > max(degrees) * cluster.tokens:
        raise TrainingError(f"a sequence of {max(lengths)} tokens does not fit into a group of degree {max(degrees)}")
    fewest = math.ceil(sum(lengths) / (cluster.devices * cluster.tokens))
    found: list[Plan] = []
    count = fewest
    while count <= len(lengths) and len(found) <= options.more_micro_batches:
        parts = [_solve(part, cluster, degrees, options) for part in _split(sorted(lengths), count)]
        if all(part is not None for part in parts):
            found.append(_joined([part for part in parts if part is not None], cluster))
        count += 1
    if not found:
        raise TrainingError(f"no plan found within {options.seconds} s a micro-batch: allow more, or fewer buckets")
    return min(found, key=lambda each: each.seconds)


def homogeneous_plans(lengths: Sequence[int], cluster: Cluster, options: PlanOptions | None = None) -> dict[int, Plan]:
    """The best plan of every single degree that can hold the longest sequence: what systems with one degree for all do."""
    fitting = [degree for degree in cluster.degrees if max(lengths) <= degree * cluster.tokens]
    return {degree: plan(lengths, cluster, options, (degree,)) for degree in fitting}


def buckets(lengths: Sequence[int], count: int) -> list[list[int]]:
    """At most `count` runs of the sorted lengths, with the least sum of (longest of the run - length)."""
    ordered = sorted(lengths)
    values, starts = np.unique(ordered, return_index=True)
    ends = [*starts[1:].tolist(), len(ordered)]
    sums = np.concatenate([[0], np.cumsum(ordered)])
    best: list[list[tuple[float, int]]] = [[(0.0, 0)] + [(math.inf, 0)] * len(values)]
    for _ in range(min(count, len(values))):
        row = [(math.inf, 0)]
        for last in range(1, len(values) + 1):
            end, top = ends[last - 1], int(values[last - 1])
            pads = [best[-1][j][0] + top * (end - int(starts[j])) - int(sums[end] - sums[starts[j]]) for j in range(last)]
            first = min(range(last), key=pads.__getitem__)
            row.append((pads[first], first))
        best.append(row)
    runs, last = [], len(values)
    for row in best[:0:-1]:
        first = row[last][1]
        runs.append(ordered[int(starts[first]) : ends[last - 1]])
        last = first
    return runs[::-1]


def _solve(
    lengths: list[int], cluster: Cluster, degrees: tuple[int, ...], options: PlanOptions
) -> tuple[list[Group], float] | None:
    """Groups of one micro-batch and their gap; None where the sequences do not fit together.

    The greedy plan bounds C from above and stands where the program finds none better in its time. From below C is bounded by
    the longest sequence, and by all work, spread evenly."""
    greedy = min(_greedy(lengths, cluster, degrees), key=lambda groups: _slowest(groups, cluster), default=None)
    work = sum(min(degree * cluster.cost(degree, length) for degree in degrees) for length in lengths)
    longest = max(lengths)
    alone = min(cluster.time(degree, [longest]) for degree in degrees if longest <= degree * cluster.tokens)
    least = max(alone, work / cluster.devices)
    most = math.inf if greedy is None else _slowest(greedy, cluster)
    if greedy is not None and most <= least * (1 + options.gap):
        return greedy, 1 - least / most if most else 0.0
    exact, bound = _integer_program(lengths, cluster, degrees, options, least, most)
    found = min((groups for groups in (greedy, exact) if groups is not None), key=lambda g: _slowest(g, cluster), default=None)
    return None if found is None else (found, max(0.0, 1 - max(least, bound) / _slowest(found, cluster)))


def _slowest(groups: list[Group], cluster: Cluster) -> float:
    return max(cluster.time(group.degree, group.lengths) for group in groups)


def _greedy(lengths: list[int], cluster: Cluster, degrees: tuple[int, ...]) -> Iterator[list[Group]]:
    """For every way to part the devices: the longest sequences first, each to the group that would be done first with it."""
    for shape in _shapes(cluster.devices, sorted(degrees, reverse=True)):
        costs = {degree: [cluster.cost(degree, length) for length in lengths] for degree in set(shape)}
        degree_of, done, left = np.array(shape), np.full(len(shape), cluster.latency), np.array(shape) * cluster.tokens
        dealt: list[list[int]] = [[] for _ in shape]
        for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            after = done + np.array([costs[degree][place] for degree in shape])
            after[left < lengths[place]] = np.inf
            group = int(after.argmin())
            if after[group] == np.inf:
                break
            done[group] = after[group]
            left[group] -= lengths[place]
            dealt[group].append(lengths[place])
        else:
            yield [Group(int(degree), tuple(part)) for degree, part in zip(degree_of, dealt, strict=True) if part]


def _shapes(devices: int, degrees: list[int]) -> Iterator[list[int]]:
    """Multisets of degrees (given in falling order) that leave no room for another of the smallest."""
    largest, *rest = degrees
    if not rest:
        yield [largest] * (devices // largest)
        return
    for count in range(devices // largest + 1):
        for others in _shapes(devices - count * largest, rest):
            yield [largest] * count + others


def _integer_program(
    lengths: list[int], cluster: Cluster, degrees: tuple[int, ...], options: PlanOptions, least: float, most: float
) -> tuple[list[Group] | None, float]:
    """The bucketed program's best groups with `least` <= C <= `most`, if any were found in time, and a lower bound of C."""
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import lil_array
    except ImportError as error:
        raise TrainingError("planning needs scipy: pip install 'zkaudit[audit]'") from error
    runs = buckets(lengths, options.buckets)
    tops, counts = [run[-1] for run in runs], [len(run) for run in runs]
    groups = [degree for degree in degrees for _ in range(cluster.devices // degree)]
    kinds, used, limit = len(runs), len(runs) * len(groups), (len(runs) + 1) * len(groups)
    # columns: n_kg at g kinds + k, then whether g is used, then C
    rows: list[tuple[Mapping[int, float], float, float]] = []
    rows += [({g * kinds + k: 1 for g in range(len(groups))}, n, n) for k, n in enumerate(counts)]
    rows.append(({used + g: degree for g, degree in enumerate(groups)}, 0, cluster.devices))
    unit = least or 1.0  # the solver's tolerances are absolute
    for g, degree in enumerate(groups):
        seconds = {g * kinds + k: cluster.cost(degree, top) / unit for k, top in enumerate(tops)}
        rows.append((seconds | {used + g: cluster.latency / unit, limit: -1}, -np.inf, 0))
        rows.append(({g * kinds + k: top for k, top in enumerate(tops)} | {used + g: -degree * cluster.tokens}, -np.inf, 0))
        if g and groups[g - 1] == degree:  # groups of a degree are alike: use the first ones
            rows.append(({used + g - 1: 1, used + g: -1}, 0, np.inf))
    table = lil_array((len(rows), limit + 1))
    for j, (row, _, _) in enumerate(rows):
        for column, value in row.items():
            table[j, column] = value
    fits = [counts[k] if tops[k] <= degree * cluster.tokens else 0 for degree in groups for k in range(kinds)]
    highest = [*fits, *[1] * len(groups), most / unit * (1 + 1e-6)]
    found = milp(
        np.eye(limit + 1)[limit],
        integrality=np.array([1] * limit + [0]),
        bounds=Bounds(np.append(np.zeros(limit), least / unit), np.array(highest)),
        constraints=LinearConstraint(table.tocsr(), [low for _, low, _ in rows], [high for _, _, high in rows]),
        options={"time_limit": options.seconds, "mip_rel_gap": options.gap},
    )
    if found.x is None:  # not found in time, or padding to the bucket's longest leaves nothing below the greedy plan
        return None, 0.0
    amounts, left = np.rint(found.x[:used]).astype(int).reshape(-1, kinds), [list(run) for run in runs]
    dealt = [tuple(left[k].pop() for k in range(kinds) for _ in range(row[k])) for row in amounts]
    made = [Group(degree, part) for degree, part in zip(groups, dealt, strict=True) if part]
    return made, unit * float(found.mip_dual_bound)


def _split(ordered: list[int], count: int) -> list[list[int]]:
    """Runs of the sorted lengths with about equal numbers of tokens, none of them empty."""
    shares = np.cumsum(ordered) / sum(ordered)
    parts: list[list[int]] = [[] for _ in range(count)]
    for length, share in zip(ordered, shares, strict=True):
        parts[min(count - 1, math.ceil(share * count - 1e-9) - 1)].append(length)
    return [part for part in parts if part]


def _joined(parts: list[tuple[list[Group], float]], cluster: Cluster) -> Plan:
    seconds = sum(max(cluster.time(group.degree, group.lengths) for group in groups) for groups, _ in parts)
    return Plan(tuple(tuple(groups) for groups, _ in parts), seconds, max(gap for _, gap in parts))
