"""Weight standardisation: every output channel of a convolution has weights of mean 0 and deviation 1, whatever is learnt.

    W_hat[o] = (W[o] - mean(W[o])) / (std(W[o]) + 1e-5)      over the fan-in of output channel o, std with n - 1

Gradients flow through mean and deviation. Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization", 2019, arXiv:1903.10520; their released layers have n - 1 too, and 1e-5 under the root.
It goes with a norm that does not look across records: batch_channel.py, or torch's GroupNorm. timm has convolutions with it
(`timm.layers.StdConv2d`); here it is a torch parametrization of the user's own convolutions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zkaudit.training.errors import TrainingError

EPS = 1e-5


class Standardised(NamedTuple):
    """Names of the modules whose weights are standardised, and of those with weights that are not."""

    applied: tuple[str, ...]
    left: tuple[str, ...]


class WeightStandard(nn.Module):
    """A parametrization: weight (O, ...) to its standardised form, in float32 at least, returned in the weight's own type."""

    def __init__(self, eps: float = EPS) -> None:
        if not eps > 0:
            raise TrainingError(f"eps = {eps} must be positive: equal weights have deviation 0")
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
        rows = rows - rows.mean(1, keepdim=True)
        return (rows / (rows.std(1, keepdim=True) + self.eps)).to(weight.dtype).view_as(weight)


def standardise_weights(model: nn.Module, eps: float = EPS) -> Standardised:
    """Standardise the weights of every convolution inside `model`; others, and those of fan-in 1, are left and listed.

    The learnt weight is `parametrizations.weight.original` in the `state_dict`; `fix_weights` puts the standardised ones in its
    place. Transposed convolutions are left: their first axis is the input. Raises TrainingError if there is nothing to
    standardise.
    """
    applied, left = [], []
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "weight", None), Tensor) or parametrize.is_parametrized(module, "weight"):
            continue
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.weight[0].numel() > 1:
            applied.append((name, module))
        else:
            left.append(name)
    if not applied:
        raise TrainingError("the model has no convolution of fan-in above 1 whose weights could be standardised")
    for _, module in applied:
        parametrize.register_parametrization(module, "weight", WeightStandard(eps))
    return Standardised(tuple(name for name, _ in applied), tuple(left))


def fix_weights(model: nn.Module) -> None:
    """Replace each standardised weight by its value, for inference: the model computes the same and is an ordinary one."""
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module, "weight"):
            continue
        parts = module.parametrizations
        assert isinstance(parts, nn.ModuleDict)
        if any(isinstance(part, WeightStandard) for part in parts["weight"].children()):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
