"""The client of a bound run, whose records the scorer knows, and what a server sees of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.method import KINDS, PLAIN, Method
from zkaudit.training.fixedpoint.float_step import Weights

SAMPLER = "sampler"  # how a statement's batches are chosen: no other training
WEIGHTS = ("start", "end", "frozen")
GRID_RANGE = 1 << 15  # inputs lie below it in size, in units of the grid


@dataclass(frozen=True)
class Seen:
    """All that a server has: start weights, update, and what the statement makes public.

    `places` (T, B) says which record each place of each batch holds, records being numbered in the order of their first use:
    the batch seed is public, the records are not.
    """

    start: Weights
    update: Weights  # of each layer, (inputs + 1, outputs), the bias row last; with LoRA of each adapter's two matrices
    places: Tensor
    rates: Sequence[float]
    loss: str
    grid: float  # inputs are multiples of it: 2^-activation_bits
    partial: bool = False  # whether entries of zero were left out, not sent: what an attacker knows of some defences
    method: Method = PLAIN
    frozen: Weights = ()  # the layers under LoRA's adapters: the base model, which everybody has

    @property
    def records(self) -> int:
        """Different records behind the update."""
        return int(self.places.max()) + 1

    @property
    def inputs(self) -> int:
        """Numbers in a record."""
        return len(self.layers[0]) - 1

    @cached_property
    def layers(self) -> list[Tensor]:
        """The network's weights before training, adapters added."""
        return self.method.layers(self.frozen, self.start)

    @property
    def outputs(self) -> int:
        """Classes."""
        return self.layers[-1].shape[1]

    @property
    def first_moved(self) -> Tensor:
        """How the first layer moved, (inputs + 1, units), with LoRA by its adapter."""
        if self.method.lora is None:
            return self.update[0]
        return self.method.layers(self.frozen, self.end)[0] - self.layers[0]

    @property
    def end(self) -> list[Tensor]:
        """The matrices after training."""
        return [before + moved for before, moved in zip(self.start, self.update, strict=True)]

    @property
    def as_plain(self) -> Seen:
        """What one takes it for who does not know of the method: an update of the layers by SGD."""
        moved = [b - a for a, b in zip(self.layers, self.method.layers(self.frozen, self.end), strict=True)]
        return replace(self, start=self.layers, update=moved, method=PLAIN, frozen=())


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
    method: Method = PLAIN
    frozen: Weights = ()

    @classmethod
    def of_bound(cls, handed: Mapping[str, Any]) -> Client:
        """From the integers of a run and its statements; AuditError for a training method that no attack here knows."""
        statements = handed["statements"]
        first = statements[0]
        unknown = [name for name, value in first.items() if isinstance(value, dict) and name not in (SAMPLER, *KINDS)]
        if unknown:
            raise AuditError(f"a joint audit knows SGD, FP8, GaLore and LoRA; the training also uses {', '.join(unknown)}")
        weight, grid = 2.0 ** -first["weight_bits"], 2.0 ** -first["activation_bits"]
        start, end, frozen = ([_float(matrix) * weight for matrix in handed.get(name, ())] for name in WEIGHTS)
        targets = _float(handed["targets"]) * (grid if first["loss"] == "square" else 1.0)
        batches = torch.from_numpy(handed["batches"].astype("int64"))
        rates = [rate for statement in statements for rate in statement["learning_rates"]]
        data, method = _float(handed["inputs"]) * grid, Method.of_statement(first)
        return cls(start, end, data, targets, batches, rates, first["loss"], grid, method, frozen)

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
        return Seen(
            self.start, self.update, places, self.rates, self.loss, self.grid, method=self.method, frozen=self.frozen
        )  # fmt: skip


def named(weights: Weights, method: Method = PLAIN) -> dict[str, Tensor]:
    """Layers as the tensors of a Sequential of Linear and ReLU: weights (outputs, inputs) and biases; adapters as they are."""
    if method.lora is not None:
        return {f"adapter{i // 2}.{'second' if i % 2 else 'first'}": matrix for i, matrix in enumerate(weights)}
    return {
        f"{2 * j}.{part}": value
        for j, matrix in enumerate(weights)
        for part, value in (("weight", matrix[:-1].T), ("bias", matrix[-1]))
    }


def layers(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The inverse of `named`."""
    if "adapter0.first" in tensors:
        return list(tensors.values())
    count = len(tensors) // 2
    return [torch.cat([tensors[f"{2 * j}.weight"].T, tensors[f"{2 * j}.bias"][None]]) for j in range(count)]


def _float(array: Any) -> Tensor:
    return torch.from_numpy(array.astype("float64"))
