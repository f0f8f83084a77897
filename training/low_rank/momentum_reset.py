"""Momentum reset: every k updates Adam's moments are set to zero, so that old directions do not steer factors that moved on.

m := 0, v := 0, and the step count that corrects their bias := 0 with them: a count that goes on would make the first update
after a reset (1 - beta1) / sqrt(1 - beta2) = 3.2 times the learning rate. After a reset Adam starts as in its first step,
where each entry moves by the whole learning rate. k is an option; the paper's abstract gives no number, 200 is ours."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.periodic import Periodic
from zkaudit.training.method import Method

METHOD = Method(
    name="momentum-reset",
    title="Periodic reset of Adam's moments",
    paper="Glentis et al. 2025, arXiv:2505.22922",
    where="zkaudit.training.low_rank.momentum_reset.MomentumReset",
    changes=("memory", "schedule"),
    effect="with weight refactorisation, low-rank pre-training comes near full rank",
    library="",
    provable="The optimizer's committed state is zero at known steps, which is public.",
    server_sees="The same updates as the optimizer's.",
    use=(
        "from zkaudit.training.low_rank.momentum_reset import MomentumReset\n"
        "\n"
        "optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)\n"
        "MomentumReset(optimizer, every=200)  # acts after optimizer.step"
    ),
    avoid="Frequent resets cost loss: each restarts Adam at the full learning rate. Save its state_dict too.",
)

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
SCALES = ("exp_avg_scale", "exp_avg_sq_scale")  # of moments in 8 bits, whose code 0 need not be zero


class MomentumReset(Periodic):
    """Zeroes the moments of `parameters` (None: all) after each `every`-th step of `optimizer`, by a hook on it.

    Works wherever `optimizer.step` is called, HF Trainer too. `state_dict` holds the count of steps.
    Raises TrainingError for bad options, and at the first reset if the optimizer keeps no Adam moments."""

    def __init__(self, optimizer: Optimizer, every: int = 200, parameters: Iterable[Tensor] | None = None) -> None:
        super().__init__(optimizer, every)
        self.parameters = None if parameters is None else list(parameters)

    def act(self, optimizer: Optimizer) -> None:
        if not zero_moments(optimizer, self.parameters):
            raise TrainingError(
                f"{type(optimizer).__name__} keeps no Adam moments that could be reset: use Adam, AdamW or LAMB"
            )


@torch.no_grad()
def zero_moments(optimizer: Optimizer, parameters: Iterable[Tensor] | None) -> int:
    """Zeroes moments and step counts in place; returns how many parameters had any."""
    chosen = [p for group in optimizer.param_groups for p in group["params"]] if parameters is None else parameters
    found = 0
    for p in chosen:
        state = optimizer.state.get(p, {})
        found += "exp_avg" in state
        for key in (*MOMENTS, *SCALES):
            if isinstance(state.get(key), Tensor):
                state[key].zero_()
            elif key in state:
                state[key] = 0
    return found
