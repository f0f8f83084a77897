"""Subspaces of rank r in which a matrix's gradient G (m x n) is kept.

    left   R = U^T G    (r x n)    back: U R
    right  R = G V      (m x r)    back: R V^T
    full   R = U^T G V  (r x r)    back: U R V^T

U (m x r) and V (n x r) have orthonormal columns. `std` takes the side with the smaller basis: right if m >= n, else left;
`reverse_std` the other. Three ways to get a basis:

    svd     G's leading singular vectors (Zhao et al. 2024, arXiv 2403.03507)
    sketch  a randomised range finder (Halko, Martinsson, Tropp 2011, algorithm 4.4) with 2 power iterations: O(m n r)
    seed    orthonormalised Gaussian vectors from a public seed: whoever knows seed, parameter and step makes the same
            basis without the gradient, up to rounding

Factorisations are in float32 or better whatever G's type. Singular vectors have no sign of their own: the entry of largest
magnitude is made positive, so that runs can be repeated and moments keep their meaning where a vector stays as it was."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError

PROJECTIONS = ("std", "reverse_std", "left", "right", "full")
REFRESHES = ("svd", "sketch", "seed")


@dataclass(frozen=True)
class Subspace:
    """`left` is m x r, `right` n x r; one of them may be None."""

    left: Tensor | None = None
    right: Tensor | None = None

    def down(self, matrix: Tensor) -> Tensor:
        """R of an m x n matrix, in the matrix's type."""
        if self.left is not None:
            matrix = self.left.to(matrix.dtype).T @ matrix
        return matrix if self.right is None else matrix @ self.right.to(matrix.dtype)

    def up(self, low: Tensor) -> Tensor:
        """The m x n matrix of an R."""
        if self.left is not None:
            low = self.left.to(low.dtype) @ low
        return low if self.right is None else low @ self.right.to(low.dtype).T

    def rotate(self, low: Tensor, old: Subspace) -> Tensor:
        """`down(old.up(low))`, without the m x n matrix: what R of `old` is in this subspace."""
        if self.left is not None and old.left is not None:
            low = (self.left.to(low.dtype).T @ old.left.to(low.dtype)) @ low
        if self.right is not None and old.right is not None:
            low = low @ (old.right.to(low.dtype).T @ self.right.to(low.dtype))
        return low

    def overlap(self, other: Subspace) -> float:
        """||A^T B||_F^2 / r of the two bases, the mean over sides: 1 for the same subspace, 0 for orthogonal ones."""
        pairs = [(self.left, other.left), (self.right, other.right)]
        found = [
            float((a.double().T @ b.double()).square().sum()) / a.shape[1] for a, b in pairs if a is not None and b is not None
        ]
        if not found:
            raise TrainingError("the overlap of subspaces needs two of the same side")
        return sum(found) / len(found)

    def to(self, dtype: torch.dtype) -> Subspace:
        return Subspace(*(None if basis is None else basis.to(dtype) for basis in (self.left, self.right)))


def sides(shape: torch.Size, projection: str) -> tuple[bool, bool]:
    """Whether the projection has a left and a right basis for a matrix of this shape."""
    tall = shape[0] >= shape[1]
    left = {"std": not tall, "reverse_std": tall, "left": True, "right": False, "full": True}[projection]
    return left, projection == "full" or not left


def precise(matrix: Tensor) -> Tensor:
    """In float32, or float64 if it is that."""
    return matrix.to(torch.promote_types(matrix.dtype, torch.float32))


def exact(gradient: Tensor, rank: int, projection: str = "std") -> Subspace:
    """The subspace of the leading singular vectors. Raises TrainingError if the gradient is not finite."""
    matrix = _finite(gradient)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return _chosen(u[:, :rank], vh[:rank].T, sides(gradient.shape, projection))


def sketched(
    gradient: Tensor, rank: int, projection: str = "std", seed: int = 0, oversampling: int = 8, iterations: int = 2
) -> Subspace:
    """Nearly `exact`'s subspace, from products with rank + oversampling random vectors."""
    matrix = _finite(gradient)
    width = min(rank + oversampling, *matrix.shape)
    basis = _orthonormal(matrix @ _gaussian(matrix.shape[1], width, seed, matrix))
    for _ in range(iterations):
        basis = _orthonormal(matrix @ _orthonormal(matrix.T @ basis))
    u, _, vh = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return _chosen(basis @ u[:, :rank], vh[:rank].T, sides(gradient.shape, projection))


def seeded(like: Tensor, rank: int, projection: str = "std", seed: int = 0) -> Subspace:
    """A random subspace for a gradient of `like`'s shape, type and device; its values are not read."""
    left, right = sides(like.shape, projection)
    bases = []
    for side, wanted in enumerate((left, right)):
        basis = _orthonormal(torch.randn(like.shape[side], rank, generator=_generator(seed, side), dtype=torch.float64))
        bases.append(_positive(basis).to(like.device, precise_type(like)) if wanted else None)
    return Subspace(*bases)


def precise_type(tensor: Tensor) -> torch.dtype:
    """float32, or float64 if the tensor is that."""
    return torch.promote_types(tensor.dtype, torch.float32)


def derived_seed(seed: int, index: int, step: int) -> int:
    """A seed of its own for a parameter's refresh: 63 bits of SHA-256("seed/index/step"), the numbers in decimal."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}/{step}".encode()).digest()[:8], "big") >> 1


def _finite(gradient: Tensor) -> Tensor:
    matrix = precise(gradient)
    if not bool(torch.isfinite(matrix).all()):
        raise TrainingError(
            f"a gradient of shape {tuple(matrix.shape)} holds NaN or infinity, so it has no leading subspace; "
            "lower the learning rate, or skip the step"
        )
    return matrix


def _chosen(u: Tensor, v: Tensor, wanted: tuple[bool, bool]) -> Subspace:
    """With both sides, pairs change sign together, so that R has the singular values on its diagonal."""
    left, right = wanted
    if left and right:
        signs = _signs(u)
        return Subspace((u * signs).contiguous(), (v * signs).contiguous())
    return Subspace(_positive(u), None) if left else Subspace(None, _positive(v))


def _positive(basis: Tensor) -> Tensor:
    return (basis * _signs(basis)).contiguous()


def _signs(basis: Tensor) -> Tensor:
    """1 x r: the sign of each column's entry of largest magnitude."""
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(basis.dtype)


def _orthonormal(matrix: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(matrix).Q
    return basis


def _gaussian(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    return torch.randn(rows, columns, generator=_generator(seed, 0)).to(like.device, like.dtype)


def _generator(seed: int, side: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + side) % 2**63)  # on the CPU: the same numbers for every device
