"""SwitchLoRA: low-rank training from scratch whose factors' vectors are exchanged, so that the sum of updates has a high rank.

Layer: y = (W + s B A) x with W (m x n) frozen, B m x r, A r x n, s = alpha / r. A reserve holds c = min(m, n) vectors for the
rows of A and as many for the columns of B, in host memory. To switch row a_k for a reserve vector c: W += s b_k (a_k - c)^T,
a_k goes to the reserve, c comes in. The function does not change. The gradient of the counterpart b_k does, so its Adam
moments and step are zeroed and it stands still for 5 updates (its step counts them). How many: r / interval a step,
interval_0 = 40, the rate falling as 0.3^(t / (0.1 total)). Start: uniform with standard deviations (sqrt(m) r / n^1.5)^(1/4)
sqrt(g) for A and (r / sqrt(m n))^(1/4) sqrt(g) for B, g = gain of leaky ReLU with slope sqrt 5, and W lowered by s B A so
that the model starts as it was. Numbers are those of the authors' code (github.com/asfsdsf/SwitchLoRA), which takes vectors
in a cycle as here. Theirs rounds the count at random; ours carries the fraction over, staggered over the layers, so that the
plan is known in advance and the same on every rank. In bfloat16 each switch rounds W once: keep W in float32 where that
matters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.linears import LowRankLinear, TakenOver, full_parameters, replace_linears
from zkaudit.training.method import Method
from zkaudit.training.optim.parameter_wise import ParameterWise

METHOD = Method(
    name="switch-lora",
    title="SwitchLoRA",
    paper="Zhou et al. 2024, arXiv:2406.06564",
    where="zkaudit.training.low_rank.switch_lora.SwitchAdamW",
    changes=("memory",),
    effect="1.3B perplexity 15.01 against 15.23 in full rank, communication -54%, memory -13%",
    library="",
    provable="Linear: a switch is a public plan and one product of committed vectors; the Adam step as for Adam.",
    server_sees="Factors and the switch plan: r directions a step and those of the switched vectors.",
    use=(
        "from zkaudit.training.low_rank.switch_lora import SwitchAdamW, SwitchSchedule, switch_lora\n"
        "from zkaudit.training.low_rank.linears import restore_linears\n"
        "\n"
        "switch_lora(model, rank=128)\n"
        "optimizer = SwitchAdamW(model, SwitchSchedule(total_steps=40_000), lr=0.02)\n"
        "print(optimizer.full)  # parameters that are trained in full\n"
        "restore_linears(model)  # afterwards: plain nn.Linear layers"
    ),
    avoid="Short runs make few switches by the published plan. It needs its own AdamW; bf16 weights round at each switch.",
)


@dataclass(frozen=True)
class SwitchSchedule:
    """When vectors are switched. Raises TrainingError for an interval below twice the freeze, or a run too short to decay."""

    total_steps: int
    interval: float = 40.0  # updates between two switches of a vector, at the start
    decayed_at: float = 0.1  # the share of the run after which the rate has fallen to `decayed_to`
    decayed_to: float = 0.3
    freeze: int = 5  # updates for which a switched vector's counterpart stands still

    def __post_init__(self) -> None:
        if self.freeze < 0 or self.interval < max(1, 2 * self.freeze):
            raise TrainingError(
                f"interval is {self.interval}, freeze {self.freeze}: it must be at least 1 and twice the freeze"
            )
        if not 0 < self.decayed_at <= 1 or not 0 < self.decayed_to < 1:
            raise TrainingError(f"decayed_at is {self.decayed_at}, decayed_to {self.decayed_to}: both must lie between 0 and 1")
        if self.total_steps * self.decayed_at < 1:
            raise TrainingError(
                f"total_steps is {self.total_steps}: the share decayed_at, {self.decayed_at}, is below one step"
            )

    def switched_by(self, step: int, rank: int) -> float:
        """Vectors that each of A and B has switched after `step` updates: rank / interval times the sum of x^i, i = 1..step."""
        x = float(self.decayed_to ** (1.0 / (self.decayed_at * self.total_steps)))
        return rank / self.interval * x * (1.0 - x**step) / (1.0 - x)


class SwitchLinear(LowRankLinear):
    """W + s B A with a reserve of vectors, which stays in host memory when the model moves; `state_dict` holds it."""

    FACTORS = ("A", "B")

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(linear)
        m, n = linear.weight.shape
        self.rank, self.scale = rank, alpha / rank
        spread_a, spread_b = initial_spreads(m, n, rank)
        reserve = torch.rand((min(m, n), n + m), generator=generator, dtype=linear.weight.dtype).mul_(2).sub_(1)
        reserve[:, :n] *= math.sqrt(3.0) * spread_a
        reserve[:, n:] *= math.sqrt(3.0) * spread_b
        self._reserve = reserve
        held_a = torch.arange(rank) - rank
        held_b = (torch.arange(rank) - rank // 2) % rank - rank
        self.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        self.A = nn.Parameter(reserve[held_a % len(reserve), :n].to(self.weight.device))
        self.B = nn.Parameter(reserve[held_b % len(reserve), n:].T.contiguous().to(self.weight.device))
        self.weight.sub_(self.scale * self.B.detach() @ self.A.detach())
        self.register_buffer("switched", torch.zeros((), dtype=torch.int64))  # vectors exchanged so far, in each of A and B
        self.switched: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.A), self.B)

    def dense_weight(self) -> Tensor:
        return self.weight + self.scale * self.B @ self.A

    @torch.no_grad()
    def switch(self, count: int) -> tuple[Tensor, Tensor]:
        """Exchanges the next `count` rows of A, then as many columns of B, half a cycle apart; returns the indices of both.

        The t-th exchange of A takes row t mod r and slot t mod c; the row's vector returns to slot (t - r) mod c, its own."""
        n, slots = self.in_features, len(self._reserve)
        turn = int(self.switched) + torch.arange(count)
        rows, columns = turn % self.rank, (turn + self.rank // 2) % self.rank
        new_a = self._reserve[turn % slots, :n].to(self.A.device)
        self.weight.add_(self.B[:, rows] @ (self.A[rows] - new_a), alpha=self.scale)
        self._reserve[(turn - self.rank) % slots, :n] = self.A[rows].to("cpu")
        self.A[rows] = new_a
        new_b = self._reserve[turn % slots, n:].T.to(self.B.device)
        self.weight.add_((self.B[:, columns] - new_b) @ self.A[columns], alpha=self.scale)
        self._reserve[(turn - self.rank) % slots, n:] = self.B[:, columns].T.to("cpu")
        self.B[:, columns] = new_b
        self.switched += count
        return rows, columns

    def most_switches(self, frozen: int) -> int:
        """How many can be exchanged while `frozen` vectors stand still: none of those, nor a vector with its counterpart."""
        return max(0, min(self.rank // 2 - frozen, len(self._reserve) - self.rank))

    def get_extra_state(self) -> Tensor:
        return self._reserve

    def set_extra_state(self, state: Tensor) -> None:
        self._reserve = state.to("cpu", copy=True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SwitchLinear:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._reserve = self._reserve.to(self.A.dtype)
        return self


def initial_spreads(m: int, n: int, rank: int) -> tuple[float, float]:
    """Standard deviations of A and B: B A / r has the variance of torch's own initialisation, B dA and dB A equal sizes."""
    gain = nn.init.calculate_gain("leaky_relu", math.sqrt(5.0))
    return (math.sqrt(m) * rank / n**1.5) ** 0.25 * math.sqrt(gain), (rank / math.sqrt(m * n)) ** 0.25 * math.sqrt(gain)


def switch_lora(
    model: nn.Module, rank: int, *, alpha: float = 1.0, targets: Iterable[str] = (), seed: int = 0
) -> TakenOver[SwitchLinear]:
    """Replaces linear layers of `model` in place. `alpha` 1 goes with the start; all processes must use one seed."""
    if rank < 2:
        raise TrainingError(f"rank is {rank}: switching needs 2 or more, as a vector is not exchanged with its counterpart")
    generator = torch.Generator().manual_seed(seed)
    return replace_linears(model, lambda linear: SwitchLinear(linear, rank, alpha, generator), rank, targets)


class SwitchAdamW(ParameterWise):
    """AdamW for a model with `SwitchLinear` layers: each `step` first switches what the schedule asks for, then updates.

    Moments and step counts of A and B are kept per vector. Other trainable parameters get plain AdamW and are listed in `full`;
    those of one dimension are in a group without weight decay. Raises TrainingError if the model has no such layer."""

    def __init__(
        self,
        model: nn.Module,
        schedule: SwitchSchedule,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, SwitchLinear)]
        if not self.layers:
            raise TrainingError("the model has no SwitchLinear layer: call switch_lora(model, rank) first")
        self.schedule, self.full = schedule, full_parameters(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1], "updates": 0},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        super().__init__(
            [group for group in groups if group["params"]], {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    def step_all(self) -> None:
        """One update. Gradients taken before the switch hold after it, but for the counterparts', which stand still."""
        done = self.param_groups[0]["updates"]
        for position, layer in enumerate(self.layers):
            self._switch(layer, done, position / len(self.layers))
        super().step_all()
        self.param_groups[0]["updates"] = done + 1

    def _switch(self, layer: SwitchLinear, done: int, offset: float) -> None:
        state_a, state_b = self._vectors(layer.A, 0), self._vectors(layer.B, 1)
        for state in (state_a, state_b):
            state["frozen"].sub_(1).clamp_(min=0)
        due = math.floor(self.schedule.switched_by(done + 1, layer.rank) + offset)
        due -= math.floor(self.schedule.switched_by(done, layer.rank) + offset)
        if due < 1:
            return
        still = max(int((state["frozen"] > 0).sum()) for state in (state_a, state_b))
        count = min(due, layer.most_switches(still))
        if count < 1:
            return
        rows, columns = layer.switch(count)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            state_b[key][:, rows] = 0
            state_a[key][columns] = 0
        state_b["frozen"][:, rows] = self.schedule.freeze
        state_a["frozen"][columns] = self.schedule.freeze

    def _vectors(self, p: nn.Parameter, dim: int) -> dict[str, Tensor]:
        """The state of factor `p`, made at first use: `step` and `frozen` have one number a vector."""
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            one_each = [size if axis == dim else 1 for axis, size in enumerate(p.shape)]
            state["step"] = torch.zeros(one_each, device=p.device)
            state["frozen"] = torch.zeros(one_each, device=p.device, dtype=p.dtype)  # as load_state_dict returns it
        return state

    def step_parameter(self, p: Tensor, group: dict[str, Any]) -> None:
        grad = p.grad
        assert grad is not None
        state = self.state[p]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] = torch.zeros(())
        moves = (state["frozen"] == 0).to(p.dtype) if "frozen" in state else None
        beta1, beta2 = group["betas"]
        grad = grad if moves is None else grad * moves
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["step"] += 1
        precise = torch.promote_types(p.dtype, torch.float32)
        corrections = [(1 - beta ** state["step"].double()).to(p.device, precise) for beta in (beta1, beta2)]
        change = state["exp_avg"] / corrections[0] / (state["exp_avg_sq"].div(corrections[1]).sqrt_() + group["eps"])
        change.add_(p, alpha=group["weight_decay"])
        p.sub_(change if moves is None else change * moves, alpha=group["lr"])
