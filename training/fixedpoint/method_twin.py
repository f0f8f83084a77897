"""The same run in float64, with the same method: what fixed point is compared with where the method is not plain SGD.

Nothing is rounded but FP8's casts and stored moments; bases, exact moments and adapters are what the papers' formulas say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zkaudit.training.config import Settings
from zkaudit.training.data import Dataset
from zkaudit.training.fixedpoint.float_step import FloatMethod, trained
from zkaudit.training.fixedpoint.network import accuracy, from_matrices


def method_twin(
    start: Sequence[Tensor],
    frozen: Sequence[Tensor],
    dataset: Dataset,
    batches: NDArray[np.int64],
    settings: Settings,
    seed: bytes | None,
) -> float:
    """Test accuracy after the same steps from the same start weights, on the same batches, with the same learning rates."""
    bits = settings.fixed_point
    method = FloatMethod(
        settings.fp8, settings.galore, settings.lora, bits.activation_bits + bits.gradient_bits, settings.batch, seed or b""
    )
    weights, base = ([matrix.to(torch.float64) * 2.0**-bits.weight_bits for matrix in given] for given in (start, frozen))
    x, y = torch.from_numpy(dataset.x_train).to(torch.float64), torch.from_numpy(dataset.y_train)
    wanted, rows = torch.nn.functional.one_hot(y, dataset.classes).to(torch.float64), torch.from_numpy(batches.astype(np.int64))
    end = trained(weights, x, wanted, rows, settings.learning_rates, settings.loss, method, base)
    return accuracy(from_matrices(method.layers(base, end)), dataset.x_test, dataset.y_test)
