"""The client of a bound run, whose records the scorer knows, and what a server sees of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.network import Weights

SAMPLER = "sampler"  # how a statement's batches are chosen: no other training
GRID_RANGE = 1 << 15  # inputs lie below it in size, in units of the grid


@dataclass(frozen=True)
class Seen:
    """All that a server has: start weights, update, and what the statement makes public.

    `places` (T, B) says which record each place of each batch holds, records being numbered in the order of their first use:
    the batch seed is public, the records are not.
    """

    start: Weights
    update: Weights  # of each layer, (inputs + 1, outputs), the bias row last
    places: Tensor
    rates: Sequence[float]
    loss: str
    grid: float  # inputs are multiples of it: 2^-activation_bits
    partial: bool = False  # whether entries of zero were left out, not sent: what an attacker knows of some defences

    @property
    def records(self) -> int:
        """Different records behind the update."""
        return int(self.places.max()) + 1

    @property
    def inputs(self) -> int:
        """Numbers in a record."""
        return len(self.start[0]) - 1


@dataclass(frozen=True)
class Found:
    """What an attack makes of an update: records (m, d), those it stands by first, and a label for each if it has any."""

    records: Tensor
    claimed: int = 0
    labels: Tensor | None = None
    stages: Mapping[str, float] | None = None  # counts for the report


@dataclass(frozen=True)
class Client:
    """A client in float64: start weights, its data set, its batches and the rates of its steps."""

    start: Weights
    end: Weights
    data: Tensor  # (rows, d)
    targets: Tensor  # (rows, o), one-hot
    batches: Tensor  # (T, B), rows of the data
    rates: Sequence[float]
    loss: str
    grid: float

    @classmethod
    def of_bound(cls, handed: Mapping[str, Any]) -> Client:
        """From the integers of a run and its statements; AuditError for a training method that is not plain SGD."""
        statements = handed["statements"]
        first = statements[0]
        methods = [name for name, value in first.items() if isinstance(value, dict) and name != SAMPLER]
        if methods:
            raise AuditError(f"a joint audit is of plain SGD; the statement's training uses {', '.join(methods)}")
        weight, grid = 2.0 ** -first["weight_bits"], 2.0 ** -first["activation_bits"]
        start, end = ([_float(matrix) * weight for matrix in handed[name]] for name in ("start", "end"))
        targets = _float(handed["targets"]) * (grid if first["loss"] == "square" else 1.0)
        batches = torch.from_numpy(handed["batches"].astype("int64"))
        rates = [rate for statement in statements for rate in statement["learning_rates"]]
        return cls(start, end, _float(handed["inputs"]) * grid, targets, batches, rates, first["loss"], grid)

    @cached_property
    def update(self) -> list[Tensor]:
        """End less start, exactly: both are integers below 2^53 over the same power of two."""
        return [after - before for before, after in zip(self.start, self.end, strict=True)]

    @cached_property
    def rows(self) -> Tensor:
        """Rows of the data behind the update, in the order of their first use."""
        return torch.tensor(list(dict.fromkeys(self.batches.flatten().tolist())))

    @property
    def truth(self) -> tuple[Tensor, Tensor]:
        """The records behind the update (n, d) and their labels (n,)."""
        return self.data[self.rows], self.targets[self.rows].argmax(1)

    @cached_property
    def seen(self) -> Seen:
        """What the server sees."""
        number = {int(row): place for place, row in enumerate(self.rows)}
        places = torch.tensor([[number[int(row)] for row in batch] for batch in self.batches])
        return Seen(self.start, self.update, places, self.rates, self.loss, self.grid)


def named(weights: Weights) -> dict[str, Tensor]:
    """Layers as the tensors of a Sequential of Linear and ReLU: weights (outputs, inputs) and biases."""
    return {
        f"{2 * j}.{part}": value
        for j, matrix in enumerate(weights)
        for part, value in (("weight", matrix[:-1].T), ("bias", matrix[-1]))
    }


def layers(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The inverse of `named`."""
    count = len(tensors) // 2
    return [torch.cat([tensors[f"{2 * j}.weight"].T, tensors[f"{2 * j}.bias"][None]]) for j in range(count)]


def _float(array: Any) -> Tensor:
    return torch.from_numpy(array.astype("float64"))
