"""Multigrid training: small shapes in large batches first, the full shape last, at the same cost for every step.

A sample has a length T (frames, tokens) and a size S (an image's side), either of which may be absent. A step on shape (t, s)
takes

    batch(t, s) = round(B (T / t) (S / s)^2)            so that a step costs what one on B full samples costs

Long cycle: an equal number of steps on each of (T/4, S/sqrt 2), (T/2, S/sqrt 2), (T/2, S), (T, S); the rate is multiplied by
(batch(t, s) / B)^power. Short cycle: within it, steps take turns between the sizes S/2, S/sqrt 2 and the long cycle's s, with a
rate that does not change. Last part: steps at (T, S) alone, as at test time.

A schedule with several rates runs one long cycle for each (`cycles`). Wu et al., "A Multigrid Method for Efficiently Training
Video Models", 2020, arXiv:1912.00998; factors and the rule for the rate are those of their released code (SlowFast). power 1 is
its linear rule; with Adam 0.5 is usual. Their batch norms work on parts of fixed size: training/norm/ghost_batch.py. A cost
that grows faster than T (attention) falls by more than is counted here."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import Dataset, Sampler

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="multigrid",
    title="Multigrid batch shapes",
    paper="Wu, Girshick, He, Feichtenhofer, Kraehenbuehl 2020, arXiv:1912.00998",
    where="zkaudit.training.batch.multigrid.Multigrid",
    changes=("batch", "speed", "schedule"),
    effect="SlowFast networks train 4.5 times faster on Kinetics, and 0.8% more accurate.",
    library="SlowFast has it for its own video data; a plan for any data set is ours.",
    provable="Shapes and rates are public; each step is an ordinary one on a batch of its shape.",
    server_sees="Gradients of more, smaller records early on; of the full records at the end.",
    use=(
        "from zkaudit.training.batch.multigrid import Multigrid, MultigridOptions, MultigridSampler, Shaped\n"
        "\n"
        "plan = Multigrid(MultigridOptions(batch=8, length=32, size=224), samples=100 * len(videos))\n"
        "loader = DataLoader(Shaped(videos, fit), batch_sampler=MultigridSampler(plan, len(videos)))  # fit(item, shape)\n"
        "scheduler = LambdaLR(optimizer, plan.lr_factor)  # stepped after every update"
    ),
    avoid=(
        "For models of one fixed input shape, and where training is short of updates, not of time: small images "
        "with little to spare gain nothing."
    ),
)

LONG_CYCLE = ((0.25, 0.5**0.5), (0.5, 0.5**0.5), (0.5, 1.0), (1.0, 1.0))  # of T, of S
SHORT_CYCLE = (0.5, 0.5**0.5)  # of S


@dataclass(frozen=True)
class MultigridOptions:
    """`batch`, `length`, `size` of the full shape. Lengths and sizes are rounded to a multiple of `multiple`.

    `last` is the part of all steps that comes after the cycles. A list of `long` with one pair turns the long cycle off, an
    empty `short` the short one."""

    batch: int
    length: int | None = None
    size: int | None = None
    long: tuple[tuple[float, float], ...] = LONG_CYCLE
    short: tuple[float, ...] = SHORT_CYCLE
    multiple: int = 1
    cycles: int = 1
    last: float = 0.2
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.length is None and self.size is None:
            raise TrainingError("multigrid needs a length or a size: there is no shape to change")
        for name in ("batch", "length", "size", "multiple", "cycles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} = {value} must be at least 1")
        factors = [*itertools.chain.from_iterable(self.long), *self.short]
        if not self.long or not all(0 < factor <= 1 for factor in factors):
            raise TrainingError("the cycles' factors must be above 0 and at most 1, and long must have one pair at least")
        if not 0 <= self.last < 1:
            raise TrainingError(f"last = {self.last} must be below 1 and not negative")


class Shape(NamedTuple):
    """One step's batch and shape."""

    batch: int
    length: int | None
    size: int | None


class Phase(NamedTuple):
    """`steps` steps that take turns between `shapes`, with the rate times `lr`."""

    steps: int
    shapes: tuple[Shape, ...]
    lr: float


