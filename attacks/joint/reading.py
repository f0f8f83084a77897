"""What the first layer's update holds of the records under each method: which matrix to read, and how exactly.

    plain, FP8        W: X~^T G, X~ the records with their ones, G zero where units did not fire; exact to the grid
    GaLore, left      W: P U, so its columns lie in P's. A basis by SVD spans what the first step's records span;
                      random signs show r fixed mixtures of inputs and bias, and no record
    GaLore, right     W: X~^T (G Q) Q^T: records times dense errors; Adam's direction of it is no sum of records
    LoRA              A': X^T (G B^T), without ones, zero while B is; B: (X A')^T G, r mixtures of each record's inputs

All of it rounded to some ten bits with GaLore, exact otherwise. [derived] from the updates in `method.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.client import Seen
from zkaudit.attacks.joint.method import as_gradients

EXACT, ROUNDED = 1e-10, 0.02  # of singular values, relative to the largest: what counts as zero


@dataclass(frozen=True)
class Reading:
    """A matrix whose columns are sums of records times errors."""

    moved: Tensor  # (d + 1, m), or (d, m) without ones
    has_ones: bool
    is_exact: bool
    is_sparse: bool  # errors are zero where units did not fire

    @property
    def directions(self) -> int:
        """How many records' worth of directions it shows."""
        singular = torch.linalg.svdvals(self.moved)
        return int((singular > (EXACT if self.is_exact else ROUNDED) * singular[0]).sum())


def first_layer(seen: Seen) -> Reading:
    """AuditError says in one sentence why no record can be read off the first layer."""
    seen = unrolled_adam(seen)
    if seen.method.lora is not None:
        return _adapter(seen)
    if seen.method.galore is None:
        return Reading(_moving(seen.update[0]), True, True, True)
    given = seen.method.galore
    rank, is_left = given.ranks[0], given.sides[0] == "left"
    if is_left and seen.method.is_public:
        raise AuditError(
            f"GaLore's public basis shows {rank} mixtures of a record's {seen.inputs} inputs and its bias, and a ratio of "
            "mixtures is no record"
        )
    if not is_left and given.optimizer == "adam" and rank > 1:
        raise AuditError("Adam's direction in a basis over the outputs is no sum of records times errors")
    return Reading(_moving(seen.update[0]), True, False, is_left and given.optimizer == "sgd")


def unrolled_adam(seen: Seen) -> Seen:
    """The update with Adam undone where it can be: one step in public bases."""
    if seen.method.is_public and seen.method.galore and seen.method.galore.optimizer == "adam" and len(seen.places) == 1:
        method, moved = as_gradients(seen.method, seen.update, seen.rates[0])
        return replace(seen, method=method, update=moved)
    return seen


def shown_bases(seen: Seen) -> Seen:
    """The update with the bases by SVD that it shows: of SGD in one period, the singular vectors of what moved."""
    given = seen.method.galore
    if given is None or seen.method.is_public or given.optimizer == "adam" or len(seen.places) > given.gap:
        return seen
    bases = []
    for moved, rank, side in zip(seen.update, given.ranks, given.sides, strict=True):
        left, singular, right = torch.linalg.svd(moved, full_matrices=False)
        count = max(1, min(rank, int((singular > EXACT * singular[0]).sum())))
        bases.append(left[:, :count] if side == "left" else right[:count].T)
    return replace(seen, method=replace(seen.method, seen=tuple(bases)))


def _adapter(seen: Seen) -> Reading:
    assert seen.method.lora
    if not seen.method.lora.ranks[0]:
        raise AuditError("the first layer has no adapter, and deeper ones read what the frozen layers make of a record")
    if not bool(seen.update[0].any()):
        raise AuditError(
            f"the first adapter's A' did not move, as in a first step from B = 0, and B shows {seen.method.lora.ranks[0]} "
            f"mixtures of a record's {seen.inputs} inputs"
        )
    return Reading(seen.update[0], False, True, False)


def _moving(matrix: Tensor) -> Tensor:
    if not bool(matrix.any()):
        raise AuditError("the first layer did not move, so there is nothing to read")
    return matrix
