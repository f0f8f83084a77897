"""Pure low rank: a layer is the nearest product of rank r, trains like two dense layers, and can be turned back."""

import pytest
import torch
from continued_runs import assert_same, run_and_resumed_run, small_net, tiny_llama, train
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.factorised import FactorisedLinear, low_rank
from zkaudit.training.low_rank.linears import restore_linears


@given(m=st.integers(3, 20), n=st.integers(3, 20), rank=st.integers(1, 2))
def test_the_start_is_the_nearest_matrix_of_its_rank_with_balanced_factors(m: int, n: int, rank: int) -> None:
    torch.manual_seed(m * n)
    linear = nn.Linear(n, m).double()
    layer = FactorisedLinear(linear, rank)
    dropped = torch.linalg.svdvals(linear.weight)[rank:]
    torch.testing.assert_close(torch.linalg.matrix_norm(linear.weight - layer.dense_weight()), dropped.norm())
    torch.testing.assert_close(layer.B.T @ layer.B, layer.A @ layer.A.T, rtol=0, atol=1e-12)


def test_gradients_are_those_of_two_dense_layers() -> None:
    net = small_net()
    low_rank(net, 3)
    dense = nn.Sequential(nn.Linear(12, 3, bias=False), nn.Linear(3, 16)).double()
    with torch.no_grad():
        dense[0].weight.copy_(net[0].A)
        dense[1].weight.copy_(net[0].B)
        dense[1].bias.copy_(net[0].bias)
    x = torch.randn(5, 12, dtype=torch.float64)
    for layer in (net[0], dense):
        layer(x).pow(2).sum().backward()
    torch.testing.assert_close(net[0].A.grad, dense[0].weight.grad)
    torch.testing.assert_close(net[0].B.grad, dense[1].weight.grad)


def test_a_tied_head_and_embeddings_stay_and_numbers_are_r_times_m_plus_n() -> None:
    model = tiny_llama()
    taken = low_rank(model, 4)
    assert "lm_head" not in taken.layers
    assert "model.embed_tokens.weight" in taken.full
    for layer in taken.layers.values():
        assert sum(p.numel() for p in layer.parameters()) == 4 * (layer.in_features + layer.out_features)
    logits = model(torch.arange(8)[None]).logits
    restore_linears(model)
    torch.testing.assert_close(model(torch.arange(8)[None]).logits, logits, rtol=0, atol=1e-5)


def test_layers_that_are_too_small_are_left_and_named() -> None:
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 4))
    taken = low_rank(net, 4)
    assert list(taken.layers) == ["0"]
    assert taken.full == ("0.bias", "1.weight", "1.bias")


def test_a_layer_used_twice_is_replaced_once_and_stays_shared() -> None:
    shared = nn.Linear(8, 8)
    net = nn.Sequential(shared, nn.Tanh(), shared)
    low_rank(net, 2)
    assert isinstance(net[0], FactorisedLinear)
    assert net[0] is net[2]
    restore_linears(net)
    assert type(net[0]) is nn.Linear
    assert net[0] is net[2]


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, list[object]]:
        net = small_net()
        low_rank(net, 3)
        return net, torch.optim.AdamW(net.parameters(), lr=1e-2), []

    assert_same(*run_and_resumed_run(build, 5))


def test_the_update_has_a_rank_of_at_most_twice_the_factors() -> None:
    net = small_net()
    low_rank(net, 2)
    before = net[0].dense_weight().detach().clone()
    train(net, torch.optim.AdamW(net.parameters(), lr=1e-2), 0, 30)
    assert int(torch.linalg.matrix_rank(net[0].dense_weight() - before, atol=1e-8)) == 4


@pytest.mark.parametrize(("rank", "targets"), [(0, []), (16, []), (2, ["attention"])])
def test_bad_options_are_one_sentence(rank: int, targets: list[str]) -> None:
    with pytest.raises(TrainingError, match=f"rank (is )?{rank}"):
        low_rank(small_net(), rank, targets)
