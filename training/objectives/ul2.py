"""UL2: each text is spoilt by one of several denoisers, and the model restores what is missing (Tay et al. 2022, arXiv
2205.05131).

A denoiser (mode, rate r, mean span mu) takes, of a text of L tokens,

    noise = round(r L) in [1, L - 1] tokens,  in  spans = max(1, round(noise / mu))  spans,

their lengths, and those of the kept parts before each, drawn uniformly from all ways to cut (kept comes first). Then

    inputs  = mode token, kept parts with sentinel i for span i, end        targets = sentinel i, span i, ... , end

R is a short span at a low rate, X a long one or a high rate, S one span at the end (a prefix to continue). The paper's table
of seven is the default, all equally likely. mask and invert are exact opposites, and the number of noise tokens is exact.

All draws come from the seed of a record, derive_seed(run_seed, "objective.ul2", record), through `random.Random(seed).random()`
alone, whose sequence Python promises to keep: an auditor with the text makes the same inputs and targets."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.objectives.rows import batch_of
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="ul2",
    title="UL2: a mixture of denoisers",
    paper="Tay et al. 2022, arXiv 2205.05131",
    where="zkaudit.training.objectives.ul2.UL2",
    changes=("objective",),
    effect="A 20B model is best on 50 tasks, and on SuperGLUE without examples better than GPT-3 of 175B.",
    library="",
    provable="The step is an ordinary one on the rows that were made; which denoiser and spans is public from the seed.",
    server_sees="Gradients of the same tokens, up to half of them as targets; each private token is still there once.",
    use=(
        "from zkaudit.training.objectives.ul2 import UL2, UL2Options, collate\n"
        "\n"
        'ul2 = UL2(UL2Options(sentinels=range(32099, 31999, -1), eos=1, modes={"R": 5, "X": 6, "S": 7}), run_seed="7f")\n'
        "batch = collate([ul2(tokens, number) for number, tokens in enumerate(texts)], pad=0)  # causal=True for a decoder\n"
        "loss = model(**batch).loss"
    ),
    avoid="Models that will only continue text: plain next-token training needs no sentinels and uses every token.",
    binding="replayable",
)


@dataclass(frozen=True)
class Denoiser:
    """`mode` names the token put in front; `span` is the mean length in tokens, None for one span at the end."""

    mode: str
    rate: float
    span: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise TrainingError(f"rate = {self.rate} of a denoiser must be above 0 and below 1")
        if self.span is not None and not self.span >= 1:
            raise TrainingError(f"span = {self.span} of a denoiser must be at least 1 token, or None for the end of the text")

    def counts(self, length: int) -> tuple[int, int]:
        """Noise tokens and spans of a text of `length` >= 2 tokens."""
        noise = min(max(round(length * self.rate), 1), length - 1)
        spans = 1 if self.span is None else max(1, round(noise / self.span))
        return noise, min(spans, noise, length - noise)


TABLE = (
    *(Denoiser("R", 0.15, 3), Denoiser("R", 0.15, 8)),
    *(Denoiser("X", 0.5, 3), Denoiser("X", 0.5, 8), Denoiser("X", 0.15, 64), Denoiser("X", 0.5, 64)),
    Denoiser("S", 0.25),
)


@dataclass(frozen=True)
class UL2Options:
    """Token ids: `sentinels` in the order in which they are used, `eos`, and one of `modes` for each mode. `weights` says how
    often each denoiser is taken, relative to each other; None is equally often."""

    sentinels: Sequence[int]
    eos: int
    modes: Mapping[str, int]
    denoisers: tuple[Denoiser, ...] = TABLE
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.denoisers:
            raise TrainingError("ul2 needs at least one denoiser")
        if missing := {denoiser.mode for denoiser in self.denoisers} - set(self.modes):
            raise TrainingError(f"modes has no token for mode {min(missing)!r}")
        if len({*self.sentinels, self.eos, *self.modes.values()}) != len(self.sentinels) + 1 + len(self.modes):
            raise TrainingError("sentinels, eos and modes must be different tokens")
        if self.weights is not None and (
            len(self.weights) != len(self.denoisers) or min(self.weights) < 0 or not sum(self.weights) > 0
        ):
            raise TrainingError(f"weights = {self.weights} must be {len(self.denoisers)} numbers, none negative, not all 0")


class Denoised(NamedTuple):
    """A record as the model gets it. `denoiser` is its number in the table; `spans` are half-open, of the text."""

    inputs: list[int]
    targets: list[int]
    denoiser: int
    spans: list[tuple[int, int]]
    seed: int


class UL2:
    """Called with a text's tokens and the record's number in the run (step times batch plus row), gives the Denoised record.

    Raises TrainingError for a text of fewer than 2 tokens, for one that holds a sentinel, the end or a mode token, and where
    there are fewer sentinels than spans.
    """

    def __init__(self, options: UL2Options, run_seed: str) -> None:
        self.options, self.run_seed = options, run_seed
        self._reserved = {*options.sentinels, options.eos, *options.modes.values()}

    def __call__(self, tokens: Sequence[int], record: int) -> Denoised:
        if len(tokens) < 2:
            raise TrainingError(f"record {record} has {len(tokens)} tokens: a denoiser needs 2")
        if reserved := self._reserved.intersection(tokens):
            raise TrainingError(f"record {record} holds token {min(reserved)}, which is a sentinel, a mode or the end")
        seed = derive_seed(self.run_seed, "objective.ul2", record)
        draws = random.Random(seed)
        number = _weighted(self.options.weights or (1.0,) * len(self.options.denoisers), draws)
        denoiser = self.options.denoisers[number]
        spans = noise_spans(len(tokens), denoiser, draws)
        inputs, targets = mask(tokens, spans, self.options.sentinels)
        eos = self.options.eos
        return Denoised([self.options.modes[denoiser.mode], *inputs, eos], [*targets, eos], number, spans, seed)


def noise_spans(length: int, denoiser: Denoiser, draws: random.Random) -> list[tuple[int, int]]:
    """The spans to remove from a text of `length` tokens."""
    noise, spans = denoiser.counts(length)
    if denoiser.span is None:
        return [(length - noise, length)]
    kept, removed = _parts(length - noise, spans, draws), _parts(noise, spans, draws)
    found, position = [], 0
    for before, inside in zip(kept, removed, strict=True):
        found.append((position + before, position + before + inside))
        position += before + inside
    return found


def mask(tokens: Sequence[int], spans: Sequence[tuple[int, int]], sentinels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Inputs and targets without mode and end tokens. TrainingError where there are too few sentinels."""
    if len(spans) > len(sentinels):
        raise TrainingError(f"{len(spans)} spans need as many sentinels, and there are {len(sentinels)}")
    inputs: list[int] = []
    targets: list[int] = []
    position = 0
    for sentinel, (start, end) in zip(sentinels, spans, strict=False):
        inputs += [*tokens[position:start], sentinel]
        targets += [sentinel, *tokens[start:end]]
        position = end
    return inputs + list(tokens[position:]), targets


