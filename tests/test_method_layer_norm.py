"""Layer normalisation: the written-out backward pass is torch's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zkaudit.training.norm.layer import layer_norm_backward


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    rows=st.lists(st.integers(1, 3), max_size=2),
    n=st.integers(1, 9),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_layer_norm_backward_is_that_of_torch(rows: list[int], n: int, size: float, seed: int) -> None:
    x, dy = (size * random(*rows, n, seed=seed)).requires_grad_(), random(*rows, n, seed=seed + 1)
    norm = nn.LayerNorm(n).double()
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(seed))
    norm(x).backward(dy)
    expected = [gradient.grad.numpy() for gradient in (x, norm.weight, norm.bias)]
    for theirs, ours in zip(
        expected, layer_norm_backward(dy.numpy(), x.detach().numpy(), norm.weight.detach().numpy()), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_layer_norm_backward_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"dy \(2, 3\), x \(3, 3\)"):
        layer_norm_backward(np.ones((2, 3)), np.ones((3, 3)), np.ones(3))
