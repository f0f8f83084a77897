"""Concurrent adversarial training for large batches.

Adversarial examples smooth what a large batch learns, but making them with the current weights puts a second pass before each
step's own. Here those of batch t + tau are made with the weights of step t, while step t is computed:

    x'_(t+tau) = x + eps sign( dL(w_t; x, y)/dx )       for batch t + tau, in the auxiliary norms
    step t:      gradient of  L(w_t; x_t, y_t)  in the main norms  +  weight L(w_t; x'_t, y_t)  in the auxiliary norms

so that both passes of a step start from the same weights and can run side by side. The first tau batches' examples are made
before step 0. Liu et al., "Concurrent Adversarial Learning for Large-Batch Training", ICLR 2022, arXiv:2106.00221: tau = 1, one
step of sign ascent; eps is the user's to choose, in units of the input. Norms as in Xie et al. 2020, "Adversarial examples
improve image recognition": clean and adversarial statistics do not mix, and the auxiliary ones are dropped after training."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="conadv",
    title="Concurrent adversarial training",
    paper="Liu, Chen, Cheng, Hsieh, You 2022, arXiv:2106.00221",
    where="zkaudit.training.batch.conadv.ConAdv",
    changes=("batch", "robustness"),
    effect="ResNet-50 reaches 75.3% on ImageNet with batches of 96k, at the sequential cost of clean training.",
    library="",
    provable="Not yet: a step is two plain ones and a sign, which a comparison proves; batch norm is what lacks.",
    server_sees="The sum of a clean and an adversarial gradient of the same records.",
    use=(
        "from zkaudit.training.batch.conadv import ConAdv, ConAdvOptions, dual_batch_norm, single_batch_norm\n"
        "\n"
        "dual_batch_norm(model)  # before the optimizer is made\n"
        "adversary = ConAdv(model, F.cross_entropy, ConAdvOptions(eps=4 / 255, low=0.0, high=1.0))\n"
        "for inputs, targets, attacked in adversary.ahead(loader):\n"
        "    adversary.loss(inputs, targets, attacked).backward()\n"
        "    optimizer.step()\n"
        "    optimizer.zero_grad()\n"
        "single_batch_norm(model)  # the model as it was, for use"
    ),
    avoid=(
        "Where a device has no room for two passes side by side: the work of a step is that of three. Inputs must "
        "be real numbers, not tokens; robustness is not promised."
    ),
)


@dataclass(frozen=True)
class ConAdvOptions:
    """`eps`: size of the perturbation. `delay`: tau, in steps; 0 is sequential training. `weight` of the adversarial loss.

    `low` and `high` bound the attacked inputs where inputs have a range."""

    eps: float
    delay: int = 1
    weight: float = 1.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise TrainingError(f"eps = {self.eps} must be positive")
        if self.delay < 0:
            raise TrainingError(f"delay = {self.delay} must not be negative")
        if not self.weight >= 0:
            raise TrainingError(f"weight = {self.weight} must not be negative")


class ConAdv:
    """`loss` takes the model's output and the targets. `state_dict` holds the attacked inputs of batches still to come.

    To resume, load it and pass `ahead` the batches that were not trained on. Without norms of its own for attacked inputs (no
    batch norm in the model, or `dual_batch_norm` not called) the model is attacked and trained as it is; `separate` says which.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Any], Tensor], options: ConAdvOptions) -> None:
        self.model, self.loss_of, self.options = model, loss, options
        self._made: deque[Tensor] = deque()  # attacked inputs of the batches that `ahead` holds
        self._loaded: deque[Tensor] = deque()  # from a state, for the next `ahead`

    @property
    def separate(self) -> bool:
        return any(isinstance(module, DualBatchNorm) for module in self.model.modules())

    def ahead(self, batches: Iterable[tuple[Tensor, Any]]) -> Iterator[tuple[Tensor, Any, Tensor]]:
        """Each (inputs, targets) with its attacked inputs. Asking for the next batch makes those of the batch `delay` later.

        Raises TrainingError if a loaded state's attacked inputs are not of the batches given.
        """
        self._made, self._loaded = self._loaded, deque()
        waiting: deque[tuple[Tensor, Any]] = deque()
        for batch in batches:
            if len(waiting) == len(self._made):
                self._made.append(self.attack(*batch))
            elif self._made[len(waiting)].shape != batch[0].shape:
                shapes = tuple(self._made[len(waiting)].shape), tuple(batch[0].shape)
                raise TrainingError(f"the loaded state has attacked inputs of shape {shapes[0]} for a batch of {shapes[1]}")
            waiting.append(batch)
            if len(waiting) > self.options.delay:
                yield (*waiting.popleft(), self._made.popleft())
        while waiting:
            yield (*waiting.popleft(), self._made.popleft())

    def attack(self, inputs: Tensor, targets: Any) -> Tensor:
        """Inputs moved by eps in the direction that raises the loss at the weights of now. Leaves gradients and statistics
        alone."""
        moved = inputs.detach().clone().requires_grad_()
        with torch.enable_grad(), _in_auxiliary(self.model, observe=False):
            (slope,) = torch.autograd.grad(self.loss_of(self.model(moved), targets), moved)
        attacked = inputs.detach() + self.options.eps * slope.sign()
        if self.options.low is not None or self.options.high is not None:
            attacked = attacked.clamp(self.options.low, self.options.high)
        return attacked

    def loss(self, inputs: Tensor, targets: Any, attacked: Tensor) -> Tensor:
        """The clean loss plus `weight` times the adversarial one."""
        clean = self.loss_of(self.model(inputs), targets)
        with _in_auxiliary(self.model, observe=True):
            return clean + self.options.weight * self.loss_of(self.model(attacked), targets)

    def state_dict(self) -> dict[str, Any]:
        return {"made": [inputs.clone() for inputs in self._loaded or self._made]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises TrainingError for a state of a run with a longer delay."""
        if len(state["made"]) > self.options.delay:
            raise TrainingError(f"the state holds {len(state['made'])} attacked batches; delay = {self.options.delay}")
        self._loaded = deque(state["made"])


class DualBatchNorm(nn.Module):
    """Two batch normalisations of the same size; the auxiliary one works inside ConAdv's adversarial passes, in training."""

    def __init__(self, main: _BatchNorm) -> None:
        super().__init__()
        self.main, self.auxiliary = main, copy.deepcopy(main)
        self.attacked = False
        self.observe = True

    def forward(self, x: Tensor) -> Tensor:
        if not (self.attacked and self.training):
            return self.main(x)  # type: ignore[no-any-return]
        if self.observe:
            return self.auxiliary(x)  # type: ignore[no-any-return]
        norm = self.auxiliary
        return nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def dual_batch_norm(model: nn.Module) -> tuple[str, ...]:
    """Give every batch normalisation inside `model` an auxiliary twin; returns their names, which may be none.

    `state_dict` keys gain `main.` and `auxiliary.`; `single_batch_norm` takes them away. Raises TrainingError if it was done
    already.
    """
    if any(isinstance(module, DualBatchNorm) for module in model.modules()):
        raise TrainingError("the model has auxiliary norms already")
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm) and name]
    for name, norm in found:
        model.set_submodule(name, DualBatchNorm(norm))
    return tuple(name for name, _ in found)


def single_batch_norm(model: nn.Module) -> None:
    """Drop the auxiliary norms: the model is as it was before `dual_batch_norm`, and computes what it did in evaluation."""
    for name, module in list(model.named_modules()):
        if isinstance(module, DualBatchNorm):
            model.set_submodule(name, module.main)


@contextmanager
def _in_auxiliary(model: nn.Module, observe: bool) -> Iterator[None]:
    """Forward passes inside go through the auxiliary norms; `observe`: and move their running statistics."""
    norms = [module for module in model.modules() if isinstance(module, DualBatchNorm)]
    for norm in norms:
        norm.attacked, norm.observe = True, observe
    try:
        yield
    finally:
        for norm in norms:
            norm.attacked, norm.observe = False, True
