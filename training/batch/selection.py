"""What selectors share: a forward pass for scores alone, and the rule that repeats a choice from recorded scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zkaudit.training.replay import Lacking
from zkaudit.training.steps import StepRecord

Choose = Callable[[Sequence[int], Sequence[tuple[int, ...]]], Mapping[str, Any]]


@dataclass(frozen=True)
class Selection:
    """What was chosen of B candidates: places among them, their rows, and weights, which are equal if there are none.

    scores, state: for the record, the integers by which it was chosen and the digest of what was remembered before.
    """

    selector: str
    places: tuple[int, ...]
    ids: tuple[int, ...]
    scores: tuple[tuple[int, ...], ...]
    state: str
    weights: tuple[float, ...]

    def of(self, candidates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The chosen part of a batch."""
        return {name: value[list(self.places)] for name, value in candidates.items()}

    def fields(self, candidate_ids: Sequence[int]) -> dict[str, Any]:
        """Fields of the step's record."""
        chosen = {"candidate_ids": tuple(candidate_ids), "ids": self.ids, "weights": self.weights, "scores": self.scores}
        return chosen | {"selector": self.selector, "selector_state": self.state}


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Without gradients and without dropout; afterwards every module trains or not as it did."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def forward_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits of a model of transformers; labels are left out."""
    with scoring(model):
        logits: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return logits


class SelectorRule:
    """Repeats `choose(candidate_ids, scores)`, which gives fields of the record. width: integers for each candidate, or any."""

    selects = True

    def __init__(self, choose: Choose, width: int | None = None) -> None:
        self.choose, self.width = choose, width

    def expected(self, record: StepRecord) -> Mapping[str, Any]:
        if len(set(record.candidate_ids)) != len(record.candidate_ids) or not record.candidate_ids:
            raise Lacking("candidate_ids", "rows to choose from, each named once")
        widths = {len(row) for row in record.scores}
        if len(record.scores) != len(record.candidate_ids) or len(widths) != 1 or self.width not in (None, *widths):
            raise Lacking("scores", f"as many integers for each of {len(record.candidate_ids)} candidates")
        return self.choose(record.candidate_ids, record.scores)

    def after(self, record: StepRecord) -> None:
        pass
