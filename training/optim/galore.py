"""GaLore: AdamW whose moments live in a subspace of rank r of each matrix's gradient (Zhao et al. 2024, arXiv 2403.03507).

    R_t = U^T G_t,   M = b1 M + (1 - b1) R_t,   V = b2 V + (1 - b2) R_t^2,   N = M / (sqrt V + eps)
    W  -= lr sqrt(1 - b2^t) / (1 - b1^t) * scale * U N,   then   W -= lr * weight_decay * W

U (or another side, projection.py) is made anew every `update_gap` steps; the moments stay as they are then, as published, or
are turned into the new subspace (`rotate_moments`; the first moment only, a second one has no rotation). Of an m x n matrix
with n <= m the state is 2 m r + n r numbers instead of Adam's 2 m n.

Defaults are those of the released galore-torch 1.0 and its scripts: lr 0.01, betas 0.9 and 0.999, eps 1e-6 added before bias
correction, update_gap 200 (500 at 7B, with lr 0.005 and rank 1024), scale 0.25. The moments are float32 or better whatever the
weights' type; the basis has the weights' type. `states` keeps them in 8 bits instead: "int8" (block_int8.py), or "fp8", COAT's
expanded FP8 (fp8/expansion.py), in which slow second moments drift at beta2 0.999 (fp8/states.py); use 0.95 or so with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.optim import moments
from zkaudit.training.optim.parameter_wise import ParameterWise
from zkaudit.training.optim.projection import (
    PROJECTIONS,
    REFRESHES,
    Subspace,
    derived_seed,
    exact,
    precise,
    seeded,
    sides,
    sketched,
)

METHOD = Method(
    name="galore",
    title="GaLore: gradient low-rank projection",
    paper="Zhao, Zhang, Chen, Wang, Anandkumar, Tian 2024, arXiv 2403.03507",
    where="zkaudit.training.optim.galore.GaLoreAdamW",
    changes=("memory",),
    effect="Optimizer states 65.5% smaller (82.5% with 8-bit states), all training memory 63.3%; 7B trains on a 24 GB card.",
    library="galore-torch has the update rule, step by step equal; per-layer accumulation, rotation and seeds are ours",
    provable="Yes, SGD and Adam in the subspace, in exact fixed point: docs/proved-methods.md.",
    server_sees="A projected gradient of rank r, or a weight change inside the subspaces used: what lies outside is not shown.",
    use=(
        "from zkaudit.training.optim.galore import GaLoreAdamW, low_rank_groups\n"
        "\n"
        'optimizer = GaLoreAdamW(low_rank_groups(model, rank=128), states="fp8", betas=(0.9, 0.95))\n'
        "print(optimizer.fallbacks)  # what is not projected, or kept in float32, and why"
    ),
    avoid="Models with a few small matrices: embeddings and head keep whole states. With states in FP8, beta2 of 0.999 drifts.",
)


@dataclass(frozen=True)
class Fallback:
    """A parameter of a projected group that is treated otherwise, and why."""

    parameter: str
    shape: tuple[int, ...]
    reason: str


class GaLoreAdamW(ParameterWise):
    """AdamW in which groups with a rank are projected; a group without one, or with rank None, is plain AdamW.

    Parameters of a projected group that are not matrices, or whose smaller side is not above the rank, get plain AdamW;
    with states "int8" or "fp8", moments of fewer than 4096 numbers stay in float32. `fallbacks` lists both. Every option can
    be set for a group. Raises TrainingError for options that cannot be used, and for a NaN or infinite gradient at a refresh.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        rank: int | None = None,
        update_gap: int = 200,
        scale: float = 0.25,
        projection: str = "std",
        refresh: str = "svd",
        seed: int = 0,
        states: str = "float32",
        rotate_moments: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "rank": rank, "update_gap": update_gap}
        options |= {"scale": scale, "projection": projection, "refresh": refresh, "seed": seed, "states": states}
        super().__init__(params, options | {"rotate_moments": rotate_moments})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._check(self.defaults | param_group)
        super().add_param_group(param_group)

    @property
    def fallbacks(self) -> list[Fallback]:
        """Parameters of projected groups that get plain AdamW, and those of 8-bit groups whose states stay in float32."""
        found = []
        for group in self.param_groups:
            names = group.get("param_names") or [f"parameter {self._index(p)}" for p in group["params"]]
            for name, p in zip(names, group["params"], strict=True):
                reasons = [_plain_because(p, group), _uncompressed_because(p, group)]
                found += [Fallback(name, tuple(p.shape), reason) for reason in reasons if reason]
        return found

    def step_parameter(self, p: Tensor, group: dict[str, Any]) -> None:
        """One step of one parameter with the gradient in `p.grad`."""
        if p.grad is None or p.grad.is_sparse:
            raise TrainingError(f"a {'missing' if p.grad is None else 'sparse'} gradient cannot be stepped with: make it dense")
        gradient = precise(p.grad)
        subspace = self.subspace(p, group, gradient)
        self.apply(p, group, subspace, gradient if subspace is None else subspace.down(gradient), gradient)

    def is_projected(self, p: Tensor, group: dict[str, Any]) -> bool:
        return group["rank"] is not None and _plain_because(p, group) is None

    def refreshes_next(self, p: Tensor, group: dict[str, Any]) -> bool:
        """Whether the parameter's next step makes a new basis."""
        return self.is_projected(p, group) and self.state.get(p, {}).get("step", 0) % group["update_gap"] == 0

    def subspace(self, p: Tensor, group: dict[str, Any], gradient: Tensor) -> Subspace | None:
        """The subspace of the parameter's next step, made anew from its m x n gradient where it is due; None if plain."""
        state = self.state[p]
        if not state:
            state.update(step=0, index=self._index(p))
        if not self.is_projected(p, group):
            return None
        old = Subspace(state.get("left"), state.get("right"))
        if not self.refreshes_next(p, group):
            return old
        new = _new_subspace(gradient, group, derived_seed(group["seed"], state["index"], state["step"])).to(p.dtype)
        if group["rotate_moments"] and "exp_avg" in state:
            moment = moments.kept(state, "exp_avg", gradient.dtype, signed=True)
            moments.keep(state, "exp_avg", new.rotate(moment, old), group["states"], signed=True)
        state.update({side: basis for side, basis in (("left", new.left), ("right", new.right)) if basis is not None})
        return new

    def apply(self, p: Tensor, group: dict[str, Any], subspace: Subspace | None, low: Tensor, gradient: Tensor | None) -> None:
        """Step with R = `low` in the subspace (the gradient itself if there is none). Only Fira looks at `gradient` then."""
        state = self.state[p]
        direction, rate = _adam(state, group, low)
        update = direction if subspace is None else self.full_update(state, group, subspace, low, direction, gradient)
        p.add_(update, alpha=-rate)
        if group["weight_decay"] > 0:
            p.add_(p, alpha=-float(group["lr"]) * group["weight_decay"])

    def full_update(
        self,
        state: dict[str, Any],
        group: dict[str, Any],
        subspace: Subspace,
        low: Tensor,
        direction: Tensor,
        gradient: Tensor | None,
    ) -> Tensor:
        """The m x n update of a projected parameter, from R = `low` and N = `direction`."""
        scale: float = group["scale"]
        return subspace.up(direction) * scale

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As saved: torch would cast codes and float32 moments to the weights' type."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, p in zip(numbers, (p for group in self.param_groups for p in group["params"]), strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                self.state[p][key] = value.to(p.device, copy=True) if isinstance(value, Tensor) else value

    def _index(self, wanted: Tensor) -> int:
        parameters = [p for group in self.param_groups for p in group["params"]]
        return next(i for i, p in enumerate(parameters) if p is wanted)

    def _check(self, group: dict[str, Any]) -> None:
        """Raises TrainingError for the first option of a group that cannot be used."""
        for theirs, ours in (("update_proj_gap", "update_gap"), ("proj_type", "projection")):
            if theirs in group:
                raise TrainingError(f"{theirs}={group[theirs]!r} is galore-torch's name of the option: it is {ours} here")
        allowed: dict[str, tuple[bool, str]] = {
            "lr": (group["lr"] >= 0, "0 or more"),
            "betas": (all(0 <= beta < 1 for beta in group["betas"]), "two numbers from 0 to below 1"),
            "eps": (group["eps"] > 0, "above 0"),
            "weight_decay": (group["weight_decay"] >= 0, "0 or more"),
            "rank": (group["rank"] is None or _whole(group["rank"]), "a whole number above 0, or None"),
            "update_gap": (_whole(group["update_gap"]), "a whole number above 0"),
            "scale": (group["scale"] > 0, "above 0"),
            "projection": (group["projection"] in PROJECTIONS, f"one of {', '.join(PROJECTIONS)}"),
            "refresh": (group["refresh"] in REFRESHES, f"one of {', '.join(REFRESHES)}"),
            "states": (group["states"] in moments.STATES, f"one of {', '.join(moments.STATES)}"),
        }
        for name, (good, wanted) in allowed.items():
            if not good:
                raise TrainingError(f"{name}={group[name]!r} cannot be used: it must be {wanted}")


