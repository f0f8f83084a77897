"""CoLM: of a large batch, the few examples whose gradients stand for all, and every example of the small sources.

Examples of sources called small are all kept. Of each other source a quota, proportional to its examples, is chosen greedily
by facility location: the set S that maximises sum_i max_{j in S} (max D - D_ij), D the L1 distances between codes of gradients.
A code comes from directional derivatives of each example's own loss at the last layer's value projection,

    c_ij = (l_i(W + eps z_j) - l_i(W - eps z_j)) / (2 eps),        two passes through the last layer for each probe z_j

With one probe, as published, every estimated gradient c_i z is the same vector times a number, so the code is that number;
and `adam` has it normalised as Adam would, m = b1 m' + (1 - b1) c_i z, v likewise, m / sqrt v, at the 2560 coordinates where
the source's mean is largest, with m', v' the means of those chosen last. With several probes the code is the vector of c_ij,
whose distances know more of the gradients'.

Nguyen et al., "Mini-batch Coresets for Memory-efficient Language Model Training on Data Mixtures", 2024, arXiv:2407.19580: 64
of 128, eps 1e-3, one probe, no weights (`CoLMOptions.paper`). Where gradients come in tight clusters, a coreset without weights
matches their mean worse than a random subset does, and one in which each example weighs as many as it stands for, as here,
better. Where they do not (a small language model's, of one source), weights make it no better than random.

Codes are rounded to multiples of 2^-16, distances are integers and ties go to the lower row, so that a choice can be replayed
from recorded codes; that codes are those of the model is taken at the record's word."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zkaudit.training.batch.last_layer import LastLayer
from zkaudit.training.batch.selection import Selection, SelectorRule, scoring
from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.replay import Lacking, Rule, Run, made
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="colm",
    title="CoLM: mini-batch coresets for data mixtures",
    paper="Nguyen, Yang, Anand, Yang, Mirzasoleiman 2024, arXiv:2407.19580",
    where="zkaudit.training.batch.colm.CoLMSelector",
    changes=("memory", "batch"),
    effect="Half the fine-tuning memory, better than batches four times as large (Phi-2, Phi-3, Zephyr, Llama-3).",
    library="submodlib has facility location; probes, quotas, weights and integers are ours.",
    provable="The choice from recorded codes is replayed; codes, two passes of one layer an example, are not proved.",
    server_sees="Fewer records behind each gradient, with unequal weights; records of small sources every time: most exposed.",
    use=(
        "from zkaudit.training.batch.colm import CoLMOptions, CoLMSelector\n"
        "\n"
        'selector = CoLMSelector(CoLMOptions(keep=64, small=(3, 7)), run_seed="public")\n'
        "chosen = selector.select(model, batch, ids, sources)  # a batch of 128 with labels, its rows and their sources\n"
        'losses = example_losses(model(**chosen.of(batch)).logits, chosen.of(batch)["labels"])  # batch/last_layer.py\n'
        "weights = torch.tensor(chosen.weights)\n"
        "(losses * weights).sum().div(weights.sum()).backward()"
    ),
    avoid="Data of one source without clusters, where a random subset is as near to the gradient; models without v_proj.",
    binding="replayable",
)

UNIT = 16  # fractional bits of a code
LARGEST_CODE = 1 << 40
CHUNK = 1 << 16  # coordinates that are normalised at once

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class CoLMOptions:
    """`keep` of each batch's examples, all those of the sources in `small` among them while there is room.

    adam: normalise as Adam would, for one probe. coordinates: how many of each source are then kept.
    """

    keep: int
    small: tuple[int, ...] = ()
    probes: int = 8
    eps: float = 1e-3
    weighted: bool = True
    adam: bool = False
    coordinates: int = 2560
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("keep", "probes", "coordinates"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.adam and self.probes != 1:
            raise TrainingError(f"probes = {self.probes}: Adam's normalisation is that of one probe")
        if not self.eps > 0 or not self.adam_eps > 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise TrainingError("eps and adam_eps must be above 0, betas from 0 to below 1")

    @classmethod
    def paper(cls, keep: int, small: tuple[int, ...] = ()) -> CoLMOptions:
        """As published: one probe, normalised, no weights."""
        return cls(keep, small, probes=1, weighted=False, adam=True)


class CoLMSelector:
    """Chooses from batches; its probes follow from `run_seed` and are the same at every step."""

    def __init__(self, options: CoLMOptions, *, run_seed: str) -> None:
        self.options, self.run_seed = options, run_seed
        self.step = 0
        self.first, self.second = torch.zeros(0), torch.zeros(0)  # m' and v'

    def select(self, model: nn.Module, batch: Mapping[str, Tensor], ids: Sequence[int], sources: Sequence[int]) -> Selection:
        """From a batch with labels, a row each: the layers before the last run once. TrainingError for unknown models."""
        with scoring(model), LastLayer(model, batch) as last:
            derivatives = self.derivatives(last.losses, last.value_weight)
        return self.choose(derivatives, last.value_weight.shape, ids, sources)

    @torch.no_grad()
    def derivatives(self, losses: Callable[[], Tensor], weight: Tensor) -> Tensor:
        """c (examples, probes) float64, with `losses()` (examples,) as a function of `weight`, which is left as it was."""
        kept, found = weight.clone(), []
        for probe in range(self.options.probes):
            direction = self.direction(weight.shape, probe).to(weight.device, weight.dtype)
            ends = []
            for sign in (1, -1):
                weight.copy_(kept + sign * self.options.eps * direction)
                ends.append(losses().double().cpu())
            found.append((ends[0] - ends[1]) / (2 * self.options.eps))
        weight.copy_(kept)
        return torch.stack(found, dim=1)

    def direction(self, shape: Sequence[int], probe: int) -> Tensor:
        """z of a probe: standard normal numbers from the run's seed."""
        generator = torch.Generator().manual_seed(derive_seed(self.run_seed, "colm probe", probe))
        return torch.randn(tuple(shape), generator=generator)

    def choose(self, derivatives: Tensor, shape: Sequence[int], ids: Sequence[int], sources: Sequence[int]) -> Selection:
        """From c (examples, probes) at a weight of this shape."""
        if not len(derivatives) == len(ids) == len(sources) or len(set(ids)) != len(ids):
            raise TrainingError(f"{len(derivatives)} examples need as many rows, each named once, and sources")
        state = self.digest()
        codes = self._normalised(derivatives[:, 0], shape, sources) if self.options.adam else derivatives
        scores = _rounded(codes)
        chosen = choose(ids, scores, sources, self.options)
        places = tuple(sorted(chosen))
        weights = tuple(float(chosen[place]) for place in places) if self.options.weighted else ()
        if self.options.adam:
            large = [place for place in places if sources[place] not in self.options.small]
            self._remember(derivatives[large, 0], shape)
        return Selection(METHOD.name, places, tuple(ids[place] for place in places), scores, state, weights)

    def digest(self) -> str:
        """Of m' and v', hex; empty without them."""
        if not self.step:
            return ""
        moments = torch.cat([self.first, self.second]).numpy().astype("<f8").tobytes()
        return hashlib.sha256(b"zkaudit colm" + self.step.to_bytes(8, "little") + moments).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "first": self.first, "second": self.second}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.first, self.second = state["step"], state["first"].clone(), state["second"].clone()

    def _normalised(self, derivatives: Tensor, shape: Sequence[int], sources: Sequence[int]) -> Tensor:
        """Adam's direction of each example at its source's coordinates. (examples, coordinates) float64"""
        z = self.direction(shape, 0).double().flatten()
        m, v = (self.first, self.second) if self.step else (torch.zeros_like(z), torch.zeros_like(z))
        count = min(self.options.coordinates, len(z))
        found = torch.zeros(len(sources), count, dtype=torch.float64)
        for source in set(sources):
            rows = [place for place, each in enumerate(sources) if each == source]
            c = derivatives[rows, None]
            chunks = [slice(start, start + CHUNK) for start in range(0, len(z), CHUNK)]
            means = torch.cat([self._adam(c, z[chunk], m[chunk], v[chunk]).mean(dim=0).abs() for chunk in chunks])
            largest = means.argsort(descending=True, stable=True)[:count]
            found[rows] = self._adam(c, z[largest], m[largest], v[largest])
        return found

    def _adam(self, c: Tensor, z: Tensor, m: Tensor, v: Tensor) -> Tensor:
        beta1, beta2 = self.options.betas
        first = (beta1 * m + (1 - beta1) * c * z) / (1 - beta1 ** (self.step + 1))
        second = (beta2 * v + (1 - beta2) * (c * z) ** 2) / (1 - beta2 ** (self.step + 1))
        return first / (second.sqrt() + self.options.adam_eps)

    def _remember(self, c: Tensor, shape: Sequence[int]) -> None:
        z = self.direction(shape, 0).double().flatten()
        if not len(c):
            return
        (beta1, beta2), zero = self.options.betas, torch.zeros_like(z)
        self.first = beta1 * (self.first if self.step else zero) + (1 - beta1) * c.mean() * z
        self.second = beta2 * (self.second if self.step else zero) + (1 - beta2) * (c**2).mean() * z**2
        self.step += 1


