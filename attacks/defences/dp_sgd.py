"""DP-SGD: each example's gradient is clipped to norm C, Gaussian noise of deviation sigma C is added to the sum of a step's
examples, and the sum is divided by their number. Abadi et al. 2016, arXiv 1607.00133, algorithm 1.

An example's gradient is that of the model's own loss on this example alone. Opacus computes them for a whole batch at once;
whether it does so rightly for this model is checked first, against one backward pass for each example. Where it fails or
differs a plain loop of such passes is used instead (Opacus 1.6 fails on DoRA and prompt tuning, and silently leaves IA3 out).
`examples.choose` says which and why.

Noise comes from a seeded generator, so that an audit can be repeated: fit for measuring, not for protecting records.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zkaudit.attacks.defences.examples import Engine, choose, per_example
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import Protect, make_optimizer, one_round
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.model import Batch, PublicModel
from zkaudit.attacks.update import Update

LOOSE = 50.0  # an epsilon that says nothing any more


@dataclass(frozen=True)
class PrivateOptions:
    """`sigma` is the noise multiplier, 0 for clipping only; `clip` the largest norm of one example's gradient."""

    sigma: float = 1.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf or not 0 < self.clip < math.inf:
            raise AuditError(f"DP-SGD takes sigma >= 0 and clip > 0; they are {self.sigma} and {self.clip}")


@dataclass(frozen=True)
class Accounting:
    """What the guarantee depends on besides sigma: `steps`, each on a Poisson sample that holds a record with `sample_rate`.

    Training on fixed batches, as a federation here does, is not Poisson sampling: epsilon is what such training would have.
    """

    sample_rate: float
    steps: int
    delta: float = 1e-5
    accountant: Literal["prv", "rdp"] = "prv"

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate <= 1 or self.steps < 1 or not 0 < self.delta < 1:
            raise AuditError(
                f"no epsilon for sample rate {self.sample_rate}, {self.steps} steps and delta {self.delta}: "
                "rate and delta lie between 0 and 1 and there is at least one step"
            )

    def epsilon(self, sigma: float) -> float:
        """By Opacus' accountant; infinite without noise. AuditError if Opacus is not installed.

        Beyond LOOSE it is RDP's bound, whatever the accountant: PRV's grid would not fit into memory.
        """
        if sigma == 0:
            return math.inf
        try:
            from opacus.accountants import create_accountant
        except ImportError:
            raise AuditError("epsilon is computed by Opacus' accountant; install zkaudit[dp]") from None

        def bound(name: str) -> float:
            accountant = create_accountant(name)
            accountant.history = [(sigma, self.sample_rate, self.steps)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a bound that could be tighter, logarithms of 0 at sample rate 1
                return float(accountant.get_epsilon(delta=self.delta))

        loose = bound("rdp")
        return loose if self.accountant == "rdp" or loose > LOOSE else bound("prv")


def private_update(
    model: PublicModel,
    data: Sequence[Batch],
    settings: FederatedSettings,
    options: PrivateOptions,
    seed: int = 0,
    protect: Protect | None = None,
) -> Update:
    """`local_update` by DP-SGD: same batches, optimizer, mode, precision; `model` holds its start values again afterwards."""
    if settings.sends == "delta" and len(data) != settings.local_steps * settings.accumulation:
        raise AuditError(
            f"a client's local training takes {settings.local_steps * settings.accumulation} batches; there are {len(data)}"
        )
    engine = choose(model, data[0])
    noise = torch.Generator().manual_seed(seed + 2)
    return one_round(
        model,
        settings,
        lambda: private_gradient(model, data, options, noise, engine),
        lambda: _train(model, data, settings, options, noise, engine),
        protect,
        seed,
    )


def private_gradient(
    model: PublicModel, data: Sequence[Batch], options: PrivateOptions, noise: torch.Generator, engine: Engine
) -> dict[str, Tensor]:
    """The mean over all examples of `data` of their clipped gradients, with noise; the step's examples are all of them."""
    total = {name: torch.zeros_like(p) for name, p in model.trainable().items()}
    count = 0
    for batch in data:
        gradients = per_example(model, batch, engine)
        scale = (options.clip / norms(gradients).clamp_min(1e-30)).clamp(max=1.0)
        for name, each in gradients.items():
            total[name] += torch.tensordot(scale.to(each), each, dims=1)
        count += len(batch.input_ids)
    deviation = options.sigma * options.clip
    return {
        name: (value + deviation * torch.randn(value.shape, generator=noise).to(value)) / count for name, value in total.items()
    }


def norms(gradients: dict[str, Tensor]) -> Tensor:
    """The norm of each example's whole gradient, (B,)."""
    return torch.stack([each.flatten(1).square().sum(1) for each in gradients.values()]).sum(0).sqrt()


def _train(
    model: PublicModel,
    data: Sequence[Batch],
    settings: FederatedSettings,
    options: PrivateOptions,
    noise: torch.Generator,
    engine: Engine,
) -> None:
    trainable = model.trainable()
    optimizer = make_optimizer(trainable.values(), settings)
    total = settings.local_steps * settings.local_epochs
    for step in range(total):
        if settings.schedule == "linear":
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 - step / total)
        first = step % settings.local_steps * settings.accumulation
        gradient = private_gradient(model, data[first : first + settings.accumulation], options, noise, engine)
        for name, parameter in trainable.items():
            parameter.grad = gradient[name]
        optimizer.step()


@dataclass(frozen=True)
class DeltaCheck:
    """`error` is the largest relative difference of a tensor's step from what it should be, `where` that tensor's name."""

    error: float
    where: str

    @property
    def trains(self) -> bool:
        """Whether the step is the right one, up to rounding."""
        return self.error < 1e-3


def weight_delta_check(
    model: PublicModel, batch: Batch, clip: float, learning_rate: float, step: Callable[[PublicModel, Batch], None]
) -> DeltaCheck:
    """Whether one's own DP training really moves the adapters as it should.

    `step` does one SGD step, clipped and without noise, in place. The weights' change is compared with that of gradients
    computed one example at a time, in the module's present mode: it must have no dropout in it. Combinations of Opacus and peft
    are known that train without an error but leave adapters useless (opacus issue 820). The model's values are restored.
    """
    gradients = per_example(model, batch, Engine("loop"))
    scale = (clip / norms(gradients).clamp_min(1e-30)).clamp(max=1.0)
    start = model.state()
    try:
        step(model, batch)
        moved = {name: value - start[name] for name, value in model.state().items()}
    finally:
        model.assign(start)
    worst = DeltaCheck(0.0, "")
    for name, each in gradients.items():
        wanted = -learning_rate * torch.tensordot(scale.to(each), each, dims=1) / len(scale)
        rounding = 1e-6 * start[name].norm()  # of the weights that the step was added to
        error = float((moved[name] - wanted).norm() / (wanted.norm() + rounding).clamp_min(1e-30))
        if error > worst.error or not worst.where:
            worst = DeltaCheck(error, name)
    return worst
