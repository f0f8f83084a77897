"""AdaB2N: batch normalisation whose statistics are balanced between tasks (Lyu, Wang, Zhang, Sun, Su, Zhu and Jing 2023, arXiv
2310.08855).

In continual learning with replay a batch is mostly of the newest task. With n_t records of task t in the batch, s tasks seen
so far, and one learned phi_t per layer and task (0 at first),

    p_t = (exp(phi_t) + n_t) / sum over seen u of (exp(phi_u) + n_u)        a record of task t has weight p_t / n_t
    mean = sum of weight * record's mean,   var = sum of weight * record's mean square distance from it

A seen task that is not in the batch keeps its share p_t, so weights sum to less than 1, as in the released code; `renormalise`
divides them by their sum. The running statistics move by eta_n at the n-th batch,

    eta_1 = m^k,   eta_{n+1} = eta_n / (eta_n + (1 - m)^k)          k = 0: 1/n, their plain mean; k = 1: m, as usual

in closed form 1 / eta_n = (1 - q^(n-1)) / (1 - q) + q^(n-1) / m^k with q = (1 - m)^k, which tends to 1 - q: for k > 0 old tasks
are still forgotten over long runs, only more slowly. balance_loss is the sum over layers of the mean square difference of
batch and running statistics, to be added to the loss times lambda. m = 0.1 as usual; k was taken from 0.1, 0.4, 0.7 and 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="adab2n",
    title="Adaptive balance of batch normalisation",
    paper="Lyu et al. 2023, arXiv 2310.08855",
    where="zkaudit.training.norm.adab2n.AdaB2N",
    changes=("model",),
    effect="Up to 7.68, 6.86 and 4.26 points of accuracy on online Split CIFAR-10, CIFAR-100 and Mini-ImageNet.",
    library="",
    provable="Not yet: as batch norm it needs proved division and square roots; weights and eta are public arithmetic.",
    server_sees="Running means and variances as any batch norm shows them, and in phi's gradient how many records a task has.",
    use=(
        "from zkaudit.training.norm.adab2n import balance_loss, convert_batch_norm, tasks_of_batch\n"
        "\n"
        "convert_batch_norm(model, tasks=5, kappa=0.4)\n"
        "with tasks_of_batch(model, task_ids):  # (N,), from 0\n"
        "    loss = criterion(model(x), y) + 0.1 * balance_loss(model)"
    ),
    avoid="Runs without tasks or without replay: with one task it is batch norm, and eta alone does not keep old tasks.",
    binding="declared",
)


class AdaB2N(_BatchNorm):
    """Batch normalisation of x (N, C, ...). Task ids of a batch come from `tasks_of_batch`; without them it is batch norm's
    own statistics, with eta. The running variance takes the batch's biased variance, as released.

    Raises TrainingError for a bad kappa, momentum or number of tasks.
    """

    seen: Tensor  # (): tasks seen so far

    def __init__(
        self,
        num_features: int,
        tasks: int,
        kappa: float = 0.4,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        renormalise: bool = False,
    ) -> None:
        if tasks < 1:
            raise TrainingError(f"tasks = {tasks} must be at least 1")
        if not 0 <= kappa <= 1:
            raise TrainingError(f"kappa = {kappa} must be from 0 to 1")
        if momentum is None or not 0 < momentum < 1:
            raise TrainingError(f"momentum = {momentum} must be above 0 and below 1")
        super().__init__(num_features, eps, momentum, affine)
        self.rate, self.kappa, self.renormalise = momentum, kappa, renormalise
        self.phi = nn.Parameter(torch.zeros(tasks))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.task_ids: Tensor | None = None
        self.balance: Tensor | None = None  # this layer's part of balance_loss, of the last batch in training

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or len(x) == 0 or x.shape[1] != self.num_features:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (N, {self.num_features}, ...) with N > 0")
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        weights = self._record_weights(x)
        others = tuple(range(2, x.dim()))
        mean = weights @ (x.mean(others) if others else x)
        shape = (1, -1, *[1] * len(others))
        squares = (x - mean.reshape(shape)).square()
        var = weights @ (squares.mean(others) if others else squares)
        self._track(mean, var)
        y = (x - mean.reshape(shape)) / (var.reshape(shape) + self.eps).sqrt()
        return y * self.weight.reshape(shape) + self.bias.reshape(shape) if self.affine else y

    def shares(self, counts: Tensor) -> Tensor:
        """p (seen,) of the tasks seen, for `counts` (seen,) records of each in the batch."""
        concentration = self.phi[: len(counts)].exp() + counts
        return concentration / concentration.sum()

    def _record_weights(self, x: Tensor) -> Tensor:
        """(N,), what each record counts in the statistics."""
        if self.task_ids is None:
            return x.new_full((len(x),), 1 / len(x))
        ids = self.task_ids.to(x.device)
        if ids.shape != (len(x),):
            raise TrainingError(f"{tuple(ids.shape)} task ids were given for a batch of {len(x)} records")
        self.seen.clamp_(min=ids.max() + 1)
        counts = torch.bincount(ids, minlength=int(self.seen)).to(x.dtype)
        weights = (self.shares(counts) / counts.clamp(min=1))[ids].to(x.dtype)
        return weights / weights.sum() if self.renormalise else weights

    def _track(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = eta(int(self.num_batches_tracked), self.rate, self.kappa)
        self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), rate)
        self.running_var.lerp_(var.detach().to(self.running_var.dtype), rate)
        # Copies: the next batch changes the running statistics, perhaps before this loss goes backward.
        self.balance = F.mse_loss(mean, self.running_mean.clone()) + F.mse_loss(var, self.running_var.clone())

    def extra_repr(self) -> str:
        return f"{self.num_features}, tasks={len(self.phi)}, kappa={self.kappa}, eps={self.eps}, momentum={self.rate}"


def eta(batch: int, momentum: float, kappa: float) -> float:
    """How far the running statistics move at batch number `batch`, from 1."""
    q: float = (1 - momentum) ** kappa
    if q == 1:
        return 1 / batch
    power = float(q ** (batch - 1))
    return 1 / ((1 - power) / (1 - q) + power / float(momentum**kappa))


@contextmanager
def tasks_of_batch(model: nn.Module, ids: Tensor) -> Iterator[None]:
    """Forward passes within know that record i of the batch is of task ids[i], numbered from 0 in the order they appear.

    Raises TrainingError for ids that are no whole numbers of tasks the layers have room for.
    """
    layers = _layers(model)
    room = min(len(layer.phi) for layer in layers)
    if ids.dim() != 1 or ids.is_floating_point() or len(ids) == 0 or not 0 <= int(ids.min()) <= int(ids.max()) < room:
        raise TrainingError(f"task ids must be whole numbers from 0 to {room - 1}, one a record")
    for layer in layers:
        layer.task_ids = ids
    try:
        yield
    finally:
        for layer in layers:
            layer.task_ids = None


def balance_loss(model: nn.Module) -> Tensor:
    """Sum over layers of the mean square difference between batch and running statistics, for the last batch. TrainingError
    before the first."""
    found = [layer.balance for layer in _layers(model)]
    parts = [part for part in found if part is not None]
    if len(parts) != len(found):
        raise TrainingError("there is no balance loss before every layer has seen a batch in training")
    return torch.stack(parts).sum()


def convert_batch_norm(model: nn.Module, tasks: int, kappa: float = 0.4, renormalise: bool = False) -> tuple[str, ...]:
    """Make every batch normalisation inside `model` balanced, with the same parameters and buffers; returns their names.

    Each gains a parameter phi (tasks,): make the optimizer after. Raises TrainingError if there is none, or if one keeps no
    running statistics.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if not found or not all(name for name, _ in found):
        raise TrainingError("the model has no batch normalisation inside to convert")
    for name, old in found:
        if not old.track_running_stats or old.momentum is None:
            raise TrainingError(f"{name} needs running statistics and a momentum to be balanced")
        new = AdaB2N(old.num_features, tasks, kappa, old.eps, old.momentum, old.affine, renormalise)
        new.weight, new.bias = old.weight, old.bias
        new.running_mean, new.running_var, new.num_batches_tracked = old.running_mean, old.running_var, old.num_batches_tracked
        if old.running_mean is not None:
            new.phi.data, new.seen = new.phi.data.to(old.running_mean), new.seen.to(old.running_mean.device)
        new.training = old.training
        model.set_submodule(name, new)
    return tuple(name for name, _ in found)


def _layers(model: nn.Module) -> list[AdaB2N]:
    layers = [module for module in model.modules() if isinstance(module, AdaB2N)]
    if not layers:
        raise TrainingError("the model has no AdaB2N layer: convert_batch_norm makes them")
    return layers
