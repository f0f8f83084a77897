"""COAT's optimizer states (Xi et al. 2024, arXiv 2410.19313): AdamW with both moments in FP8, their range expanded by groups.

    m, v = contract(stored m), contract(stored v)
    m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
    w = (1 - lr decay) w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    stored m, stored v = expand(m), expand(v)

Defaults: groups of 128 and 16 steps of the power a unit, as in the released code; the rest as in torch.optim.AdamW. Arithmetic
is float32. Rounding to nearest loses a change of v by less than half a step of its code: with beta2 = 0.999 most changes of one
step are, and only the group's largest moves. benchmarks/methods/fp8.py finds sqrt(v) some percent off then, and less than one
percent at 0.95."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.fp8 import codes
from zkaudit.training.fp8.expansion import Expanded, contract, expand
from zkaudit.training.method import Method
from zkaudit.training.optim.parameter_wise import ParameterWise

METHOD = Method(
    name="coat-states",
    title="COAT: FP8 optimizer states with dynamic range expansion",
    paper="Xi et al. 2024, arXiv 2410.19313",
    where="zkaudit.training.fp8.states.CoatAdamW",
    changes=("memory",),
    effect="1.54 times less end-to-end memory than BF16 together with coat-activations, with nearly the same loss",
    library="torchao.optim.AdamWFp8 stores moments in FP8 too, with a scale a group and no expansion",
    provable="yes for GaLore's Adam, with static ranges instead of a group's own: docs/proved-methods.md",
    server_sees="an update of full rank; its rounding leaves noise of the size of an FP8 step",
    use="""
optimizer = CoatAdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95))
print(len(optimizer.full_precision), "parameters keep float32 moments")
""",
    avoid="beta2 of 0.999 or more where exact second moments matter (2 to 3 % off after 400 steps), and speed on a CPU",
)

NAMES = ("exp_avg", "exp_avg_sq")


class CoatAdamW(ParameterWise):
    """AdamW whose moments are stored as E4M3 codes, with a float32 largest size and power for each `group` of numbers.

    Parameters of fewer than `smallest` numbers (norms, biases) keep float32 moments: `full_precision` lists them. States take
    2 + 16 / `group` bytes a number where float32 takes 8. Raises TrainingError for an option out of range, and for a gradient
    that is sparse or complex.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        group: int = 128,
        steps: int = 16,
        smallest: int = 4096,
    ) -> None:
        right = {
            "lr": lr >= 0,
            "betas": len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            "eps": eps >= 0,
            "weight_decay": weight_decay >= 0,
            "group": 1 <= group <= 1 << 16,
            "steps": 1 <= steps <= 1 << 10,
            "smallest": smallest >= 0,
        }
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "group": group,
            "steps": steps,
            "smallest": smallest,
        }
        for option, allowed in right.items():
            if not allowed:
                raise TrainingError(f"CoatAdamW: {option} = {defaults[option]!r} is out of range")
        super().__init__(params, defaults)

    @property
    def full_precision(self) -> list[Tensor]:
        """The parameters whose moments stay in float32."""
        return [p for options in self.param_groups for p in options["params"] if p.numel() < options["smallest"]]

    def step_parameter(self, parameter: Tensor, options: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if gradient.layout != torch.strided or gradient.is_complex():
            raise TrainingError(f"CoatAdamW takes dense real gradients, not {gradient.layout} of {gradient.dtype}")
        state["step"] = state.get("step", 0) + 1
        rates = Rates.of(options, state["step"])
        if parameter.numel() < options["smallest"]:
            for name in NAMES:
                state.setdefault(name, torch.zeros_like(parameter, dtype=torch.float32))
            update(parameter, gradient, state[NAMES[0]], state[NAMES[1]], rates)
            return
        group, steps = options["group"], options["steps"]
        stored = [self._stored(state, name, parameter, group) for name in NAMES]
        kernels = codes.kernels_for(parameter, "state_kernels")
        if kernels and parameter.is_contiguous():
            with torch.cuda.device(parameter.device):
                kernels.adamw(parameter, gradient.contiguous(), stored[0], stored[1], group, steps, *rates)
            return
        moments = [contract(old, group) for old in stored]
        update(parameter, gradient, moments[0], moments[1], rates)
        for old, moment in zip(stored, moments, strict=True):
            for kept, new in zip(old, expand(moment, group, steps), strict=True):
                kept.copy_(new)

    @staticmethod
    def _stored(state: dict[str, Any], name: str, parameter: Tensor, group: int) -> Expanded:
        """The stored moment, whose tensors are the state's own: zeros at first."""
        if name not in state:
            count = math.ceil(parameter.numel() / group)
            state[name] = torch.zeros(parameter.shape, dtype=codes.E4M3.dtype, device=parameter.device)
            state[f"{name}_largest"] = torch.zeros(count, device=parameter.device)
            state[f"{name}_power"] = torch.ones(count, device=parameter.device)
        return Expanded(state[name], state[f"{name}_largest"], state[f"{name}_power"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch.optim, but states keep their own types: torch would cast the codes to the parameter's."""
        super().load_state_dict(state_dict)
        numbers = [number for saved in state_dict["param_groups"] for number in saved["params"]]
        parameters = [p for options in self.param_groups for p in options["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][key] = value.detach().to(parameter.device, copy=True)


class Rates(NamedTuple):
    """The numbers of one step of AdamW."""

    decay: float  # 1 - lr weight_decay
    rate: float  # lr / (1 - beta1^t)
    gain1: float  # 1 - beta1
    beta2: float
    gain2: float  # 1 - beta2
    eps: float
    root: float  # sqrt(1 - beta2^t)

    @classmethod
    def of(cls, options: dict[str, Any], step: int) -> Rates:
        lr, (beta1, beta2) = float(options["lr"]), options["betas"]
        decay, rate = 1 - lr * options["weight_decay"], lr / (1 - beta1**step)
        return cls(decay, rate, 1 - beta1, beta2, 1 - beta2, options["eps"], math.sqrt(1 - beta2**step))


def update(parameter: Tensor, gradient: Tensor, m: Tensor, v: Tensor, rates: Rates) -> None:
    """A step of AdamW on `parameter` and the float32 moments, in place."""
    gradient = gradient.float()
    m.lerp_(gradient, rates.gain1)
    v.mul_(rates.beta2).addcmul_(gradient, gradient, value=rates.gain2)
    moved = parameter.float().mul_(rates.decay) if parameter.dtype == torch.float32 else parameter.float() * rates.decay
    parameter.copy_(moved.addcdiv_(m, (v.sqrt() / rates.root).add_(rates.eps), value=-rates.rate))
