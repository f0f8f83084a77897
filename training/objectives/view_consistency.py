"""View consistency: views of one record in a batch must be answered alike (Kang et al. 2025, "Do Your Best and Get Enough
Rest for Continual Learning", arXiv 2503.18371).

With view batches (batch/view_batch.py) a batch holds several augmented views of each record. The first view of a record, in
the batch's order, is the target for its others:

    loss = cross entropy + weight * mean over the other views v of KL(softmax(first), not differentiated || softmax(v))

from an epoch on (after epoch 5, weight 1, four views, in the released code). Rows say by a group id whose views they are: the
released code takes neighbours with one label for views of one record, which is wrong where two records of a class meet. It also
divides each KL by the number of classes C (`paper_scale`), so that its weight 1 is weight 1 / C of a true KL."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="view-consistency",
    title="Consistency between views of one record",
    paper="Kang et al. 2025, arXiv 2503.18371",
    where="zkaudit.training.objectives.view_consistency.ViewConsistency",
    changes=("objective",),
    effect="iCaRL on Split CIFAR-10: accuracy 67.21 to 69.25, forgetting 18.72 to 13.81, over view batches alone.",
    library="",
    provable="Not yet: its gradient is a difference of two softmaxes, each in the relations; groups are public.",
    server_sees="One gradient of several views of each record: fewer records a step, and linked ones, so easier to invert.",
    use=(
        "from zkaudit.training.objectives.view_consistency import ViewConsistency\n"
        "\n"
        "objective = ViewConsistency(weight=1.0)\n"
        "loss = objective(model(views), labels, groups=record_ids, epoch=epoch)"
    ),
    avoid="Augmentations that may change the class, and audits of leakage: linked views are the worst case for inversion.",
    binding="replayable",
)


@dataclass(frozen=True)
class ViewConsistency:
    """Called with logits (N, C), labels (N,), the group (N,) of each row and the epoch, from 0, gives the loss."""

    weight: float = 1.0
    after_epoch: int = 5
    paper_scale: bool = False

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise TrainingError(f"weight = {self.weight} of view consistency must not be negative")

    def __call__(self, logits: Tensor, labels: Tensor, groups: Tensor, epoch: int) -> Tensor:
        loss = F.cross_entropy(logits, labels)
        if epoch <= self.after_epoch:
            return loss
        scale = self.weight / logits.shape[1] if self.paper_scale else self.weight
        return loss + scale * view_divergence(logits, groups)


def view_divergence(logits: Tensor, groups: Tensor) -> Tensor:
    """Mean KL from each group's first row to its other rows, of logits (N, C); 0 where every group has one row.

    Groups (N,) are whole numbers; rows of a group need not be neighbours. Raises TrainingError if the shapes do not fit.
    """
    if logits.dim() != 2 or groups.shape != logits.shape[:1] or groups.is_floating_point():
        raise TrainingError(f"groups must be {len(logits)} whole numbers, one for each row, not {tuple(groups.shape)}")
    first = first_rows(groups)
    others = (first != torch.arange(len(groups), device=groups.device)).nonzero()[:, 0]
    if len(others) == 0:
        return logits.sum() * 0
    target = F.log_softmax(logits.detach(), 1)[first[others]]
    return F.kl_div(F.log_softmax(logits[others], 1), target, reduction="batchmean", log_target=True)


def first_rows(groups: Tensor) -> Tensor:
    """(N,): for each row the lowest row number of its group."""
    same = groups[:, None] == groups
    return same.to(torch.uint8).argmax(1)  # the first of equal ones
