"""Rows that rounds show of a group of taps: gradients out of deltas, rounds of one batch stacked, and their rounding noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import LENGTH, activations
from zkaudit.attacks.spans import Subspace, gap_rank, subspace
from zkaudit.attacks.taps import Group
from zkaudit.attacks.threat import Round

# Mantissa bits and least exponent of float formats, and the largest value that 8-bit ones are scaled to.
FORMATS = {"float64": (52, -1022), "float32": (23, -126), "bfloat16": (7, -126), "float16": (10, -14)}
SCALED = {"fp8_e4m3": (3, -6, 448.0), "fp8_e5m2": (2, -14, 57344.0)}


def gradient(seen: Round, federated: FederatedSettings) -> dict[str, Tensor]:
    """What was sent, as the gradient: a delta over minus the learning rate, less the weight decay, whose share is public.

    Exact for one step of SGD; the mean gradient to first order for several; for AdamW one step gives the sign-like direction.
    """
    if seen.update.kind == "gradient":
        return dict(seen.update.tensors)
    steps, rate, decay = federated.steps, federated.learning_rate or 1.0, federated.weight_decay
    return {
        name: -value.double() / (rate * steps) - decay * seen.start[name].double()
        for name, value in seen.update.tensors.items()
    }


def stackable(model: PublicModel, group: Group, rounds: Sequence[Round]) -> list[Round]:
    """The first round, and the others in which the group sees the same inputs through the same view."""
    generator = torch.Generator().manual_seed(2)
    probe = torch.randint(model.vocabulary, (1, LENGTH), generator=generator).to(model.device)
    views = []
    for seen in rounds:
        with model.holding(seen.start):
            (x,) = activations(model, [group.site], probe)
            views.append(group.view(x, seen.start).double())
    return [seen for seen, view in zip(rounds, views, strict=True) if (view - views[0]).norm() <= 1e-5 * views[0].norm()]


@dataclass(frozen=True)
class Rows:
    """`values` (q, m), each tap's scaled to norm 1; `noise` is the root mean square of what rounding adds to an entry."""

    values: Tensor
    noise: float

    def space(self, most: int) -> Subspace:
        """Their row space, of the rank that stands above the noise, but at most `most`: that many tokens there can be."""
        if len(self.values) == 0:
            width = self.values.shape[1]
            return Subspace(self.values.new_zeros(width, 0), self.values.new_zeros(0))
        whole = subspace(self.values, min(self.values.shape))
        edge = self.noise * sum(math.sqrt(size) for size in self.values.shape)  # the largest singular value of noise alone
        rank = min(gap_rank(whole.singular, max(2.0**-24, edge / float(whole.singular[0]))), most)
        return Subspace(whole.basis[:, :rank], whole.singular)


def rows(group: Group, rounds: Sequence[Round], federated: FederatedSettings) -> Rows:
    """Of all taps of a group and all rounds, stacked; taps that are zero (LoRA's A while B = 0) are left out."""
    values, errors = [], []
    for seen in rounds:
        tensors = gradient(seen, federated)
        rounding = rounding_errors(seen, federated)
        for tap in group.taps:
            part = tap.rows(tensors).double()
            norm = part.norm()
            if norm > 0:
                values.append(part / norm)
                errors.append((tap.rows(rounding).double() / norm).square().mean())
    if not values:
        return Rows(part[:0], 0.0)
    return Rows(torch.cat(values), float(torch.stack(errors).mean().sqrt()))


def rounding_errors(seen: Round, federated: FederatedSettings) -> dict[str, Tensor]:
    """Sizes of the update's errors: of the precision it was sent in and, in a delta, of the weights it came from."""
    errors = {}
    for name, value in seen.update.tensors.items():
        error = rounding_error(value.double(), federated.precision)
        if seen.update.kind == "delta":
            weights = rounding_error(seen.start[name].double(), "float32") * math.sqrt(federated.steps)
            error = (error.square() + weights.square()).sqrt() / ((federated.learning_rate or 1.0) * federated.steps)
        errors[name] = error
    return errors


def rounding_error(value: Tensor, precision: str) -> Tensor:
    """Root mean square of the error of rounding to `precision`, for each entry: the format's step over sqrt 12 (zero: none)."""
    if precision == "int8":
        return torch.full_like(value, float(value.abs().max()) / 127 / math.sqrt(12))
    scale = 1.0
    if precision in SCALED:
        bits, least, largest = SCALED[precision]
        scale = max(float(value.abs().max()), 1e-30) / largest
    else:
        bits, least = FORMATS[precision]
    exponent = (torch.frexp(value / scale).exponent - 1).clamp_min(least)
    return (torch.exp2((exponent - bits).double()) * scale / math.sqrt(12)).masked_fill(value == 0, 0.0)
