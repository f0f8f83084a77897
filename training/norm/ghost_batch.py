"""Ghost batch normalisation: statistics of small parts of a large batch.

A batch of N records is cut into G = min(ceil(N / ghost), floor(N / 2)) parts of nearly equal size, in order. Part i is
normalised by its own mean m_i and variance v_i, as batch normalisation does with a batch of that size, and the running
statistics take the parts one after another:

    y = (x - m_i) / sqrt(v_i + eps) * weight + bias        running <- (1 - momentum) running + momentum (m_i, v_i),  i = 1..G

so that after a batch they are (1 - momentum)^G of what they were plus the parts with weights falling by (1 - momentum).
Hoffer, Hubara and Soudry, "Train longer, generalize better", 2017, section 4. ghost = 128 there; 32 to 128 are usual.
Evaluation is batch normalisation's. Use it with the schedule of training/schedule/regime.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="ghost-batch-norm",
    title="Ghost batch normalisation",
    paper="Hoffer, Hubara, Soudry 2017, arXiv:1705.08741",
    where="zkaudit.training.norm.ghost_batch.GhostBatchNorm",
    changes=("batch", "model"),
    effect="Together with a longer schedule it removes the gap in test accuracy between batches of 4096 and of 128.",
    library="",
    provable="Not yet: a step needs proved division and square roots of each part's variance.",
    server_sees="A gradient summed over more records, as for any large batch; records of one part depend on each other.",
    use=(
        "from zkaudit.training.norm.ghost_batch import convert_batch_norm\n"
        "\n"
        "convert_batch_norm(model, ghost=128)  # names what it converted; parameters and state keys stay"
    ),
    avoid=(
        "Without more updates or a larger rate it recovers a part of the gap only; with synchronised batch norm "
        "it has no sense."
    ),
)


class GhostBatchNorm(_BatchNorm):
    """Batch normalisation of x (N, C, ...) over parts of about `ghost` records. Its `state_dict` is that of torch's BatchNorm.

    Raises TrainingError for a ghost size below 2 and for momentum None (a cumulative mean has no meaning over parts).
    """

    def __init__(
        self, num_features: int, ghost: int = 128, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True
    ) -> None:
        if ghost < 2:
            raise TrainingError(f"ghost = {ghost} must be at least 2: one record has no variance")
        if momentum is None:
            raise TrainingError("momentum = None is not supported by ghost batch normalisation: give a number")
        super().__init__(num_features, eps, momentum, affine)
        self.ghost = ghost

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        parts = max(1, min(-(-len(x) // self.ghost), len(x) // 2))
        return torch.cat([self._normalised(part) for part in x.tensor_split(parts)])

    def _normalised(self, part: Tensor) -> Tensor:
        assert self.momentum is not None
        return F.batch_norm(part, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or len(x) == 0 or x.shape[1] != self.num_features:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (N, {self.num_features}, ...) with N > 0")

    def extra_repr(self) -> str:
        return f"{self.num_features}, ghost={self.ghost}, eps={self.eps}, momentum={self.momentum}"


def convert_batch_norm(model: nn.Module, ghost: int = 128) -> tuple[str, ...]:
    """Make every batch normalisation inside `model` a ghost one, with the same parameters and buffers; returns their names.

    Raises TrainingError if there is none, if one keeps no running statistics, or if `model` itself is one.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if not found:
        raise TrainingError("the model has no batch normalisation to convert")
    for name, old in found:
        if not name:
            raise TrainingError("the model is itself a batch normalisation: make a GhostBatchNorm instead")
        if not old.track_running_stats:
            raise TrainingError(f"{name} keeps no running statistics, which ghost batch normalisation needs")
        new = GhostBatchNorm(old.num_features, ghost, old.eps, old.momentum, old.affine)
        new.weight, new.bias = old.weight, old.bias
        new.running_mean, new.running_var, new.num_batches_tracked = old.running_mean, old.running_var, old.num_batches_tracked
        new.training = old.training
        model.set_submodule(name, new)
    return tuple(name for name, _ in found)
