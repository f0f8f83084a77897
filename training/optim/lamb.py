"""LAMB: Adam whose step is scaled per layer to the size of the weight, for very large batches.

u = m_hat / (sqrt(v_hat) + eps) + lambda w, w := w - lr phi(||w||) / ||u|| u, with bias-corrected moments; phi is the
identity, or clips to `phi` = (low, high) ((0, 10) is common); the ratio is 1 where either norm is zero. Defaults
are the paper's: betas 0.9 and 0.999, eps 1e-6, lambda 0.01. With the batch k times larger take sqrt(k) times the learning
rate (`square_root_scaling`) and k times the share of warm-up. Biases, norms and other parameters of one dimension get plain
Adam, without decay; they are listed in `plain`. timm.optim.Lamb takes the same steps with max_grad_norm=None and
always_adapt=True, but has no phi, clips by the global norm unless told not to, and needs torchvision to be imported."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.optim.lars import dense, is_adapted, not_adapted, ratio_or_one
from zkaudit.training.optim.parameter_wise import ParameterWise

METHOD = Method(
    name="lamb",
    title="LAMB, layer-wise adaptive moments",
    paper="You et al. 2019, arXiv:1904.00962",
    where="zkaudit.training.optim.lamb.LAMB",
    changes=("batch",),
    effect="BERT trained in 76 minutes at a batch of 32k without loss of accuracy",
    library="timm.optim.Lamb offers the same",
    provable="Needs norms: a square root proved by inequality for each layer, beside Adam's own.",
    server_sees="Adam's direction scaled by one number a layer: its direction in each layer is unchanged.",
    use=(
        "from zkaudit.training.optim.lamb import LAMB, square_root_scaling\n"
        "\n"
        "optimizer = LAMB(model.named_parameters(), lr=square_root_scaling(1e-3, batch=4096, base_batch=256))\n"
        "print(optimizer.plain)  # biases and norms: plain Adam"
    ),
    avoid="At small batches, or with a rate searched for each batch, Adam is as good. No sparse gradients.",
)


class LAMB(ParameterWise):
    """`params` as for any torch optimizer (named ones give names in `plain`). A group may set `adapt=False` to get plain Adam.

    Raises TrainingError for an option out of range and for sparse gradients."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        phi: tuple[float, float] | None = None,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise TrainingError(f"{name} is {value}: it must be at least 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise TrainingError(f"betas are {betas}: both must be at least 0 and below 1")
        if phi is not None and not 0 <= phi[0] < phi[1]:
            raise TrainingError(f"phi is {phi}: it must be two numbers, 0 <= low < high")
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "phi": phi, "adapt": True}
        super().__init__(params, options)

    @property
    def plain(self) -> tuple[str, ...]:
        """The parameters that get the base rule, without ratio and weight decay."""
        return not_adapted(self)

    def step_parameter(self, p: Tensor, group: dict[str, Any]) -> None:
        grad = dense(p, self)
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        step = state["step"].item()
        size = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
        change = (state["exp_avg"] / (1 - beta1**step)).div_(size)
        if is_adapted(p, group):
            change.add_(p, alpha=group["weight_decay"])
            weight_norm, change_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(change)
            bounded = weight_norm if group["phi"] is None else weight_norm.clamp(*group["phi"])
            change.mul_(ratio_or_one(bounded, change_norm, weight_norm * change_norm))
        p.sub_(change, alpha=group["lr"])


def square_root_scaling(lr: float, batch: int, base_batch: int) -> float:
    """The learning rate for `batch` records, given a good one for `base_batch`: lr sqrt(batch / base_batch)."""
    return lr * math.sqrt(batch / base_batch)
