"""What is measured: a network's widths and how long it trains, on the digits or on random data of the right size."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zkaudit.zk.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from zkaudit.training.config import RunConfig
    from zkaudit.training.data import Dataset
    from zkaudit.training.method_config import GaLoreConfig

DIGITS = (64, 128, 64, 10)
OUTPUTS = 10
INPUT_MULTIPLE = 64
LARGEST_INPUT = 1 << 16
LARGEST_VALUE = 4  # random inputs are clipped to it
METHODS = ("galore", "fp8", "lora")
UPDATE_BITS = 12  # of the default fixed-point widths 8, 12 and 32: rates are multiples of batch / 2^12


@dataclass(frozen=True)
class Shape:
    """A network and its training; `rows` of data, or None for the digits' own number or, at random, a few batches."""

    widths: tuple[int, ...]
    batch: int
    steps: int
    loss: str
    segment_steps: int | None = None
    rows: int | None = None
    method: str = "sgd"  # or one of METHODS
    rank: int = 8  # of GaLore and LoRA
    states: str = "exact"  # GaLore's moments, or "fp8"

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return parameters_of(self.widths)

    @property
    def on_digits(self) -> bool:
        """Whether it trains on the handwritten digits."""
        return self.widths == DIGITS and self.rows is None

    @property
    def learning_rate(self) -> float:
        """0.1 for the digits, 0.03 for random labels, or the nearest that the widths express: a multiple of batch / 2^12."""
        least = self.batch / (1 << UPDATE_BITS)
        return least * max(1, round((0.1 if self.on_digits else 0.03) / least))


def parameters_of(widths: tuple[int, ...]) -> int:
    """Weights and biases of fully connected layers of these widths."""
    return sum((d + 1) * units for d, units in itertools.pairwise(widths))


def widths_of(parameters: int, layers: int) -> tuple[int, ...]:
    """Widths of about `parameters` parameters in `layers` layers.

    Ten outputs. Hidden layers are equally wide, the largest power of two that leaves at least as many inputs as hidden units:
    padding to powers of two costs. The inputs take up the rest, rounded to a multiple of 64. BadInput if that cannot be had.
    """
    widths: tuple[int, ...]
    if layers == 1:
        widths = (_inputs(parameters, 0, OUTPUTS), OUTPUTS)
    else:
        hidden = max((h for h in _powers() if _rest(parameters, layers, h) >= h), default=None)
        if hidden is None:
            raise BadInput(f"{parameters} parameters are too few for {layers} layers: give fewer --layers or name --widths")
        widths = (_inputs(parameters, _above(layers, hidden), hidden), *(hidden,) * (layers - 1), OUTPUTS)
    if not widths[0] <= LARGEST_INPUT:
        raise BadInput(f"{parameters} parameters in {layers} layers need {widths[0]} inputs; {LARGEST_INPUT} are allowed")
    return widths


def _powers() -> list[int]:
    return [1 << k for k in range(4, 17)]


def _above(layers: int, hidden: int) -> int:
    """Parameters above the first layer."""
    return parameters_of((*(hidden,) * (layers - 1), OUTPUTS))


def _rest(parameters: int, layers: int, hidden: int) -> int:
    """Inputs that the first layer can have."""
    return (parameters - _above(layers, hidden)) // hidden - 1


def _inputs(parameters: int, above: int, hidden: int) -> int:
    wanted = (parameters - above) / hidden - 1
    return max(1, round(wanted / INPUT_MULTIPLE)) * INPUT_MULTIPLE


def run_of(shape: Shape) -> tuple[RunConfig, Dataset, nn.Sequential | None]:
    """Configuration, data and start model (None for the trainer's own); loads torch."""
    from zkaudit.training.config import DataConfig, FixedPoint, ModelConfig, RunConfig, TrainingConfig
    from zkaudit.training.data import load
    from zkaudit.training.method_config import LoRAConfig

    source = DataConfig("digits", 0.25)
    rate = 0.01 if shape.method == "galore" else shape.learning_rate  # Adam's
    method, precision = ("sgd", "fp8") if shape.method == "fp8" else (shape.method, "fixed")
    rates = (rate,) * shape.steps
    training = TrainingConfig(shape.loss, shape.batch, shape.steps, rates, "benchmark", method, precision)
    config = RunConfig(
        source, ModelConfig(shape.widths[1:-1]), training, FixedPoint(8, 12, 32),
        _galore_of(shape) if shape.method == "galore" else None,
        LoRAConfig(shape.rank) if shape.method == "lora" else None,
    )  # fmt: skip
    if shape.on_digits:
        return config, load(source), None
    return config, _random_data(shape), _random_model(shape.widths)


def _galore_of(shape: Shape) -> GaLoreConfig:
    from zkaudit.training.method_config import GaLoreConfig

    return GaLoreConfig(shape.rank, gap=min(50, shape.steps), scale=1.0, projection_bits=12, states=shape.states)


def _random_data(shape: Shape) -> Dataset:
    """Normal inputs and uniform labels.

    Inputs are scaled so that learning rate times curvature stays near one, whatever rate the batch allows: curvature grows with
    the square of all activations, which are as large as the inputs. A larger scale leaves the range of 16 bits in a few steps.
    """
    import numpy as np

    from zkaudit.training.data import Dataset, Floats, Labels

    random, inputs, classes = np.random.default_rng(0), shape.widths[0], shape.widths[-1]
    rows = max(2 * shape.batch, 256) if shape.rows is None else shape.rows
    scale = min(1.0, (shape.learning_rate * sum(shape.widths[:-1])) ** -0.5)

    def part(count: int) -> tuple[Floats, Labels]:
        values = random.normal(size=(count, inputs)).clip(-LARGEST_VALUE, LARGEST_VALUE)
        return scale * values, random.integers(0, classes, count)

    return Dataset(*part(rows), *part(min(rows, 64)), classes)


def _random_model(widths: tuple[int, ...]) -> nn.Sequential:
    """Uniform weights that keep the size of activations from layer to layer (He et al. 2015).

    With torch's own smaller ones a deep network's activations would round to zero, and zeros cost a prover less.
    """
    import numpy as np
    import torch

    from zkaudit.training.fixedpoint import initial_network

    random, network = np.random.default_rng(1), initial_network(widths, 1)
    for layer in network:
        if isinstance(layer, torch.nn.Linear):
            limit = (6 / layer.in_features) ** 0.5
            layer.weight.data.copy_(torch.from_numpy(random.uniform(-limit, limit, tuple(layer.weight.shape))))
    return network
