"""Certified training by interval bounds with a short warm-up (Shi, Wang, Zhang, Yi and Hsieh 2021, arXiv 2103.17268).

    loss = cross entropy of the worst logits in the box of radius eps_t
         + 0.5 (1 - eps_t / eps) mean over ReLUs of [tightness + balance]
    tightness = relu(0.5 - D_0 / D_i) / 0.5                      D_i mean half-width before ReLU i, D_0 of the input
    balance   = [relu(0.5 - mean ratio) + relu(0.5 - variance ratio)] / 0.5     of active against inactive units

`initialise` draws weights from N(0, 2 pi / fan_in^2), which keeps D_i constant in expectation, and networks have batch
normalisation in every layer. eps_t is 0 for `clean_steps`, then grows over `warmup_steps`: as s^4 for the first quarter, then
along the tangent. Tolerance 0.5, weight 0.5, schedule and initialisation are the authors' code's; there the gradient is also
clipped to norm 8, which is the caller's to do, and weights after a residual sum are halved, which `initialise` does not. The
regularisers use a box of at least eps / 1000, since they are not defined at 0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.robust.bounds import Box, IntervalPass, Propagated

METHOD = Method(
    name="ibp",
    title="Certified training by interval bounds with a short warm-up",
    paper="Shi, Wang, Zhang, Yi, Hsieh 2021, arXiv 2103.17268; bounds of Gowal et al. 2018, arXiv 1810.12715",
    where="zkaudit.training.robust.ibp.CertifiedTraining",
    changes=("robustness",),
    effect="65.03% verified error on CIFAR-10 at eps 8/255 after 160 epochs, where earlier work needed hundreds to thousands.",
    library="auto_LiRPA has more general bounds; this code needs torch alone",
    provable="Not yet: a step needs absolute values and minima of bounds, which the relations for ReLU can express.",
    server_sees="The gradient of a loss over a box around each record; its span is that of the plain gradient of both ends.",
    use="""
initialise(model)  # a network with BatchNorm before each ReLU
training = CertifiedTraining(model, IBPOptions(eps=0.1, warmup_steps=3000, clean_steps=100))
training.loss(x, y).backward()
optimizer.step()
training.step()
print(certified_error(model, x_test, y_test, eps=0.1), pgd_error(model, x_test, y_test, eps=0.1))
""",
    avoid=(
        "high clean accuracy, or a large eps on hard data; layers without bounds (attention, LayerNorm, GELU) are "
        "refused by name"
    ),
)

SMALLEST = 1e-3  # of eps: the box that regularisers see while eps_t is 0
QUARTER = 0.25  # of the warm-up, where the power curve goes over into its tangent


@dataclass(frozen=True)
class IBPOptions:
    """`eps` is the final radius in the l-infinity norm; `limits` are the least and greatest value that an input can have."""

    eps: float
    warmup_steps: int
    clean_steps: int = 0
    limits: tuple[float, float] | None = (0.0, 1.0)
    tolerance: float = 0.5
    weight: float = 0.5  # of the regularisers; 0 leaves plain IBP

    def __post_init__(self) -> None:
        if not self.eps > 0 or not math.isfinite(self.eps):
            raise TrainingError(f"eps must be a positive number, not {self.eps!r}")
        for name in ("warmup_steps", "clean_steps"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise TrainingError(f"{name} must be an integer of at least 0, not {getattr(self, name)!r}")
        if not 0 < self.tolerance <= 1:
            raise TrainingError(f"tolerance must be above 0 and at most 1, not {self.tolerance!r}")
        if not self.weight >= 0:
            raise TrainingError(f"weight must be at least 0, not {self.weight!r}")
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise TrainingError(f"limits must be a lower and a higher number, not {self.limits!r}")

    def eps_at(self, step: int) -> float:
        """The radius after `step` steps."""
        if step < self.clean_steps:
            return 0.0
        if step >= self.clean_steps + self.warmup_steps:
            return self.eps
        s = (step - self.clean_steps) / self.warmup_steps
        scale = 1 / (QUARTER**4 + 4 * QUARTER**3 * (1 - QUARTER))
        grown = s**4 if s < QUARTER else QUARTER**4 + 4 * QUARTER**3 * (s - QUARTER)
        return self.eps * scale * grown


class CertifiedTraining:
    """The loss of a training loop: `loss(records, labels).backward()`, the optimizer's step, then `step()`.

    `model` maps records (B, ...) to logits (B, K); it keeps its own parameters, this keeps the count of steps alone."""

    def __init__(self, model: nn.Module, options: IBPOptions) -> None:
        self.options = options
        self.steps = 0
        self._bounds = IntervalPass(model)

    @property
    def eps(self) -> float:
        return self.options.eps_at(self.steps)

    def loss(self, records: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch at the present radius, a scalar; labels are (B,) integers."""
        options, eps = self.options, self.eps
        found = self._bounds(records, max(eps, SMALLEST * options.eps), options.limits)
        worst = found.output.clean if eps == 0 else -found.margins(labels)
        loss = F.cross_entropy(worst, labels)
        intensity = options.weight * (1 - eps / options.eps)
        return loss + intensity * regulariser(found, options.tolerance) if intensity > 0 and found.relus else loss

    def step(self) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])


