"""Batch-channel normalisation, with weight standardisation (weight_standard.py): training with one or two records a step.

Batch normalisation by running estimates instead of the batch's own statistics, then group normalisation:

    mu <- mu + r (mean(x) - mu)      s <- s + r (var(x) - s)      over records and positions; no gradient flows through mu and s
    z = a (x - mu) / sqrt(s + eps) + b
    y = c (z - mean_g(z)) / sqrt(var_g(z) + eps) + d              over a group g of channels of one record

The estimates remember many steps, which a batch of one lacks; the second part makes up for what they miss. r = 0.1 (torch's
momentum for batch normalisation), 32 groups (the paper's layers). Start from estimates 0 and 1. At evaluation mu and s stay as
they are. Without a gradient through mu and s nothing holds the scale of x, so that weights must be held by weight
standardisation. Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", 2019,
section 4. c and d are a number a channel, as in torch's GroupNorm; their released layers have one a group."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="ws-bcn",
    title="Weight standardisation and batch-channel normalisation",
    paper="Qiao, Wang, Liu, Shen, Yuille 2019, arXiv:1903.10520",
    where="zkaudit.training.norm.batch_channel.BatchChannelNorm",
    changes=("batch", "model"),
    effect="Networks train with one or two images a step, where batch normalisation fails, and reach its large-batch accuracy.",
    library="timm has standardised convolutions (StdConv2d); batch-channel normalisation is ours.",
    provable="Not yet: needs proved division by square roots; the estimates would be public state.",
    server_sees="The gradient of one or two records, which is the easiest to invert; records do not mix inside a step.",
    use=(
        "from zkaudit.training.norm.batch_channel import convert_batch_norm\n"
        "from zkaudit.training.norm.weight_standard import fix_weights, standardise_weights\n"
        "\n"
        "convert_batch_norm(model, groups=32)  # before training and before the optimizer is made\n"
        "standardise_weights(model)  # says which weights are standardised and which are left\n"
        "fix_weights(model)  # after training"
    ),
    avoid=(
        "On a pretrained network with batch norm, whose statistics it replaces, and where a batch has 16 records "
        "or more: batch norm is simpler."
    ),
)


class BatchChannelNorm(nn.Module):
    """x (N, C, ...) to the same shape. `weight`, `bias` (C,) belong to the batch part, `group_weight`, `group_bias` to the
    group part.

    Raises TrainingError for groups that do not divide the channels and for a rate outside (0, 1].
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, groups: int = 32, rate: float = 0.1, eps: float = 1e-5) -> None:
        if groups < 1 or num_features % groups:
            raise TrainingError(f"groups = {groups} does not divide {num_features} channels")
        if not 0 < rate <= 1:
            raise TrainingError(f"rate = {rate} must be above 0 and at most 1")
        super().__init__()
        self.num_features, self.groups, self.rate, self.eps = num_features, groups, rate, eps
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.group_weight, self.group_bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (N, {self.num_features}, ...)")
        if self.training:
            self._observe(x.detach())
        # Copies: a second pass before the backward one may move the estimates.
        mean, var = self.running_mean.clone(), self.running_var.clone()
        z = F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        return F.group_norm(z, self.groups, self.group_weight, self.group_bias, self.eps)

    def _observe(self, x: Tensor) -> None:
        """Move the estimates towards the mean and the variance (divided by the count) of this batch."""
        var, mean = torch.var_mean(x.transpose(0, 1).flatten(1).to(self.running_mean.dtype), dim=1, correction=0)
        self.running_mean.lerp_(mean, self.rate)
        self.running_var.lerp_(var, self.rate)

    def extra_repr(self) -> str:
        return f"{self.num_features}, groups={self.groups}, rate={self.rate}, eps={self.eps}"


def convert_batch_norm(model: nn.Module, groups: int = 32, rate: float = 0.1) -> tuple[str, ...]:
    """Put a fresh BatchChannelNorm in place of every batch normalisation inside `model`; returns their names.

    Call it before training and before the optimizer is made. `groups` is lowered to the largest divisor of a layer's channels.
    Raises TrainingError if there is none or if `model` itself is one.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if not found or not found[0][0]:
        raise TrainingError("there is no batch normalisation inside the model to convert")
    for name, old in found:
        new = BatchChannelNorm(old.num_features, _divisor(old.num_features, groups), rate, old.eps)
        like = next((tensor for tensor in old.state_dict().values() if tensor.is_floating_point()), torch.zeros(()))
        model.set_submodule(name, new.to(like.device, like.dtype))
    return tuple(name for name, _ in found)


def _divisor(channels: int, most: int) -> int:
    return next(groups for groups in range(min(most, channels), 0, -1) if channels % groups == 0)