class Multigrid:
    """The plan for about `samples` samples in all, counted as often as they are seen; `steps` steps in `phases`."""

    def __init__(self, options: MultigridOptions, samples: int) -> None:
        full = _shape(options, 1.0, 1.0)
        cycle = [_phase(options, length, size) for length, size in _distinct(options)]
        mean = sum(sum(shape.batch for shape in shapes) / len(shapes) for shapes, _ in cycle) / len(cycle)
        steps = samples / ((1 - options.last) * mean + options.last * full.batch)
        each = round(steps * (1 - options.last) / (options.cycles * len(cycle)))
        if each < 1:
            raise TrainingError(f"samples = {samples} are too few for {options.cycles} cycles of {len(cycle)} shapes")
        self.phases = [Phase(each, shapes, lr) for shapes, lr in cycle] * options.cycles
        if options.last:
            self.phases.append(Phase(max(1, round(steps * options.last)), (full,), 1.0))
        self._ends = list(itertools.accumulate(phase.steps for phase in self.phases))
        self.steps = self._ends[-1]

    def shape(self, step: int) -> Shape:
        """Of step `step`, counted from 0; after the end the last one."""
        phase, within = self._locate(step)
        return phase.shapes[within % len(phase.shapes)]

    def lr_factor(self, step: int) -> float:
        """For torch's LambdaLR, alone or as a factor of another rule."""
        return self._locate(step)[0].lr

    def samples_before(self, step: int) -> int:
        return sum(self.shape(number).batch for number in range(step))

    def _locate(self, step: int) -> tuple[Phase, int]:
        number = min(bisect.bisect_right(self._ends, step), len(self.phases) - 1)
        return self.phases[number], step - (self._ends[number - 1] if number else 0)


class Key(NamedTuple):
    """What the sampler asks a data set for: an item by its number, in a shape."""

    item: int
    shape: Shape


class MultigridSampler(Sampler[list[Key]]):
    """A batch sampler: one list of keys a step, over the whole plan, in random orders that depend on `seed` and the pass.

    One pass over the loader is the whole plan: in HF's Trainer, `max_steps` = plan.steps. `state_dict` says how many batches
    were taken from it; a loaded sampler goes on where that one stopped, with the same batches. With loader workers, which take
    batches before they are used, set `step` to the updates that were made before saving. HF's Trainer skips batches itself:
    load no state there.
    """

    def __init__(self, plan: Multigrid, items: int, seed: int = 0) -> None:
        if items < 1:
            raise TrainingError(f"items = {items} must be at least 1")
        self.plan, self.items, self.seed = plan, items, seed
        self.step = 0

    def __iter__(self) -> Iterator[list[Key]]:
        stream = self._indices(self.plan.samples_before(self.step))
        while self.step < self.plan.steps:
            shape = self.plan.shape(self.step)
            self.step += 1
            yield [Key(index, shape) for index in itertools.islice(stream, shape.batch)]

    def __len__(self) -> int:
        return self.plan.steps - self.step

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step, self.seed = state["step"], state["seed"]

    def _indices(self, done: int) -> Iterator[int]:
        for number in itertools.count(done // self.items):
            order = torch.randperm(self.items, generator=torch.Generator().manual_seed(self.seed + number)).tolist()
            yield from order[done % self.items :] if number == done // self.items else order


class Items(Protocol):
    """What a map-style data set offers."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


class Shaped(Dataset[Any]):
    """A map-style data set under keys: `fit(item, shape)` makes an item of the shape asked for."""

    def __init__(self, items: Items | Sequence[Any], fit: Callable[[Any, Shape], Any]) -> None:
        self.items, self.fit = items, fit

    def __getitem__(self, key: Key) -> Any:
        return self.fit(self.items[key.item], key.shape)

    def __len__(self) -> int:
        return len(self.items)


def _distinct(options: MultigridOptions) -> list[tuple[float, float]]:
    """The long cycle without repetitions where an axis is absent."""
    pairs = [(1.0 if options.length is None else t, 1.0 if options.size is None else s) for t, s in options.long]
    return list(dict.fromkeys(pairs))


def _phase(options: MultigridOptions, length: float, size: float) -> tuple[tuple[Shape, ...], float]:
    """The shapes that steps take turns between at one place of the long cycle, and the rate there."""
    base = _shape(options, length, size)
    sizes = options.short if options.size is not None else ()
    shapes = (*(_shape(options, length, short) for short in sizes), base)
    return shapes, (base.batch / options.batch) ** options.power


def _shape(options: MultigridOptions, length: float, size: float) -> Shape:
    t = None if options.length is None else _rounded(options.length * length, options)
    s = None if options.size is None else _rounded(options.size * size, options)
    batch = float(options.batch)
    if t and options.length:
        batch *= options.length / t
    if s and options.size:
        batch *= (options.size / s) ** 2
    return Shape(max(1, round(batch)), t, s)


def _rounded(number: float, options: MultigridOptions) -> int:
    return max(options.multiple, round(number / options.multiple) * options.multiple)
