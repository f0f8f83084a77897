"""Layer normalisation: torch's, and its backward pass written out, as the reference that a proved step is held against.

Over the last axis of n numbers, with mean m and variance v (divided by n):

    xh = (x - m) / sqrt(v + eps)      y = weight xh + bias
    dx = (gh - mean(gh) - xh mean(gh xh)) / sqrt(v + eps)  with gh = weight dy      dweight = sum dy xh      dbias = sum dy

where sums are over all axes but the last. eps = 1e-5. Ba, Kiros and Hinton, "Layer Normalization", 2016."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.method import Method

METHOD = Method(
    name="layer-norm",
    title="Layer normalisation",
    paper="Ba, Kiros, Hinton 2016, arXiv:1607.06450",
    where="torch.nn.LayerNorm",
    changes=("model",),
    effect="Training that does not depend on the batch size, at train and test time alike; the norm of transformers.",
    library="torch",
    provable="Its forward is a relation of integers (zk/circuit/norm.py); no statement about training uses it yet.",
    server_sees="The plain gradient: records stay independent of each other, unlike under batch normalisation.",
    use=(
        "from zkaudit.training.norm.layer import layer_norm_backward\n"
        "\n"
        "norm = torch.nn.LayerNorm(96)\n"
        "dx, dweight, dbias = layer_norm_backward(dy, x, weight)  # float64, what a proved step is held against"
    ),
    avoid="The written-out backward pass is a reference, not for training: torch's is faster.",
)


class LayerNormGradients(NamedTuple):
    """x of the shape of the input, weight and bias (n,)."""

    x: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


def layer_norm_backward(
    dy: NDArray[np.float64], x: NDArray[np.float64], weight: NDArray[np.float64], eps: float = 1e-5
) -> LayerNormGradients:
    """Gradients in float64 from dy and x (..., n) and weight (n,). Raises ValueError if shapes do not fit."""
    if dy.shape != x.shape or x.ndim < 1 or weight.shape != x.shape[-1:]:
        raise ValueError(f"shapes do not fit: dy {dy.shape}, x {x.shape}, weight {weight.shape}")
    dy, x, weight = (np.asarray(array, dtype=np.float64) for array in (dy, x, weight))
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    unit = centred / deviation
    inner = dy * weight
    dx = (inner - inner.mean(-1, keepdims=True) - unit * (inner * unit).mean(-1, keepdims=True)) / deviation
    rows = tuple(range(x.ndim - 1))
    return LayerNormGradients(dx, (dy * unit).sum(rows), dy.sum(rows))
