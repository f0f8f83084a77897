"""Data ablation by merging: train once on each part of the data, then judge any union of parts by an average of those models.

    proxy(S) = evaluate( mean over units u in S of W_u ),    W_u = the seed model trained on further unit u alone

For n units it takes n trainings instead of one for each subset. Na et al. 2024, "Scalable Data Ablation Approximations for
Language Models through Modular Training and Merging", arXiv 2410.15661: perplexities of proxies and of models trained on the
whole union are strongly correlated, on any evaluation set, so proxies rank data choices. Units are of equal size; where a part
consists of several, "micro" averages all units alike, "macro" averages the parts' averages.

All units must be trained from one seed model and equally long. Without a common start an average is no model, so
models further apart than `widest` times their length are refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.models.average import State, average, distance

METHOD = Method(
    name="modular-ablation",
    title="Data ablation by modular training and merging",
    paper="Na et al. 2024, arXiv 2410.15661",
    where="zkaudit.training.models.modular_ablation.MergeProxy",
    changes=("data", "search"),
    effect="Perplexities of merged models correlate strongly with those of models trained on the union, for n trainings.",
    library="mergekit averages checkpoints on disk; choosing, checking and ranking subsets are ours",
    provable="An average is linear in committed weights with public coefficients; no relation for it is written yet.",
    server_sees="Who holds the models of single parts can test each part for a record: more than one model of all shows.",
    use="""
from zkaudit.training.models.modular_ablation import MergeProxy

proxy = MergeProxy({"law": law_state, "code": code_state, "news": news_state})
print(proxy.rank(proxy.subsets(2), held_out_loss))  # lower is better
""",
    avoid="units trained from different starts or for different times, and choices closer than the proxy's error",
    binding="replayable",
)

Subset = tuple[str, ...]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranked(Generic[Result]):
    """A subset of the parts and what its proxy scored."""

    subset: Subset
    score: Result


class MergeProxy:
    """Models of parts by name: a state dict for a part that is one unit, a list of them for one that has several.

    `weighting` is "micro" or "macro". TrainingError for fewer than two parts and for models without a common start."""

    def __init__(
        self,
        parts: Mapping[str, State | Sequence[State]],
        weighting: str = "micro",
        *,
        widest: float = 1.0,
        statistics: bool = False,
    ) -> None:
        if weighting not in ("micro", "macro"):
            raise TrainingError(f"weighting = {weighting!r} must be 'micro' or 'macro'")
        if len(parts) < 2:
            raise TrainingError(f"an ablation needs at least two parts, not {len(parts)}")
        self.weighting, self._statistics = weighting, statistics
        self.units = {name: [given] if isinstance(given, Mapping) else list(given) for name, given in parts.items()}
        if empty := [name for name, units in self.units.items() if not units]:
            raise TrainingError(f"part {empty[0]!r} has no model")
        first = next(iter(self.units.values()))[0]
        for name, units in self.units.items():
            for unit in units:
                if unit.keys() == first.keys() and (apart := distance(first, unit)) > widest:
                    what = f"a model of part {name!r} is {apart:.2f} of its length from the first part's"
                    raise TrainingError(f"{what}: they do not share a seed model, and their average is none")

    def merged(self, subset: Iterable[str]) -> dict[str, Tensor]:
        """The proxy's tensors. TrainingError for no part, an unknown one or one named twice."""
        names = sorted(subset)
        if not names or len(set(names)) != len(names):
            raise TrainingError(f"a subset names parts once each, not {names}")
        if unknown := [name for name in names if name not in self.units]:
            raise TrainingError(f"no part is called {unknown[0]!r}; there are {', '.join(self.units)}")
        weights = [1.0 if self.weighting == "micro" else 1 / len(self.units[name]) for name in names for _ in self.units[name]]
        return average([unit for name in names for unit in self.units[name]], weights, statistics=self._statistics)

    def subsets(self, size: int) -> list[Subset]:
        """All subsets of so many parts."""
        return list(itertools.combinations(sorted(self.units), size))

    def rank(self, subsets: Iterable[Iterable[str]], loss: Callable[[State], float]) -> list[Ranked[float]]:
        """Subsets by the loss of their proxies, lowest first; ties by name."""
        scored = [Ranked(tuple(sorted(subset)), float(loss(self.merged(subset)))) for subset in subsets]
        return sorted(scored, key=lambda entry: (entry.score, entry.subset))
