"""Adam's moments of a layer with GaLore, in integers: exact within a period, or stored in 8 bits after every step.

    exact     M = decay[i + 1] m + sum of weights[l] R[i - l],    V the same of R^2 and v, at step i of a period of `gap` steps
              m = floor(M / 2^b), v = floor(V / 2^b) after a period
    stored    M = decay_1 m + weight_1 R,    V = decay_2 (s^2 + s) + weight_2 R^2 + quarter,    each step's own numbers
              m = cast(floor((M + offset) / 2^b)), s = cast(S) after every step,    S = floor(sqrt(V / 2^b))

zk/circuit/dither.py has the numbers of a step and why they change from step to step. `cast` is E4M3 after COAT's range
expansion (Xi et al. 2024): zk/circuit/expanded.py says which number becomes which. Matrices are float64 with integers, (rank,
kept units)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint.expansion import grouped
from zkaudit.training.fixedpoint.step import SIGNED_RANGE
from zkaudit.training.provable import GaLore, Kernel
from zkaudit.zk.circuit import expanded
from zkaudit.zk.circuit.dither import Coefficients


class Moments(ABC):
    """Both moments, `before` being what they were; zeros if none are given."""

    def __init__(self, method: GaLore, j: int, before: Sequence[Tensor]) -> None:
        self.method, self.layer, self.before = method, j, list(before)

    @staticmethod
    def of(method: GaLore, j: int, before: Sequence[Tensor]) -> Moments:
        """Those of layer j."""
        return StoredMoments(method, j, before) if method.first_exponents else ExactMoments(method, j, before)

    @abstractmethod
    def begin(self) -> None:
        """A new period."""

    @abstractmethod
    def averages_after(self, t: int, projected: Tensor) -> tuple[Tensor, Tensor]:
        """M and V after R of the run's step t."""

    @abstractmethod
    def store(self, mean: Tensor, root: Tensor) -> None:
        """What the step made: M and S, int64. TrainingError if a moment leaves 16 bits."""

    @abstractmethod
    def after(self, k: int) -> Tensor:
        """The first (k = 0) or second moment after the last step, as the trace has it: (kept units, rank)."""

    def _begun(self, projected: Tensor) -> list[Tensor]:
        if not self.before:
            self.before = [torch.zeros_like(projected) for _ in range(2)]
        return self.before


class ExactMoments(Moments):
    """Averages over a period, rounded at its end."""

    def __init__(self, method: GaLore, j: int, before: Sequence[Tensor]) -> None:
        super().__init__(method, j, before)
        self.fresh: list[Tensor] = []
        self.averages: list[Tensor] = []

    def begin(self) -> None:
        if self.averages:
            self.before = [self.after(k).T for k in range(2)]
        self.fresh = []

    def averages_after(self, t: int, projected: Tensor) -> tuple[Tensor, Tensor]:
        self.fresh.append(projected)
        before, stacked = self._begun(projected), torch.stack(self.fresh)
        first, second = self.method.kernels
        self.averages = [_averaged(first, stacked, before[0]), _averaged(second, stacked**2, before[1])]
        return self.averages[0], self.averages[1]

    def store(self, mean: Tensor, root: Tensor) -> None:
        """Nothing: what a period ends with follows from its averages."""

    def after(self, k: int) -> Tensor:
        return torch.floor(self.averages[k] * 2.0**-self.method.moment_bits).T


class StoredMoments(Moments):
    """Casts of the first moment and of the second one's root."""

    def __init__(self, method: GaLore, j: int, before: Sequence[Tensor]) -> None:
        super().__init__(method, j, before)
        self._tables: dict[tuple[str, int], Tensor] = {}  # where the numbers are
        self._offset = 0  # of the step whose averages were made

    def begin(self) -> None:
        """Nothing: a change of basis leaves moments as they are."""

    def averages_after(self, t: int, projected: Tensor) -> tuple[Tensor, Tensor]:
        (first, second), method = self._begun(projected), self.method
        c = Coefficients.of(method.beta1, method.beta2, method.moment_bits, t, 1)
        self._offset = int(c.offset[0])
        return (
            int(c.decay_1[0]) * first + int(c.weight_1[0]) * projected,
            int(c.decay_2[0]) * (second**2 + second) + int(c.weight_2[0]) * projected**2 + int(c.quarter[0]),
        )

    def store(self, mean: Tensor, root: Tensor) -> None:
        first = (mean + self._offset) >> self.method.moment_bits
        if int(first.min()) < -SIGNED_RANGE or int(first.max()) >= SIGNED_RANGE:
            raise TrainingError("the first moment leaves 16 bits; use fewer [galore] projection_bits")
        self.before = [self._cast("first", first), self._cast("second", root)]

    def after(self, k: int) -> Tensor:
        return self.before[k].T

    def _cast(self, kind: str, values: Tensor) -> Tensor:
        given = getattr(self.method, f"{kind}_exponents")[self.layer]
        offset, parts = SIGNED_RANGE if kind == "first" else 0, []
        for exponent, part in grouped(values, given):
            if (kind, exponent) not in self._tables:
                self._tables[kind, exponent] = torch.from_numpy(expanded.table(kind, exponent)).to(values.device)
            parts.append(self._tables[kind, exponent][part + offset] - offset)
        return torch.cat(parts, 1).to(torch.float64)


def _averaged(kernel: Kernel, fresh: Tensor, before: Tensor) -> Tensor:
    """The average after the last of the fresh numbers, (steps, rank, kept units), exact in float64."""
    steps = len(fresh)
    weights = fresh.new_tensor(kernel.weights[:steps]).flip(0)
    average: Tensor = torch.tensordot(weights, fresh, dims=1) + kernel.decay[steps] * before
    return average
