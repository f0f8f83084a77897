"""SLA: one softmax over pairs of a class and a transformation, so that nothing has to be invariant (Lee, Hwang and Shin 2020,
arXiv 1910.05872).

Each of N records is trained on in all M versions t_0 (the record itself), ..., t_{M-1}, next to each other, with C M logits:

    label of version j of a record of class y:  y M + j               loss = mean cross entropy over the N M rows

    single:      logits of t_0(x), columns j = 0                      one pass
    aggregated:  mean over j of the logits of t_j(x), columns j       M passes, P = softmax of it

Self-distillation gives the aggregate's accuracy for one pass: a second head with C outputs on the records themselves,

    + cross entropy(head, y) + T^2 KL(softmax(aggregated / T), not differentiated || softmax(head / T)),          T = 1

Transformations are those of the released code: turns by 90 degrees (M = 4), permutations of three colours (6, or the 3 that
are cyclic), and both. They move pixels and change none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="sla",
    title="Self-supervised label augmentation",
    paper="Lee, Hwang, Shin 2020, arXiv 1910.05872",
    where="zkaudit.training.objectives.sla.LabelAugmentation",
    changes=("objective", "batch"),
    effect="Where training on rotated images with their own label loses accuracy, joint labels gain it, in all settings tried.",
    library="",
    provable="An ordinary step of M times the rows; versions are permutations of a row's pixels, labels public arithmetic.",
    server_sees="The gradient of M linked versions of each record, and a last layer of C M rows: easier to invert, not harder.",
    use=(
        "from zkaudit.training.objectives.sla import LabelAugmentation, rotations\n"
        "\n"
        "sla = LabelAugmentation(rotations())  # the model has classes * sla.versions outputs\n"
        "loss = sla.loss(model(sla.augment(images)), labels)\n"
        "scores = sla.aggregated(model(sla.augment(images)))  # or sla.single(model(images)): one pass"
    ),
    avoid="Records whose class a transformation changes or hides (6 and 9), and runs that cannot pay M times the rows.",
    binding="replayable",
)

Transform = Callable[[Tensor], Tensor]


class Distilled(NamedTuple):
    """The terms of training with a second head; the loss is their sum."""

    joint: Tensor
    head: Tensor
    distillation: Tensor


class LabelAugmentation:
    """`transforms` take a batch (N, ...) to one of the same shape; the first must be the identity.

    Raises TrainingError where shapes do not fit: outputs that are no multiple of the versions, rows that are none.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        if not transforms:
            raise TrainingError("label augmentation needs a transformation; the first is the identity")
        self.transforms = tuple(transforms)
        self.versions = len(self.transforms)

    def augment(self, x: Tensor) -> Tensor:
        """All versions of x (N, ...): (N M, ...), those of a record next to each other."""
        versions = [transform(x) for transform in self.transforms]
        if not torch.equal(versions[0], x):
            raise TrainingError("the first transformation changes the records: it must be the identity")
        if any(version.shape != x.shape for version in versions):
            raise TrainingError(f"a transformation changes the shape of records {tuple(x.shape[1:])}")
        return torch.stack(versions, 1).flatten(0, 1)

    def labels(self, y: Tensor) -> Tensor:
        """y (N,) to (N M,): y M + j."""
        return (y[:, None] * self.versions + torch.arange(self.versions, device=y.device)).flatten()

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross entropy of logits (N M, C M); the released code's "large loss" is M times it."""
        self._by_version(logits)
        return F.cross_entropy(logits, self.labels(y))

    def single(self, logits: Tensor) -> Tensor:
        """Class logits (N, C) from logits (N, C M) of the records as they are."""
        if logits.dim() != 2 or logits.shape[1] % self.versions:
            raise TrainingError(f"logits of shape {tuple(logits.shape)} have no multiple of {self.versions} columns")
        return logits[:, :: self.versions]

    def aggregated(self, logits: Tensor) -> Tensor:
        """Class logits (N, C) from logits (N M, C M) of all versions."""
        return self._by_version(logits).diagonal(dim1=1, dim2=3).mean(-1)

    def distilled(self, logits: Tensor, head: Tensor, y: Tensor, temperature: float = 1.0) -> Distilled:
        """The three terms, from joint logits (N M, C M) and the second head's (N, C) on the records as they are."""
        if not temperature > 0:
            raise TrainingError(f"temperature = {temperature} must be above 0")
        target = F.softmax(self.aggregated(logits).detach() / temperature, 1)
        apart = F.kl_div(F.log_softmax(head / temperature, 1), target, reduction="batchmean")
        return Distilled(self.loss(logits, y), F.cross_entropy(head, y), temperature**2 * apart)

    def _by_version(self, logits: Tensor) -> Tensor:
        """(N, M versions, C, M columns)."""
        if logits.dim() != 2 or len(logits) % self.versions or logits.shape[1] % self.versions:
            raise TrainingError(
                f"logits of shape {tuple(logits.shape)} do not belong to {self.versions} versions: rows and columns must be "
                f"multiples of {self.versions}"
            )
        return logits.reshape(-1, self.versions, logits.shape[1] // self.versions, self.versions)


def rotations(turns: Sequence[int] = (0, 1, 2, 3)) -> tuple[Transform, ...]:
    """Turns by 90 degrees of images (N, channels, height, width), counter-clockwise."""
    return tuple(lambda x, k=k: torch.rot90(x, k, (2, 3)) for k in turns)


def colour_permutations(cyclic: bool = False) -> tuple[Transform, ...]:
    """All 6 orders of three colours (N, 3, ...), or the 3 that are cyclic."""
    orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1)] if cyclic else list(permutations(range(3)))
    return tuple(lambda x, order=order: x[:, list(order)] for order in orders)


def combined(first: Sequence[Transform], second: Sequence[Transform]) -> tuple[Transform, ...]:
    """Every pair, `second` after `first`."""
    return tuple(lambda x, f=f, g=g: g(f(x)) for f in first for g in second)
