"""GaLore-style projection of each matrix's gradient G (m x n) to rank k: P P^T G (left) or G P P^T (right), P orthonormal.

A random P comes from a public seed: it is part of the protocol, so the server knows it. P from the SVD of G is the client's
own; what it sends is then the best rank-k approximation of G. GaLore, arXiv 2403.03507, section 3.

Right of a tensor whose rows live in the space of inputs x, the rows of G P lie in span{P^T x}: the attack goes on in R^k, as
exactly as before, if the projector is known. `adapted_taps` gives an attacker the taps that see the inputs so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor

from zkaudit.attacks.defences.defence import Defence, Kind, arguments, whole
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.taps import State, Tap, find

Side = Literal["left", "right"]
SIDES = ("left", "right")
PROJECTORS = ("random", "svd")


def random_projector(dimension: int, rank: int, seed: int = 0) -> Tensor | None:
    """Orthonormal columns (dimension, rank), float64, the same for all tensors of a size; None if it would change nothing."""
    if rank >= dimension:
        return None
    generator = torch.Generator().manual_seed(seed)
    basis: Tensor = torch.linalg.qr(torch.randn(dimension, rank, generator=generator, dtype=torch.float64))[0]
    return basis


def projected(value: Tensor, rank: int, side: Side, projector: str) -> Tensor:
    """The gradient of a matrix as the server restores it from its projection; tensors that are not matrices stay."""
    if value.ndim != 2:
        return value
    if projector == "svd":
        left, singular, right = torch.linalg.svd(value.double(), full_matrices=False)
        best: Tensor = left[:, :rank] * singular[:rank] @ right[:rank]
        return best.to(value.dtype)
    basis = random_projector(value.shape[0 if side == "left" else 1], rank)
    if basis is None:
        return value
    basis = basis.to(value.device)
    exact = value.double()
    return (basis @ (basis.T @ exact) if side == "left" else (exact @ basis) @ basis.T).to(value.dtype)


def adapted_taps(model: PublicModel, defence: Defence) -> list[Tap]:
    """The model's taps as an attacker reads them who knows the defence: through its projector where it acts on the inputs."""
    return [_through(tap, model, defence) for tap in find(model)]


def _through(tap: Tap, model: PublicModel, defence: Defence) -> Tap:
    """Whether the projector acts on what the tap's rows span is tried out: rows of a random gradient show it."""
    if defence.linear_map is None or defence.protect is None:
        return tap
    generator = torch.Generator().manual_seed(0)
    trainable = model.trainable()
    sample = {name: torch.randn(trainable[name].shape, generator=generator).to(model.device) for name in tap.parameters}
    rows = tap.rows(defence.protect(sample, generator)).double().cpu()
    basis = defence.linear_map(rows.shape[-1])
    if basis is None or (rows - rows @ basis @ basis.T).norm() > 1e-4 * rows.norm():
        return tap
    return _seen_through(tap, basis)


def _seen_through(tap: Tap, basis: Tensor) -> Tap:
    def rows(update: State) -> Tensor:
        seen = tap.rows(update).double()
        return seen @ basis.to(seen.device)

    def view(x: Tensor, start: State) -> Tensor:
        seen = tap.view(x, start).double()
        return seen @ basis.to(seen.device)

    return replace(
        tap,
        rows=rows,
        view=view,
        space=f"{tap.space}, projected to {basis.shape[1]}",
        capacity=min(tap.capacity, basis.shape[1]),
    )


def _make(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 1, 3)
    rank = whole(text, given[0], "rank")
    side = given[1] if len(given) > 1 else "right"
    projector = given[2] if len(given) > 2 else "random"
    for value, allowed, what in ((side, SIDES, "side"), (projector, PROJECTORS, "projector")):
        if value not in allowed:
            raise AuditError(f"defence '{text}': the {what} is '{value}'; it must be one of {', '.join(allowed)}")
    known: Callable[[int], Tensor | None] | None = None
    if projector == "random":
        known = lambda dimension: random_projector(dimension, rank)  # noqa: E731 (a field, not a function of the module)
    return Defence(
        text,
        lambda tensors, _: {name: projected(value, rank, cast(Side, side), projector) for name, value in tensors.items()},
        linear_map=known,
    )


KINDS = (
    Kind(
        "galore",
        "galore:16",
        "each matrix's gradient is projected to this rank (galore:rank:side:projector; right, random)",
        "a projector the server knows is a linear map: test candidates in the projected space; rank k still shows k directions",
        _make,
    ),
)
