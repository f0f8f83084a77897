"""LARS: SGD with momentum whose learning rate is set per layer by the ratio of norms.

For a weight w with gradient g: q = trust ||w|| / (||g|| + lambda ||w||), m := mu m + q (g + lambda w), w := w - lr m; q = 1
where ||w|| or ||g|| is zero. trust 0.001 and mu 0.9 are the paper's. Biases, norms and other parameters of one dimension get
plain SGD with momentum, without decay and ratio; they are listed in `plain`. timm.optim.Lars takes the same steps (with eps
0, always_adapt) but writes into the gradients, decides by the weight decay which parameters it adapts, and needs torchvision
to be imported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.optim.parameter_wise import ParameterWise

METHOD = Method(
    name="lars",
    title="LARS, layer-wise adaptive rate scaling",
    paper="You, Gitman, Ginsburg 2017, arXiv:1708.03888",
    where="zkaudit.training.optim.lars.LARS",
    changes=("batch",),
    effect="AlexNet at a batch of 8k and ResNet-50 at 32k without loss of accuracy",
    library="timm.optim.Lars offers the same",
    provable="Needs norms: a square root proved by inequality for each layer, then a linear update.",
    server_sees="The plain gradient scaled by one number a layer: its direction in each layer is unchanged.",
    use=(
        "from zkaudit.training.optim.lars import LARS\n"
        "\n"
        "optimizer = LARS(model.named_parameters(), lr=3.0, weight_decay=1e-4)\n"
        "print(optimizer.plain)  # biases and norms: plain SGD"
    ),
    avoid="A rate that is the best at a small batch can diverge at a large one: search it anew. No sparse gradients.",
)


class LARS(ParameterWise):
    """`params` as for any torch optimizer (named ones give names in `plain`). A group may set `adapt=False` to get plain SGD.

    Raises TrainingError for an option out of range and for sparse gradients."""

    def __init__(
        self, params: ParamsT, lr: float = 1.0, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 0.001
    ) -> None:
        for name, value, most in (
            ("lr", lr, None),
            ("momentum", momentum, 1),
            ("weight_decay", weight_decay, None),
            ("trust", trust, None),
        ):
            if value < 0 or (most is not None and value >= most):
                raise TrainingError(f"{name} is {value}: it must be at least 0" + (f" and below {most}" if most else ""))
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True})

    @property
    def plain(self) -> tuple[str, ...]:
        """The parameters that get the base rule, without ratio and weight decay."""
        return not_adapted(self)

    def step_parameter(self, p: Tensor, group: dict[str, Any]) -> None:
        grad = dense(p, self)
        change = grad
        if is_adapted(p, group):
            decay = group["weight_decay"]
            weight_norm, grad_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(grad)
            ratio = ratio_or_one(group["trust"] * weight_norm, grad_norm + decay * weight_norm, weight_norm * grad_norm)
            change = ratio * (grad + decay * p)
        if group["momentum"]:
            state = self.state[p]
            if "momentum_buffer" in state:
                change = state["momentum_buffer"].mul_(group["momentum"]).add_(change)
            else:
                state["momentum_buffer"] = change = change.clone()
        p.sub_(change, alpha=group["lr"])


def is_adapted(p: Tensor, group: dict[str, Any]) -> bool:
    """Whether the layer-wise ratio and weight decay hold for `p`: matrices and larger, unless the group says no."""
    return p.ndim > 1 and bool(group["adapt"])


def not_adapted(optimizer: Optimizer) -> tuple[str, ...]:
    """Names, or place and shape, of the parameters of `optimizer` for which the layer-wise ratio does not hold."""
    return tuple(
        group["param_names"][i] if "param_names" in group else f"group {g}, parameter {i}, shape {tuple(p.shape)}"
        for g, group in enumerate(optimizer.param_groups)
        for i, p in enumerate(group["params"])
        if not is_adapted(p, group)
    )


def ratio_or_one(top: Tensor, bottom: Tensor, given: Tensor) -> Tensor:
    """top / bottom, or 1 where `given` is not positive."""
    return torch.where(given > 0, top / bottom, torch.ones_like(top))


def dense(p: Tensor, optimizer: Optimizer) -> Tensor:
    """The gradient of `p`, or TrainingError if it is sparse."""
    assert p.grad is not None
    if p.grad.is_sparse:
        raise TrainingError(f"{type(optimizer).__name__} takes no sparse gradients: build the embedding with sparse=False")
    return p.grad
