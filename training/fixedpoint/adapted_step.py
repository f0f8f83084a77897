"""A step of LoRA: the layers' weights are frozen, and the two matrices of each adapter are trained.

H_j  = rescaled A_j A'_j,       Z_j = [A_j, 2^f] W_j + H_j B_j
GH_j = rescaled G_j B_j^T,      GA_{j-1} = G_j W_j^T + GH_j A'_j^T
A'_j <- A'_j - c_t A_j^T GH_j,  B_j <- B_j - c_t factor / divisor H_j^T G_j"""

from __future__ import annotations

import torch
from torch import Tensor

from zkaudit.training.config import Settings
from zkaudit.training.fixedpoint import exact
from zkaudit.training.fixedpoint.step import SIGNED_RANGE, Step


class AdaptedStep(Step):
    """`weights` are the layers' frozen ones, then A' and B of each adapter, in the order of layers."""

    def __init__(self, number: int, weights: list[Tensor], largest: list[int], settings: Settings, steps: int) -> None:
        super().__init__(number, weights, largest, settings, steps)
        assert settings.lora
        adapters = settings.lora.adapters
        self.last = len(settings.lora.ranks) - 1
        self.first = {j: self.last + 1 + 2 * i for i, (j, _) in enumerate(adapters)}  # layer -> number of its A'

    def _preactivation(self, j: int, activation: Tensor) -> Tensor:
        if j not in self.first:
            return super()._preactivation(j, activation)
        m = self.first[j]
        hidden = self._inside("h", j, activation[:, :-1], self.weights[m], m)
        left, right = torch.cat([activation, hidden], dim=1), torch.cat([self.weights[j], self.weights[m + 1]])
        return self._product(f"z{j}", f"r{j}", j, left, right, max(self.largest[j], self.largest[m + 1]))

    def _received(self, j: int, gradient: Tensor) -> Tensor:
        if j not in self.first:
            return super()._received(j, gradient)
        m = self.first[j]
        inside = self._hidden_gradient(j, gradient)
        left, right = torch.cat([gradient, inside], dim=1), torch.cat([self.weights[j][:-1].T, self.weights[m].T])
        return self._product(f"ga{j - 1}", f"rg{j - 1}", j, left, right, max(self.largest[j], self.largest[m]))

    def _update(self, j: int, activation: Tensor, gradient: Tensor) -> None:
        if j not in self.first:
            return
        assert self.settings.lora
        m, rate = self.first[j], self.settings.rates[self.number]
        inside, hidden = self._hidden_gradient(j, gradient), self.arrays[f"h{j}"].to(torch.float64)
        second = rate * self.settings.lora.factor // self.settings.lora.divisor
        for i, left, right, c in ((m, activation[:, :-1], inside, rate), (m + 1, hidden, gradient, second)):
            with self._explained(j):
                self._subtract(i, left.T, right, c)

    def _hidden_gradient(self, j: int, gradient: Tensor) -> Tensor:
        """GH_j as float64; made once."""
        if f"gh{j}" not in self.arrays:
            m = self.first[j]
            self._inside("gh", j, gradient, self.weights[m + 1].T, m + 1)
        return self.arrays[f"gh{j}"].to(torch.float64)

    def _inside(self, name: str, j: int, left: Tensor, right: Tensor, m: int) -> Tensor:
        number = self._product(f"{name}{j}", f"{name}r{j}", j, left, right, self.largest[m])
        fraction = self.bits.activation_bits if name == "h" else self.bits.gradient_bits
        what = "activation inside the adapter" if name == "h" else "gradient"
        self._require_range(what, j, number, SIGNED_RANGE, fraction)
        return number.to(torch.float64)

    def _product(self, quotient: str, remainder: str, j: int, left: Tensor, right: Tensor, largest: int) -> Tensor:
        with self._explained(j):
            self.arrays[quotient], self.arrays[remainder] = exact.rescaled_product(left, right, largest, self.bits.weight_bits)
        return self.arrays[quotient]
