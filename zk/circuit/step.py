"""A training step as data: which matrix products it takes, and from which pairs it updates each matrix of weights.

fac4dnn.py proves the products and history.py the updates, whatever the method; a method is provable if its step can be said
here, and the tensors that it names in network.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zkaudit.zk.layout import Layout
from zkaudit.zk.statement import Statement


@dataclass(frozen=True)
class Tensor:
    """A tensor over (unit, sample) by its kind, a name that network.py and witness.py know, and its layer."""

    kind: str
    layer: int


@dataclass(frozen=True)
class Equation:
    """result = the sum over `products` of tensor times matrix, forward; of tensor times transposed matrix, backward.

    Backward, a matrix's bias row takes no part.
    """

    result: Tensor
    products: tuple[tuple[Tensor, int], ...]  # tensor and number of the matrix


@dataclass(frozen=True)
class Pair:
    """W[t + 1] = W[t] - rates[t] left[t]^T right[t], both with `per_step` samples a step."""

    left: Tensor
    right: Tensor
    per_step: int
    rates: Sequence[int]


def forward(layout: Layout) -> list[Equation]:
    """Z_j = [A_j, 2^f] W_j, to which an adapter adds H_j B_j; then H_j = A_j A'_j, for each adapter."""
    s, adapters = layout.statement, adapter_numbers(layout)
    equations = []
    for j in range(s.layers):
        products = [(Tensor("activation", j), j)]
        if j in adapters:
            products.append((Tensor("hidden", j), adapters[j] + 1))
        equations.append(Equation(Tensor("preactivation", j), tuple(products)))
    return equations + [Equation(Tensor("hidden_product", j), ((Tensor("input", j), m),)) for j, m in adapters.items()]


def backward(layout: Layout) -> list[Equation]:
    """G_{j+1} W_{j+1}^T, to which an adapter adds GH_{j+1} A'_{j+1}^T; then GH_j = G_j B_j^T, for each adapter."""
    s, adapters = layout.statement, adapter_numbers(layout)
    equations = []
    for j in range(s.layers - 1):
        products = [(Tensor("gradient", j + 1), j + 1)]
        if j + 1 in adapters:
            products.append((Tensor("hidden_gradient", j + 1), adapters[j + 1]))
        equations.append(Equation(Tensor("activation_gradient", j), tuple(products)))
    for j, m in adapters.items():
        equations.append(Equation(Tensor("hidden_gradient_product", j), ((Tensor("gradient", j), m + 1),)))
    return equations


def pairs(layout: Layout) -> dict[int, Pair]:
    """By the number of the matrix; frozen ones have none."""
    s = layout.statement
    if s.lora is not None:
        second, found = s.lora.second_rates(s.rates), {}
        for j, m in adapter_numbers(layout).items():
            found[m] = Pair(Tensor("input", j), Tensor("hidden_gradient", j), s.batch, s.rates)
            found[m + 1] = Pair(Tensor("hidden", j), Tensor("gradient", j), s.batch, second)
        return found
    if s.galore is not None:
        return {j: _projected(s, j) for j in range(s.layers)}
    return {j: Pair(Tensor("activation", j), Tensor("gradient", j), s.batch, s.rates) for j in range(s.layers)}


def adapter_numbers(layout: Layout) -> dict[int, int]:
    """Layer -> number of its first adapter; the second one's is the next."""
    s = layout.statement
    return {j: s.layers + 2 * i for i, (j, _) in enumerate(s.lora.adapters)} if s.lora else {}


def _projected(s: Statement, j: int) -> Pair:
    assert s.galore is not None
    basis, direction, rank = Tensor("basis", j), Tensor("direction", j), s.galore.ranks[j]
    left, right = (basis, direction) if s.galore.sides[j] == "left" else (direction, basis)
    return Pair(left, right, rank, s.rates)