def initialise(model: nn.Module) -> list[str]:
    """Draw the weights of all linear and convolution layers but the last from N(0, 2 pi / fan_in^2); returns their names.

    Biases and normalisation keep what they have."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    for name in names[:-1]:
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        nn.init.normal_(weight, 0.0, math.sqrt(2 * math.pi) / weight[0].numel())
    return [f"{name}.weight" for name in names[:-1]]


def regulariser(found: Propagated, tolerance: float = 0.5) -> Tensor:
    """Tightness and balance of the boxes before all ReLUs, averaged over these."""
    width = found.input.half_width.mean()
    terms = [_tightness(box, width, tolerance) + _balance(box, tolerance) for box in found.relus]
    return torch.stack(terms).mean()


def certified_error(
    model: nn.Module, records: Tensor, labels: Tensor, eps: float, limits: tuple[float, float] | None = (0.0, 1.0)
) -> float:
    """The fraction of records that some input within `eps` might get wrong: an upper bound of the error under any attack."""
    with _evaluated(model), torch.no_grad():
        margins = IntervalPass(model)(records, eps, limits).margins(labels)
    others = F.one_hot(labels, margins.shape[1]) == 0
    return float(((margins <= 0) & others).any(dim=1).double().mean())


def pgd_error(
    model: nn.Module, records: Tensor, labels: Tensor, eps: float, limits: tuple[float, float] | None = (0.0, 1.0),
    *, steps: int = 40, restarts: int = 3, seed: int = 0,
) -> float:  # fmt: skip
    """The fraction of records that projected gradient ascent gets wrong within `eps`: a lower bound of that error.

    Steps of 2.5 eps / steps along the sign of the gradient (Madry et al. 2018, arXiv 1706.06083), from random starts."""
    generator = torch.Generator(device=records.device).manual_seed(seed)
    with _evaluated(model):
        wrong = model(records).argmax(dim=1) != labels
        for _ in range(restarts):
            noise = torch.rand(records.shape, generator=generator, device=records.device, dtype=records.dtype) * 2 - 1
            moved = _within(records + eps * noise, records, eps, limits)
            for _ in range(steps):
                moved.requires_grad_()
                (slope,) = torch.autograd.grad(F.cross_entropy(model(moved), labels, reduction="sum"), moved)
                moved = _within(moved.detach() + 2.5 * eps / steps * slope.sign(), records, eps, limits)
                with torch.no_grad():
                    wrong |= model(moved).argmax(dim=1) != labels
    return float(wrong.double().mean())


def _tightness(box: Box, input_width: Tensor, tolerance: float) -> Tensor:
    return F.relu(tolerance - input_width / box.half_width.mean().clamp(min=1e-12)) / tolerance


def _balance(box: Box, tolerance: float) -> Tensor:
    """0 where active and inactive units have like means and variances.

    Where one of the kinds is missing the ratio has no gradient: the authors' code adds a constant there, this adds 0."""
    centre, active, inactive = box.centre, box.lower > 0, box.upper < 0
    if not active.any() or not inactive.any():
        return centre.new_zeros(())
    spread = (centre - centre.mean()) ** 2
    pairs = [((centre * active).mean(), -(centre * inactive).mean()), ((spread * active).mean(), (spread * inactive).mean())]
    ratios = [torch.minimum(a / b.clamp(min=1e-12), b / a.clamp(min=1e-12)) for a, b in pairs]
    return (F.relu(tolerance - ratios[0]) + F.relu(tolerance - ratios[1])) / tolerance


def _within(moved: Tensor, records: Tensor, eps: float, limits: tuple[float, float] | None) -> Tensor:
    moved = torch.minimum(torch.maximum(moved, records - eps), records + eps)
    return moved if limits is None else moved.clamp(*limits)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and each of its modules in the mode it had afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
