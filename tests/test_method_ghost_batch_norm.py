"""Ghost batch normalisation: each part is normalised as a batch of its own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.norm.ghost_batch import GhostBatchNorm, convert_batch_norm


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)
    ).double()


@settings(max_examples=30)
@given(
    records=st.integers(2, 17),
    ghost=st.integers(2, 9),
    tail=st.sampled_from([(), (3,), (2, 2), (2, 2, 2)]),
    seed=st.integers(0, 99),
)
def test_parts_are_normalised_as_torch_normalises_batches_of_their_size(
    records: int, ghost: int, tail: tuple[int, ...], seed: int
) -> None:
    x = random(records, 3, *tail, seed=seed)
    kind = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[len(tail)]
    ours, theirs = GhostBatchNorm(3, ghost).double(), kind(3).double()
    count = min(math.ceil(records / ghost), records // 2)
    expected = torch.cat([theirs(part) for part in x.tensor_split(count)])
    assert torch.equal(ours(x), expected)
    assert torch.equal(ours.running_mean, theirs.running_mean)
    assert torch.equal(ours.running_var, theirs.running_var)


def test_running_mean_is_the_papers_sum_over_parts() -> None:
    x, norm = random(12, 3), GhostBatchNorm(3, 4, momentum=0.1).double()
    norm.running_mean.fill_(2.0)
    norm(x)
    means = x.reshape(3, 4, 3).mean(1)
    by_hand = 0.9**3 * 2.0 + sum(0.9 ** (2 - i) * 0.1 * means[i] for i in range(3))
    torch.testing.assert_close(norm.running_mean, by_hand)


def test_a_batch_of_one_part_is_plain_batch_normalisation() -> None:
    ours, theirs, x = GhostBatchNorm(3, 8).double(), nn.BatchNorm2d(3).double(), random(8, 3, 2, 2)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (ours(a) ** 3).sum().backward()
    (theirs(b) ** 3).sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_converting_keeps_the_state_and_what_evaluation_computes() -> None:
    model = network()
    model(random(5, 1, 3, 3))
    before, expected = model.state_dict(), model.eval()(random(5, 1, 3, 3))
    parameters = list(model.parameters())
    assert convert_batch_norm(model, 4) == ("1", "5")
    assert list(model.state_dict()) == list(before)
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))
    assert torch.equal(model(random(5, 1, 3, 3)), expected)


def test_training_from_a_saved_state_goes_on_bit_for_bit() -> None:
    def train(model: nn.Module, steps: range) -> None:
        for step in steps:
            model.zero_grad()
            nn.functional.cross_entropy(model(random(10, 1, 3, 3, seed=step)), torch.arange(10) % 4).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad

    models = [network() for _ in range(3)]
    for model in models:
        convert_batch_norm(model, 4)
    train(models[0], range(4))
    train(models[1], range(2))
    models[2].load_state_dict(models[1].state_dict())
    train(models[2], range(2, 4))
    assert all(torch.equal(value, models[2].state_dict()[key]) for key, value in models[0].state_dict().items())


@pytest.mark.parametrize(
    ("options", "sentence"), [({"ghost": 1}, "ghost = 1 must be at least 2"), ({"momentum": None}, "momentum = None")]
)
def test_bad_options_are_named(options: dict[str, int | None], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        GhostBatchNorm(3, **options)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "no batch normalisation"),
        (nn.BatchNorm1d(2), "itself a batch normalisation"),
        (nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), "keeps no running statistics"),
    ],
)
def test_a_model_that_cannot_be_converted_is_refused(model: nn.Module, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        convert_batch_norm(model)


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 3"):
        GhostBatchNorm(3)(torch.ones(4, 2))
