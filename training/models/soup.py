"""Model soups: the average of several fine-tunings of one model, in place of the best of them.

    uniform   all of them
    greedy    from best to worst on validation, each is added if the average with it is at least as good there

Wortsman et al. 2022, arXiv 2203.05482; POINTS (Liu et al. 2024, arXiv 2409.04828) averages models tuned on different data, and
finds the greedy one best. By construction the greedy soup is at least as good on validation as the best single model, so judge
it on other data. All must start from the same weights (average.py). Ties are tried in the order given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.models.average import State, average

METHOD = Method(
    name="model-soup",
    title="Model soups: averages of fine-tunings",
    paper="Wortsman et al. 2022, arXiv 2203.05482; Liu et al. 2024 (POINTS), arXiv 2409.04828",
    where="zkaudit.training.models.soup.greedy_soup",
    changes=("model", "robustness"),
    effect="Better than the best of the models averaged, at the cost of one when used; greedy soups beat uniform ones.",
    library="torch.optim.swa_utils averages along one run; mergekit merges checkpoints on disk",
    provable="An average is linear in committed weights with public coefficients; no relation for it is written yet.",
    server_sees="Only the average, if models are averaged securely; of two models each owner can subtract its own.",
    use="""
from zkaudit.training.models.soup import greedy_soup

soup = greedy_soup([model.state_dict() for model in tuned], score=validation_accuracy)  # of a state dict, higher is better
model.load_state_dict(soup.state)
print(soup.members)
""",
    avoid="models that did not start from the same weights, and batch normalisation unless its statistics are made anew",
    binding="replayable",
)

Score = Callable[[State], float]


@dataclass(frozen=True)
class Soup:
    """The averaged tensors, the models in it in the order they were added, its score, and each model's own score."""

    state: dict[str, Tensor]
    members: tuple[int, ...]
    score: float
    singles: tuple[float, ...]


def greedy_soup(states: Sequence[State], score: Score, *, statistics: bool = False) -> Soup:
    """The greedy soup; `score` judges a state dict on validation data, higher is better.

    It is called at most 2 n - 1 times. TrainingError as for `average`, and for a score that is not a number."""
    singles = tuple(_checked(score(state), f"model {number}") for number, state in enumerate(states))
    order = sorted(range(len(states)), key=lambda number: (-singles[number], number))
    members, best = order[:1], singles[order[0]] if order else math.nan
    for number in order[1:]:
        candidate = average([states[i] for i in [*members, number]], statistics=statistics)
        if (found := _checked(score(candidate), f"the soup of models {[*members, number]}")) >= best:
            members, best = [*members, number], found
    return Soup(average([states[i] for i in members], statistics=statistics), tuple(members), best, singles)


def uniform_soup(states: Sequence[State], score: Score, *, statistics: bool = False) -> Soup:
    """The average of all; scores are told, not used."""
    singles = tuple(_checked(score(state), f"model {number}") for number, state in enumerate(states))
    state = average(states, statistics=statistics)
    return Soup(state, tuple(range(len(states))), _checked(score(state), "the soup of all models"), singles)


def _checked(value: float, what: str) -> float:
    if math.isnan(value):
        raise TrainingError(f"the score of {what} is not a number")
    return float(value)