def invert(inputs: Sequence[int], targets: Sequence[int], sentinels: Sequence[int]) -> list[int]:
    """The text that `mask` took apart. TrainingError if inputs and targets do not name the same sentinels."""
    known, spans = set(sentinels), dict[int, list[int]]()
    current: list[int] = []
    for token in targets:
        if token in known:
            current = spans[token] = []
        else:
            current.append(token)
    if {token for token in inputs if token in known} != set(spans):
        raise TrainingError("inputs and targets do not have the same sentinels")
    return [part for token in inputs for part in spans.get(token, [token])]


def collate(records: Sequence[Denoised], pad: int, causal: bool = False) -> dict[str, Tensor]:
    """A batch of records (rows.py); `causal` is for a decoder alone."""
    return batch_of([record.inputs for record in records], [record.targets for record in records], pad, causal)


def _weighted(weights: Sequence[float], draws: random.Random) -> int:
    point = draws.random() * sum(weights)
    for number, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return number
    return max(number for number, weight in enumerate(weights) if weight > 0)  # rounding left a little


def _parts(total: int, count: int, draws: random.Random) -> list[int]:
    """`total` as a sum of `count` positive numbers, every such sum equally likely."""
    places = list(range(1, total))
    for i in range(count - 1):
        j = i + int(draws.random() * (len(places) - i))
        places[i], places[j] = places[j], places[i]
    cuts = [0, *sorted(places[: count - 1]), total]
    return [after - before for before, after in pairwise(cuts)]