def low_rank_groups(model: nn.Module, rank: int, names: Sequence[str] = (), **options: Any) -> list[dict[str, Any]]:
    """Two parameter groups of a model: matrices to project, with `rank` and `options`, and all the rest, plain.

    Projected are 2-d weights of every module but embeddings and the output head, as in the paper; with `names`, those of
    them whose name contains one of these. Raises TrainingError if there is none.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    left_out = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding) or m is head}
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [(name, p) for name, p in parameters if p.dim() == 2 and id(p) not in left_out]
    chosen = [(name, p) for name, p in matrices if not names or any(part in name for part in names)]
    if not chosen:
        raise TrainingError(f"names={list(names)!r} leave no matrix to project: the model has {len(matrices)} that could be")
    taken = {id(p) for _, p in chosen}
    return [_named(chosen, rank=rank, **options), _named(((n, p) for n, p in parameters if id(p) not in taken), rank=None)]


def _named(parameters: Iterable[tuple[str, Tensor]], **options: Any) -> dict[str, Any]:
    pairs = list(parameters)
    return {"params": [p for _, p in pairs], "param_names": [name for name, _ in pairs], **options}


def _new_subspace(gradient: Tensor, group: dict[str, Any], seed: int) -> Subspace:
    if group["refresh"] == "svd":
        return exact(gradient, group["rank"], group["projection"])
    return (sketched if group["refresh"] == "sketch" else seeded)(gradient, group["rank"], group["projection"], seed)


def _adam(state: dict[str, Any], group: dict[str, Any], low: Tensor) -> tuple[Tensor, float]:
    """Moments after R = `low`: the direction N, and the learning rate with bias correction."""
    beta1, beta2 = group["betas"]
    if "exp_avg" not in state:
        first, second = torch.zeros_like(low), torch.zeros_like(low)
    else:
        first = moments.kept(state, "exp_avg", low.dtype, signed=True)
        second = moments.kept(state, "exp_avg_sq", low.dtype, signed=False)
    first.mul_(beta1).add_(low, alpha=1 - beta1)
    second.mul_(beta2).addcmul_(low, low, value=1 - beta2)
    moments.keep(state, "exp_avg", first, group["states"], signed=True)
    moments.keep(state, "exp_avg_sq", second, group["states"], signed=False)
    state["step"] += 1
    rate = float(group["lr"]) * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
    return first / second.sqrt().add_(group["eps"]), rate


def _plain_because(p: Tensor, group: dict[str, Any]) -> str | None:
    """Why a parameter of a projected group is not projected; None if it is, or if the group is plain."""
    if group["rank"] is None:
        return None
    if p.dim() != 2:
        return f"plain AdamW: it has {p.dim()} dimensions, not 2"
    if (side := min(p.shape)) <= group["rank"]:
        return f"plain AdamW: its smaller side is {side}, not above rank {group['rank']}"
    return None


def _uncompressed_because(p: Tensor, group: dict[str, Any]) -> str | None:
    numbers = p.numel()
    if group["rank"] is not None and _plain_because(p, group) is None:
        left, right = sides(p.shape, group["projection"])
        numbers = (group["rank"] if left else p.shape[0]) * (group["rank"] if right else p.shape[1])
    small = group["states"] != "float32" and not moments.is_compressed(numbers, group["states"])
    return f"float32 states: a moment has {numbers} numbers, fewer than {moments.SMALLEST}" if small else None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
