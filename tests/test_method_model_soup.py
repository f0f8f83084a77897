"""Averages and soups: torch's own average, the greedy rule, and models that must not be averaged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from zkaudit.training.errors import TrainingError
from zkaudit.training.models.average import average, distance
from zkaudit.training.models.soup import greedy_soup, uniform_soup


def models(count: int, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype) for _ in range(count)]


def test_an_average_is_torch_s() -> None:
    built = models(4)
    averaged = AveragedModel(built[0])
    for model in built:
        averaged.update_parameters(model)
    ours = average([model.state_dict() for model in built])
    for name, expected in averaged.module.state_dict().items():
        torch.testing.assert_close(ours[name], expected)


@given(st.lists(st.floats(-1, 3), min_size=3, max_size=3).filter(lambda weights: sum(weights) > 0.1))
def test_weights_count_by_their_share(weights: list[float]) -> None:
    states = [{"w": torch.tensor([float(number), number**2], dtype=torch.float64)} for number in range(3)]
    expected = sum(w / sum(weights) * s["w"] for w, s in zip(weights, states, strict=True))
    torch.testing.assert_close(average(states, weights)["w"], expected)


def test_many_small_numbers_in_half_precision_are_added_in_float64() -> None:
    states = [{"w": torch.tensor([1.0 if number == 0 else 2.0**-10]).half()} for number in range(1000)]
    exact = (1 + 999 * 2.0**-10) / 1000
    assert average(states)["w"].dtype == torch.float16
    assert average(states)["w"].item() == torch.tensor(exact).half().item()


def test_running_statistics_are_refused_unless_they_are_made_anew() -> None:
    torch.manual_seed(0)
    x = [torch.randn(64, 3) for _ in range(4)]
    built = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)]
    for model in built:
        for batch in x:
            model(batch)
    states = [model.state_dict() for model in built]
    with pytest.raises(TrainingError, match=r"1\.running_mean is a running statistic"):
        average(states)
    built[0].load_state_dict(average(states, statistics=True))
    wrong = built[0][1].running_var.clone()
    update_bn(x, built[0])
    right = torch.stack([built[0][0](batch).var(0) for batch in x]).mean(0)
    torch.testing.assert_close(built[0][1].running_var, right, rtol=1e-4, atol=1e-4)
    assert (wrong - right).abs().max() > 0.1


def test_whole_numbers_are_the_first_model_s() -> None:
    states = [{"n": torch.tensor(number), "w": torch.tensor([float(number)])} for number in (4, 8)]
    assert average(states)["n"].item() == 4


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: average([]), "no models to average"),
        (lambda: average([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}]), "do not both have the tensor a"),
        (lambda: average([{"a": torch.zeros(1)}, {"a": torch.zeros(2)}]), "a has shape"),
        (lambda: average([{"a": torch.zeros(1)}], [0.0]), "sum above 0"),
        (lambda: average([{"a": torch.zeros(1)}], [1.0, 2.0]), "weights must be 1"),
        (lambda: greedy_soup([{"a": torch.zeros(1)}], lambda state: math.nan), "score of model 0 is not a number"),
        (lambda: greedy_soup([], lambda state: 1.0), "no models to average"),
    ],
)
def test_what_cannot_be_averaged_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()


def score(state: Mapping[str, Tensor]) -> float:
    """Closeness to a point."""
    return -float((state["w"] - torch.tensor([1.0, 1.0])).abs().sum())


POINTS = st.lists(st.tuples(st.integers(-3, 5), st.integers(-3, 5)), min_size=1, max_size=6)


@given(POINTS)
def test_the_greedy_soup_is_the_one_its_rule_makes(points: list[tuple[int, int]]) -> None:
    states = [{"w": torch.tensor(point, dtype=torch.float32)} for point in points]
    members, best = [], -math.inf
    for number in sorted(range(len(points)), key=lambda i: (-score(states[i]), i)):
        tried = {"w": torch.stack([states[i]["w"].double() for i in [*members, number]]).mean(0).float()}
        if score(tried) >= best or not members:
            members, best = [*members, number], score(tried)
    soup = greedy_soup(states, score)
    assert soup.members == tuple(members)
    assert soup.score == pytest.approx(best)
    assert soup.score >= max(soup.singles)


@given(POINTS)
@settings(max_examples=20)
def test_scores_are_asked_for_once_a_model_and_once_a_try(points: list[tuple[int, int]]) -> None:
    counted = itertools.count()
    greedy_soup([{"w": torch.tensor(point, dtype=torch.float32)} for point in points], lambda s: (next(counted), score(s))[1])
    assert next(counted) == 2 * len(points) - 1


def test_the_uniform_soup_has_everybody() -> None:
    states = [{"w": torch.tensor([float(number), 0.0])} for number in range(3)]
    soup = uniform_soup(states, score)
    assert soup.members == (0, 1, 2)
    assert soup.state["w"].tolist() == [1.0, 0.0]
    assert soup.score == -1.0


def test_of_a_soup_of_two_each_owner_learns_the_other() -> None:
    mine, theirs = (model.state_dict() for model in models(2, torch.float64))
    soup = average([mine, theirs])
    for name, expected in theirs.items():
        torch.testing.assert_close(2 * soup[name] - mine[name], expected)


def test_models_of_other_starts_are_far_apart() -> None:
    one, other = (model.state_dict() for model in models(2))
    near = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in one.items()}
    assert distance(one, near) < 0.1
    assert distance(one, other) > 1.0
