"""SLTrain: gradients are those of the dense weight restricted to factors and support, and the dense weight is not saved."""

import copy

import pytest
import torch
from continued_runs import assert_same, run_and_resumed_run, small_net
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.sltrain import SparseLowRankLinear, sltrain


def one_layer(m: int, n: int, rank: int, density: float) -> SparseLowRankLinear:
    generator = torch.Generator().manual_seed(m * n)
    layer = SparseLowRankLinear(nn.Linear(n, m).double(), rank, density, 8.0, generator)
    nn.init.normal_(layer.B, generator=generator)  # B starts at zero, where the gradient of A vanishes
    return layer


@given(m=st.integers(3, 12), n=st.integers(3, 12), rank=st.integers(1, 2), density=st.floats(0.05, 0.9))
def test_gradients_are_those_of_the_dense_weight(m: int, n: int, rank: int, density: float) -> None:
    layer = one_layer(m, n, rank, density)
    x = torch.randn(2, 3, n, dtype=torch.float64, requires_grad=True)
    names = ("A", "B", "values", "bias")
    ours = torch.autograd.grad(layer(x).sin().sum(), [x, *(getattr(layer, name) for name in names)])
    factors = {name: getattr(layer, name) for name in names}
    sparse = torch.zeros(m * n, dtype=torch.float64).index_put((layer.support.long(),), factors["values"]).view(m, n)
    weight = 8.0 / rank * factors["B"] @ factors["A"] + sparse
    dense = torch.autograd.grad((x @ weight.T + factors["bias"]).sin().sum(), [x, *factors.values()])
    torch.testing.assert_close(ours, dense)
    torch.testing.assert_close(layer.dense_weight(), weight)


def test_gradients_agree_with_finite_differences() -> None:
    layer = one_layer(5, 6, 2, 0.3)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *_: layer(x), (x, layer.B, layer.A, layer.values))


def test_backward_saves_the_factors_and_not_the_dense_weight() -> None:
    layer, saved = one_layer(64, 48, 2, 0.03), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(3, 48, dtype=torch.float64))
    assert sum(saved) == 3 * 48 + 2 * (64 + 48) + 2 * layer.values.numel()


@given(m=st.integers(3, 30), n=st.integers(3, 30), density=st.floats(0.01, 0.99))
def test_the_support_is_sorted_without_repeats_and_of_the_density_asked_for(m: int, n: int, density: float) -> None:
    support = one_layer(m, n, 1, density).support
    assert len(support) == max(1, int(density * m * n))
    assert (support.diff() > 0).all()
    assert 0 <= int(support[0]) <= int(support[-1]) < m * n


def test_the_same_seed_gives_the_same_support_whatever_was_drawn_before() -> None:
    one, other = small_net(), copy.deepcopy(small_net())
    sltrain(one, 2, seed=3)
    torch.rand(5)
    sltrain(other, 2, seed=3)
    assert_same(one.state_dict(), other.state_dict())


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, list[object]]:
        net = small_net()
        sltrain(net, 2, density=0.1)
        return net, torch.optim.AdamW(net.parameters(), lr=1e-2), []

    assert_same(*run_and_resumed_run(build, 5))


@pytest.mark.parametrize("density", [0.0, 1.0, -0.1])
def test_a_density_outside_0_and_1_is_refused(density: float) -> None:
    with pytest.raises(TrainingError, match="density is"):
        sltrain(small_net(), 2, density=density)
