"""AGVM: learning rates of a network's modules set so that their gradients' variances agree, for dense vision in large batches.

A wrapper of any optimizer whose parameter groups are the modules, group 0 (the backbone) the anchor. The batch is split in
halves a and b; a group's variance is measured by d_i = 1 - cos(g_i^a, g_i^b), over all its gradients joined. Every `every`-th
update after `warm_up`: phi_i := keep phi_i + (1 - keep) sqrt(clamp(d_0 / d_i, 0.5, 10)), 1e-6 added above and below; each
update takes lr_i phi_i. Numbers are those of the authors' code (github.com/Sense-X/AGVM): 5, 500, 0.97. With `preconditioned`
gradients are first divided by Adam's sqrt(v) + eps, v with the half's own square taken in.

Halves are micro-batches of one process, which gradient accumulation makes anyway (counted by hooks on the parameters, so that
HF Trainer's accumulation works too), or the lower and upper half of the ranks of torch.distributed. Cost: one more copy of
the gradients in measured updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="agvm",
    title="AGVM, adaptive gradient variance modulator",
    paper="Xue et al. 2022, arXiv:2210.11078",
    where="zkaudit.training.optim.agvm.AGVM",
    changes=("batch", "schedule"),
    effect="Faster R-CNN at batch 256: 37.1 box mAP against 36.7 without, and 37.1 at batch 32",
    library="",
    provable="The factor of each module is a public number of a step; the update stays the optimizer's.",
    server_sees="The optimizer's update scaled by one number a module.",
    use=(
        "from zkaudit.training.optim.agvm import AGVM, Variances\n"
        "\n"
        'groups = [{"params": m.parameters()} for m in (model.backbone, model.neck, model.head)]\n'
        "optimizer = AGVM(torch.optim.SGD(groups, lr=0.1), Variances(micro_batches=2))  # two backward passes, then step"
    ),
    avoid="Not for one parameter group or an odd number of micro-batches. A head that learns fast is driven further.",
)


@dataclass(frozen=True)
class Variances:
    """When and how module variances are measured. Raises TrainingError for a value out of range."""

    every: int = 5
    warm_up: int = 500
    keep: float = 0.97
    least: float = 0.5  # bounds on d_0 / d_i
    most: float = 10.0
    preconditioned: bool = False
    micro_batches: int = 2  # backward passes of one update; 0: the halves are ranks

    def __post_init__(self) -> None:
        if self.every < 1 or self.warm_up < 0:
            raise TrainingError(f"every is {self.every}, warm_up {self.warm_up}: they must be at least 1 and 0")
        if not 0 <= self.keep < 1:
            raise TrainingError(f"keep is {self.keep}: it must be at least 0 and below 1")
        if not 0 < self.least <= 1 <= self.most:
            raise TrainingError(f"least is {self.least}, most {self.most}: 0 < least <= 1 <= most must hold")
        if self.micro_batches < 0 or self.micro_batches % 2:
            raise TrainingError(f"micro_batches is {self.micro_batches}: it must be even, or 0 to halve the ranks")


class AGVM(Optimizer):
    """Wraps `optimizer`; use it in its place. Learning-rate schedulers may be given either one.

    With micro-batches (one process): run `micro_batches` backward passes, then `step`. An update with fewer passes (the end of
    an epoch) is not measured and counted in `not_measured`. Gradients may be clipped in between; `preconditioned` needs them
    unscaled. With ranks (`micro_batches=0`): while `due`, leave each rank's own mean gradient in `grad` (DDP: `no_sync`);
    `measure` averages it. `step` measures if it was not done: to clip, call `measure` first. `factors` are the groups' phi_i,
    `distances` the last d_i. Raises TrainingError for options that do not fit the optimizer or the ranks."""

    def __init__(self, optimizer: Optimizer, options: Variances | None = None) -> None:
        self.optimizer, self.options = optimizer, options or Variances()
        self.updates = self.not_measured = 0
        self.factors = [1.0] * len(optimizer.param_groups)
        self.distances: list[float] = []
        if len(self.factors) < 2:
            raise TrainingError("AGVM compares modules: give the optimizer one parameter group for each, the backbone first")
        if self.options.preconditioned and any("betas" not in group for group in optimizer.param_groups):
            raise TrainingError(f"preconditioned needs an Adam optimizer, not {type(optimizer).__name__}")
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if (ranks > 1) != (self.options.micro_batches == 0):
            needed = "0, to halve the ranks" if ranks > 1 else "2 or more in one process"
            raise TrainingError(f"micro_batches is {self.options.micro_batches} with {ranks} ranks: it must be {needed}")
        self._passes: dict[Tensor, int] = {}
        self._first_half: dict[Tensor, Tensor] = {}
        self._products = torch.zeros(len(self.factors), 3, dtype=torch.float64)  # a.b, a.a, b.b of each group
        self._measured = False
        self._group_of = {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
        for p in self._group_of if self.options.micro_batches else ():
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(self._after_pass)

    @property
    def due(self) -> bool:
        """Whether the update that is now being accumulated will be measured."""
        return self.updates >= self.options.warm_up and self.updates % self.options.every == 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.optimizer.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._forget()
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, and the factors under "agvm"."""
        ours = {"updates": self.updates, "factors": list(self.factors), "not_measured": self.not_measured}
        return {**self.optimizer.state_dict(), "agvm": ours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ours = state_dict["agvm"]
        self.optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "agvm"})
        self.updates, self.factors, self.not_measured = ours["updates"], list(ours["factors"]), ours["not_measured"]
        self._forget()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of the wrapped optimizer with each group's learning rate times its factor; it takes no closure."""
        if closure is not None:
            raise TrainingError("AGVM takes no closure: the backward passes of an update come before its step")
        self.measure()
        lrs = [group["lr"] for group in self.param_groups]
        if self.updates >= self.options.warm_up:
            for group, factor in zip(self.param_groups, self.factors, strict=True):
                group["lr"] = group["lr"] * factor
        self.optimizer.step()
        for group, lr in zip(self.param_groups, lrs, strict=True):
            group["lr"] = lr
        self.updates += 1
        self._forget()

    @torch.no_grad()
    def measure(self) -> None:
        """If the update is due and not measured yet: moves the factors; with ranks, first averages the gradients over them."""
        if not self.due or self._measured:
            return
        self._measured = True
        if self.options.micro_batches == 0:
            for p in self._group_of:
                if p.grad is not None:
                    self._multiply(p, *self._halves_of_ranks(p.grad))
        elif any(passes < self.options.micro_batches for passes in self._passes.values()):
            self.not_measured += 1
            return
        if (self._products[:, 1:] == 0).any():
            raise TrainingError("a parameter group has no gradients, or zero ones: AGVM cannot measure its variance")
        cosines = self._products[:, 0] / (self._products[:, 1] * self._products[:, 2]).sqrt()
        self.distances = (1.0 - cosines).tolist()
        if max(self.distances) < 1e-12:
            raise TrainingError("both halves have the same gradients: with DDP, run due updates under no_sync()")
        for i, distance in enumerate(self.distances):
            ratio = (self.distances[0] + 1e-6) / (distance + 1e-6)
            wanted = min(max(ratio, self.options.least), self.options.most) ** 0.5
            self.factors[i] = self.options.keep * self.factors[i] + (1 - self.options.keep) * wanted

    def _after_pass(self, p: Tensor) -> None:
        """Counts a backward pass; keeps the gradient when half of them are done, and multiplies both halves after the last."""
        self._passes[p] = passes = self._passes.get(p, 0) + 1
        if passes > self.options.micro_batches:
            raise TrainingError(f"more backward passes than micro_batches = {self.options.micro_batches} came before a step")
        if not self.due or p.grad is None:
            return
        if passes == self.options.micro_batches // 2:
            self._first_half[p] = p.grad.detach().clone()
        elif passes == self.options.micro_batches:
            first = self._first_half.pop(p)
            self._multiply(p, 2 * first, 2 * (p.grad.detach() - first))

    def _halves_of_ranks(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The mean gradients of the lower and the upper ranks; `grad` becomes the mean over all."""
        ranks, lower = dist.get_world_size(), dist.get_world_size() // 2
        first = grad.clone() if dist.get_rank() < lower else torch.zeros_like(grad)
        dist.all_reduce(first)
        dist.all_reduce(grad)
        second = (grad - first) / (ranks - lower)
        grad.div_(ranks)
        return first / lower, second

    def _multiply(self, p: Tensor, a: Tensor, b: Tensor) -> None:
        """Adds the products of `p`'s halves, each an estimate of the whole gradient, to its group's."""
        i = self._group_of[p]
        if self.options.preconditioned:
            a, b = self._conditioned(p, a, i), self._conditioned(p, b, i)
        pairs = ((a, b), (a, a), (b, b))
        self._products[i] += torch.stack([(x.double() * y.double()).sum() for x, y in pairs]).cpu()

    def _conditioned(self, p: Tensor, half: Tensor, i: int) -> Tensor:
        """As Adam would divide it; TrainingError if the second moments are projected or in 8 bits."""
        group, past = self.param_groups[i], self.state[p].get("exp_avg_sq")
        if past is not None and (past.shape != p.shape or past.element_size() == 1):
            raise TrainingError("preconditioned=True needs second moments of each parameter's shape in floating point")
        beta2, square = group["betas"][1], half * half
        v = (1 - beta2) * square if past is None else beta2 * past + (1 - beta2) * square
        conditioned: Tensor = half / (v.sqrt() + group["eps"])
        return conditioned

    def _forget(self) -> None:
        self._passes.clear()
        self._first_half.clear()
        self._products.zero_()
        self._measured = False