def choose(
    ids: Sequence[int], codes: Sequence[tuple[int, ...]], sources: Sequence[int], options: CoLMOptions
) -> dict[int, int]:
    """Place of each chosen example -> how many examples it stands for, from integer codes (examples, width)."""
    if options.keep > len(ids):
        raise TrainingError(f"{options.keep} examples cannot be kept of {len(ids)}")
    if max(abs(value) for code in codes for value in code) * len(codes) * len(codes[0]) >= 1 << 61:
        raise TrainingError(f"{len(codes)} codes of {len(codes[0])} numbers are too large to be compared in 64 bits")
    by_row = sorted(range(len(ids)), key=lambda place: ids[place])
    small = [place for place in by_row if sources[place] in options.small][: options.keep]
    chosen = dict.fromkeys(small, 1)
    large: dict[int, list[int]] = {}
    for place in by_row:
        if sources[place] not in options.small:
            large.setdefault(sources[place], []).append(place)
    left = options.keep - len(small)
    for source, quota in quotas({source: len(places) for source, places in large.items()}, left).items():
        places = large[source]
        medoids = facility_location(np.array([codes[place] for place in places], np.int64), quota)
        chosen |= {places[medoid]: size for medoid, size in medoids.items()}
    return chosen


def quotas(counts: Mapping[int, int], budget: int) -> dict[int, int]:
    """Budget for each source: its proportional part rounded down, what is left one by one to the smallest that have more."""
    total = sum(counts.values())
    found = {source: budget * count // total for source, count in counts.items()}
    order = sorted(counts, key=lambda source: (counts[source], source))
    left = min(budget, total) - sum(found.values())
    while left:
        for source in order:
            if left and found[source] < counts[source]:
                found[source] += 1
                left -= 1
    return found


def facility_location(codes: Integers, count: int) -> dict[int, int]:
    """Greedy choice of `count` of n codes (n, width): number -> how many are nearest to it. Ties to the lower number."""
    if not count:
        return {}
    distance = np.array([np.abs(codes - code).sum(axis=1) for code in codes])
    likeness = distance.max() - distance
    covered = np.zeros(len(codes), np.int64)
    chosen: list[int] = []
    for _ in range(count):
        gains = np.maximum(likeness - covered[:, None], 0).sum(axis=0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, likeness[:, chosen[-1]])
    chosen.sort()
    nearest = distance[:, chosen].argmin(axis=1)
    nearest[chosen] = np.arange(len(chosen))  # each stands for itself, were another equal to it
    return dict(zip(chosen, np.bincount(nearest, minlength=len(chosen)).tolist(), strict=True))


def _rounded(codes: Tensor) -> tuple[tuple[int, ...], ...]:
    scaled = (codes.double() * (1 << UNIT)).round()
    if not torch.isfinite(scaled).all() or float(scaled.abs().max()) > LARGEST_CODE:
        raise TrainingError("the examples' losses change by more than can be compared: lower eps, or look at their losses")
    return tuple(tuple(int(value) for value in row) for row in scaled.tolist())


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"keep": 64, "small": [3, 7], "weighted": true}, with a column "source"; records need scores, which are codes."""

    def make(keep: int, small: list[int], weighted: bool) -> SelectorRule:
        settings, column = CoLMOptions(keep, tuple(small), weighted=weighted), run.column("source")

        def again(ids: Sequence[int], codes: Sequence[tuple[int, ...]]) -> dict[str, Any]:
            try:
                chosen = choose(ids, codes, [int(column[row]) for row in ids], settings)
            except TrainingError as error:
                raise Lacking("scores", f"codes to choose by: {error}") from None
            places = sorted(chosen)
            weights = tuple(float(chosen[place]) for place in places) if weighted else ()
            return {"ids": tuple(ids[place] for place in places), "weights": weights}

        return SelectorRule(again)

    found: Rule = made(make, "colm", options)
    return found
