"""A step of GaLore: projected SGD or Adam in the subspace of each layer's basis, in integers.

    P^T D = 2^shift R + rest - 2^(shift-1),    D = [A, 2^f]^T G        (basis over the inputs; over the outputs it is D P)
    M, V  = averages of R and of R^2 with b fractional bits              (moments.py)
    S     = floor(sqrt(V / 2^b)),   U = floor(M / (S + epsilon)),   W <- W - c_t P U

P is the nearest integer matrix to 2^p times the first singular vectors of D at a period's first step, or signs that the batch
seed fixes. Moments stay in their coordinates when the basis changes, as in the paper's code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from zkaudit.training.config import Settings
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import exact
from zkaudit.training.fixedpoint.moments import Moments
from zkaudit.training.fixedpoint.step import SIGNED_RANGE, Step
from zkaudit.training.provable import GaLore


class Subspace:
    """One layer's basis and moments. Matrices are float64 with integers, transposed to (rank, kept units)."""

    def __init__(self, method: GaLore, j: int, moments: Sequence[Tensor], seed: bytes | None) -> None:
        self.method, self.layer, self.seed = method, j, seed
        self.rank, self.is_left = method.ranks[j], method.sides[j] == "left"
        self.basis = torch.zeros(0)
        self.moments = Moments.of(method, j, [moment.T.to(torch.float64) for moment in moments])

    def begin(self, t: int, gradient: Tensor) -> None:
        """A new period at step t; gradient: D, (inputs + 1, outputs)."""
        self.moments.begin()
        self.basis = self._svd(gradient) if self.method.basis == "svd" else self._drawn(t, gradient)

    def direction(self, t: int, projected: Tensor) -> Tensor:
        """U, given R of step t."""
        if self.method.optimizer == "sgd":
            return projected
        mean, square = (average.to(torch.int64) for average in self.moments.averages_after(t, projected))
        root = _root(square >> self.method.moment_bits)
        divisor = root + self.method.epsilon
        if int(divisor.max()) > 1 << 16:
            raise TrainingError("the root of the second moment leaves 16 bits; use fewer [galore] projection_bits")
        self.moments.store(mean, root)
        quotient = torch.div(mean, divisor, rounding_mode="floor")
        if exact.magnitude(quotient) >= SIGNED_RANGE:
            raise TrainingError("Adam's direction leaves 16 bits; use a larger [galore] epsilon")
        return quotient.to(torch.float64)

    def _drawn(self, t: int, gradient: Tensor) -> Tensor:
        units = gradient.shape[0 if self.is_left else 1]
        return signs(self.method, self.layer, t, units, self.seed).to(gradient)

    def _svd(self, gradient: Tensor) -> Tensor:
        left, _, right = torch.linalg.svd(gradient.cpu(), full_matrices=False)
        vectors = left[:, : self.rank] if self.is_left else right[: self.rank].T
        return torch.round(vectors * 2.0**self.method.basis_bits).to(gradient.device)


class ProjectedStep(Step):
    """A step whose updates go through `subspaces`, one a layer."""

    def __init__(
        self,
        number: int,
        weights: list[Tensor],
        largest: list[int],
        settings: Settings,
        steps: int,
        subspaces: list[Subspace],
    ) -> None:
        super().__init__(number, weights, largest, settings, steps)
        self.subspaces = subspaces

    def _update(self, j: int, activation: Tensor, gradient: Tensor) -> None:
        method, subspace = self.settings.galore, self.subspaces[j]
        assert method
        with self._explained(j, advice=""):
            if self.number % method.gap == 0:
                subspace.begin(self.number, activation.T @ gradient)
            over, beside = (activation, gradient) if subspace.is_left else (gradient, activation)
            left = (over @ subspace.basis).T
            projected, rest = exact.rescaled_product(left, beside, exact.magnitude(beside), method.shift)
            if exact.magnitude(projected) >= SIGNED_RANGE:
                raise TrainingError("a projected gradient leaves 16 bits; use fewer [galore] projection_bits")
            if method.energy and self.number % method.gap == 0:
                require_energy(method, projected, activation.T, gradient)
            self.arrays |= {f"projected{j}": projected, f"rest{j}": rest}
            direction = subspace.direction(self.number, projected.to(torch.float64))
            pair = (subspace.basis, direction) if subspace.is_left else (direction.T, subspace.basis.T)
            self._subtract(j, *pair, self.settings.rates[self.number])


def require_energy(method: GaLore, projected: Tensor, left: Tensor, right: Tensor) -> None:
    """TrainingError unless R has energy / 256 of D's energy, D = left right; both sides as docs/proof-system.md has them."""
    captured = exact.sum_of_squares(projected) << (2 * method.shift + 8)
    whole = exact.sum_of_squares(exact.product(left, right)) << (2 * method.basis_bits)
    if captured < method.energy * whole:
        share = captured / (256 * whole)
        raise TrainingError(
            f"a basis captures {share:.3f} of its gradient's energy, and [galore] energy asks for {method.energy / 256:.3f}; "
            "use a larger rank or more projection_bits, or ask for less"
        )


def signs(method: GaLore, j: int, t: int, units: int, seed: bytes | None) -> Tensor:
    """Layer j's basis in the period that begins at step t, from the batch seed: int64 (units, rank); docs/proof-system.md."""
    if seed is None:
        raise TrainingError("a random basis is drawn from the batch seed, which was not given")
    count = units * method.ranks[j]
    name = b"".join(x.to_bytes(8, "little") for x in (j, t // method.gap))
    stream = hashlib.shake_256(b"zkaudit basis" + seed + name).digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))[:count].reshape(units, -1).astype(np.int64)
    return torch.from_numpy((2 * bits - 1) * isqrt((1 << (2 * method.basis_bits)) // units))


def _root(values: Tensor) -> Tensor:
    """floor of the square root of non-negative int64."""
    root = values.to(torch.float64).sqrt().to(torch.int64)
    root -= (root * root > values).to(torch.int64)
    return root + ((root + 1) * (root + 1) <= values).to(torch.int64)
