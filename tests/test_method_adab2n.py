"""AdaB2N: batch norm with one task, the paper's weights with several, eta in closed form."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.norm.adab2n import AdaB2N, balance_loss, convert_batch_norm, eta, tasks_of_batch


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1


def layer(tasks: int = 4, **options: object) -> AdaB2N:
    return AdaB2N(3, tasks, **options).double()


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 4, 5)])
@pytest.mark.parametrize("ids", [None, torch.zeros(6, dtype=torch.int64)])
def test_with_one_task_and_kappa_1_it_is_batch_norm(shape: tuple[int, ...], ids: Tensor | None) -> None:
    ours = layer(kappa=1.0)
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](3).double()
    nn.init.normal_(theirs.weight), nn.init.normal_(theirs.bias)
    ours.weight, ours.bias = theirs.weight, theirs.bias
    variance = torch.ones(3, dtype=torch.float64)
    for seed in range(4):
        x = batch(*shape, seed=seed)
        expected = theirs(x)
        if ids is None:
            found = ours(x)
        else:
            with tasks_of_batch(ours, ids):
                found = ours(x)
        torch.testing.assert_close(found, expected)
        others = [0, *range(2, x.dim())]
        variance = 0.9 * variance + 0.1 * x.var(others, correction=0)  # torch's own running variance is the unbiased one
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, variance)
    ours.eval(), theirs.eval()
    theirs.running_var = ours.running_var
    torch.testing.assert_close(ours(x), theirs(x))


def test_weights_are_the_papers_with_tasks_that_are_absent() -> None:
    ours = layer(tasks=5)
    with torch.no_grad():
        ours.phi.copy_(torch.tensor([0.3, -0.2, 0.5, 0.9, 7.0], dtype=torch.float64))
    with tasks_of_batch(ours, torch.tensor([3, 3])):
        ours(batch(2, 3))  # tasks 0 to 3 count as seen from here on
    ids = np.array([0, 0, 2, 3, 3, 3])
    x = batch(6, 3, 2, 2, seed=1)
    with tasks_of_batch(ours, torch.tensor(ids)):
        y = ours(x)
    counts = np.array([2, 0, 1, 3])
    concentration = np.exp([0.3, -0.2, 0.5, 0.9]) + counts
    share = concentration / concentration.sum()
    weight = share[ids] / counts[ids]
    assert weight.sum() == pytest.approx(1 - share[1])
    data = x.numpy()
    mean = np.einsum("n,nc->c", weight, data.mean((2, 3)))
    var = np.einsum("n,nc->c", weight, ((data - mean[:, None, None]) ** 2).mean((2, 3)))
    np.testing.assert_allclose(y.detach(), (data - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5), rtol=1e-10)


def test_renormalised_weights_sum_to_one() -> None:
    ours = layer(renormalise=True)
    x = torch.ones(4, 3, dtype=torch.float64)
    with tasks_of_batch(ours, torch.tensor([0, 0, 2, 2])):
        y = ours(x)
    torch.testing.assert_close(y, torch.zeros_like(y))  # a constant's mean is the constant


def test_equal_tasks_count_the_same_however_many_records_they_have_as_phi_grows() -> None:
    ours = layer(tasks=2)
    with torch.no_grad():
        ours.phi.fill_(30.0)
    x = torch.cat([batch(9, 3), batch(1, 3, seed=1) + 5])
    with tasks_of_batch(ours, torch.tensor([0] * 9 + [1])):
        ours(x)
    expected = (x[:9].mean(0) + x[9]) / 2
    torch.testing.assert_close(ours.running_mean, expected * eta(1, 0.1, 0.4))


@given(momentum=st.floats(0.01, 0.5), kappa=st.floats(0, 1), batches=st.integers(1, 60))
def test_eta_is_the_recursion(momentum: float, kappa: float, batches: int) -> None:
    value = momentum**kappa
    for _ in range(batches - 1):
        value = value / (value + (1 - momentum) ** kappa)
    assert eta(batches, momentum, kappa) == pytest.approx(value, rel=1e-9)


def test_eta_has_the_known_values() -> None:
    assert [round(eta(10, 0.1, kappa), 4) for kappa in (0.1, 0.4, 0.7, 1.0)] == [0.1023, 0.1067, 0.1063, 0.1]
    assert [round(eta(10**6, 0.1, kappa), 4) for kappa in (0.1, 0.4, 0.7, 1.0)] == [0.0105, 0.0413, 0.0711, 0.1]
    assert [eta(n, 0.1, 0.0) for n in (1, 2, 4)] == [1, 1 / 2, 1 / 4]


def test_kappa_0_keeps_the_mean_of_all_batches() -> None:
    ours = layer(kappa=0.0)
    batches = [batch(4, 3, seed=seed) for seed in range(7)]
    for x in batches:
        ours(x)
    torch.testing.assert_close(ours.running_mean, torch.cat(batches).mean(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_activations_may_have_another_type_than_the_layer(dtype: torch.dtype) -> None:
    ours = AdaB2N(3, 2)
    x = batch(4, 3, 5)
    with tasks_of_batch(ours, torch.tensor([0, 0, 1, 1])):
        found = ours(x.to(dtype))
        expected = ours(x)
    torch.testing.assert_close(found.double(), expected.double(), atol=0.05, rtol=0.05)


def test_a_saved_layer_goes_on_with_its_eta_and_tasks() -> None:
    straight, resumed = layer(), layer()
    for number in range(6):
        ids = torch.tensor([0, number // 2, 0, number // 2])
        if number == 3:
            resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
        for each in (straight, resumed) if number >= 3 else (straight,):
            with tasks_of_batch(each, ids):
                each(batch(4, 3, seed=number))
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in straight.state_dict().items())


def test_the_balance_loss_compares_with_the_statistics_after_the_batch_and_phi_learns() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    assert convert_batch_norm(model, tasks=3) == ("1", "4")
    x, ids = batch(8, 3), torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    with tasks_of_batch(model, ids):
        model(x)
        first = balance_loss(model)
        model(x + 1)  # a second pass before the first goes backward
        second = balance_loss(model)
    (first + second).backward()
    assert all(module.phi.grad.abs().sum() > 0 for module in model if isinstance(module, AdaB2N))
    hidden = model[0](x + 1).detach()
    share = model[1].shares(torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64)).detach()
    each = share[ids] / torch.tensor([5.0, 2.0, 1.0])[ids]
    mean = each @ hidden
    var = each @ (hidden - mean) ** 2
    part = ((mean - model[1].running_mean) ** 2).mean() + ((var - model[1].running_var) ** 2).mean()
    torch.testing.assert_close(model[1].balance.detach(), part)


def test_a_converted_model_gives_what_it_gave() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    model(batch(5, 3, 6, 6))
    model.eval()
    expected = model(batch(2, 3, 6, 6, seed=1))
    convert_batch_norm(model, tasks=2)
    torch.testing.assert_close(model(batch(2, 3, 6, 6, seed=1)), expected)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AdaB2N(3, 0), "tasks = 0"),
        (lambda: AdaB2N(3, 2, kappa=1.5), "kappa = 1.5"),
        (lambda: AdaB2N(3, 2, momentum=None), "momentum = None"),
        (lambda: convert_batch_norm(nn.Linear(2, 2), 2), "no batch normalisation"),
        (lambda: balance_loss(nn.Sequential(layer())), "before every layer"),
        (lambda: balance_loss(nn.Linear(2, 2)), "no AdaB2N layer"),
        (lambda: tasks_of_batch(layer(), torch.tensor([0, 4])).__enter__(), "from 0 to 3"),
        (lambda: tasks_of_batch(layer(), torch.tensor([0.0])).__enter__(), "from 0 to 3"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()


def test_task_ids_of_another_batch_are_refused() -> None:
    ours = layer()
    with tasks_of_batch(ours, torch.tensor([0, 1])), pytest.raises(TrainingError, match="for a batch of 5 records"):
        ours(batch(5, 3))
