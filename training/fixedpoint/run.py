"""A training run in its folder RUN: `prepare` fixes everything but the batches, `Run.train` trains and leaves the trace.

In between, data and start weights are committed, which is what decides the batches. Both go on where a killed run was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zkaudit.training import data
from zkaudit.training.config import FixedPoint, RunConfig, Settings
from zkaudit.training.data import Dataset
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint.float_twin import float_twin
from zkaudit.training.fixedpoint.network import accuracy, dequantise, initial_network, linear_layers, quantise
from zkaudit.training.fixedpoint.step import SIGNED_RANGE, Arrays
from zkaudit.training.fixedpoint.trainer import check_start, train
from zkaudit.training.private_file import writing
from zkaudit.training.trace import TraceWriter, manifest_of

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Result:
    """Weights before and after training, int64 (inputs + 1, outputs) a layer, and accuracies on the test rows."""

    start: list[Tensor]
    end: list[Tensor]
    test_accuracy: float
    float_test_accuracy: float


@dataclass(frozen=True)
class Run:
    """A prepared run: RUN/trace holds manifest, data and start weights."""

    config: RunConfig
    dataset: Dataset
    trace: TraceWriter

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden layers, outputs."""
        return tuple(self.trace.manifest["widths"])

    @property
    def rows(self) -> int:
        """Training rows, from which the batches are drawn."""
        return len(self.dataset.x_train)

    def train(self, batches: NDArray[np.int64], progress: Progress | None = None, device: torch.device | str = "cpu") -> Result:
        """Train on these rows of each step, int64 (steps, batch), from where the trace ends; returns what came out.

        The device that computes the steps changes no number; accuracies are taken on the CPU.
        TrainingError when a number leaves its range, the disk is full, or the stored steps were trained on other batches.
        """
        settings, trace = self.config.settings, self.trace
        _check_batches(batches, settings, self.rows)
        if trace.done and (trace.last_batch() != batches[trace.done - 1]).any():
            raise TrainingError(f"{trace.folder} was trained on other batches: give the new run another folder")
        start, end = _tensors(trace.start()), _tensors(trace.weights())
        if trace.done < trace.steps:
            x = quantise_inputs(self.dataset.x_train, self.config.fixed_point)
            y = targets(self.dataset.y_train, self.dataset.classes, settings)

            def sink(arrays: Arrays, weights: Sequence[Any]) -> None:
                trace.write(arrays, weights)
                if progress is not None:
                    progress(trace.written, trace.steps)

            end = train(end, x, y, batches, settings, sink, trace.done, device)
        if not trace.complete:
            trace.finish()
        trained = accuracy(dequantise(end, settings.fixed_point), self.dataset.x_test, self.dataset.y_test)
        return Result(start, end, trained, float_twin(start, self.dataset, batches, settings))


def prepare(config: RunConfig, folder: Path, dataset: Dataset | None = None, model: nn.Sequential | None = None) -> Run:
    """Write RUN/trace's manifest, quantised data and start weights, or check that the ones there are of this configuration.

    dataset: what config.data names, when it is not to be loaded. model: a network of Linear and ReLU to start from, with the
    configured widths; by default a new one. The folder is made, readable by its owner only. TrainingError if anything is unfit.
    """
    dataset = dataset or data.load(config.data)
    if config.training.batch > len(dataset.x_train):
        raise TrainingError(f"[training] batch is {config.training.batch}, but there are {len(dataset.x_train)} training rows")
    widths = (dataset.x_train.shape[1], *config.model.hidden, dataset.classes)
    x = quantise_inputs(dataset.x_train, config.fixed_point).numpy()
    y = targets(dataset.y_train, dataset.classes, config.settings).numpy()
    start = _start_weights(config, widths, model)
    manifest, path = manifest_of(config, widths, len(x)), folder / "trace"
    if not path.exists():
        start = start if start is not None else quantise(initial_network(widths), config.fixed_point)
        check_start(start, config.settings)
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        return Run(config, dataset, TraceWriter.create(path, manifest, x, y, [matrix.numpy() for matrix in start]))
    trace = TraceWriter.resume(path, manifest, x, y)
    if start is not None and any((a.numpy() != b).any() for a, b in zip(start, trace.start(), strict=True)):
        raise TrainingError(f"{path} holds a run from another start model: give the new run another folder")
    return Run(config, dataset, trace)


def quantise_inputs(x: NDArray[np.float64], bits: FixedPoint) -> Tensor:
    """Inputs times 2^activation_bits, rounded, int64; TrainingError if one leaves the 16 bits that the proof commits to."""
    largest = np.abs(x).max(initial=0)
    if not largest * 2**bits.activation_bits < SIGNED_RANGE - 1:
        raise TrainingError(
            f"an input of size {largest:.4g} with activation_bits = {bits.activation_bits} leaves the range of 16 bits; "
            "use fewer activation_bits"
        )
    return torch.from_numpy(np.rint(x * 2.0**bits.activation_bits).astype(np.int64))


def targets(y: NDArray[np.int64], classes: int, settings: Settings) -> Tensor:
    """One-hot rows, int64 (rows, classes); scaled by 2^activation_bits for the square loss."""
    one = 1 << settings.fixed_point.activation_bits if settings.loss == "square" else 1
    return nn.functional.one_hot(torch.from_numpy(y), classes) * one


def _start_weights(config: RunConfig, widths: tuple[int, ...], model: nn.Sequential | None) -> list[Tensor] | None:
    """The start weights if model or seed determine them."""
    if model is None and config.model.init_seed is None:
        return None
    network = initial_network(widths, config.model.init_seed) if model is None else model
    layers = linear_layers(network)
    given = (layers[0].in_features, *(layer.out_features for layer in layers))
    if given != widths:
        raise TrainingError(f"the start model has widths {list(given)}, but data and [model] hidden ask for {list(widths)}")
    return quantise(network, config.fixed_point)


def _check_batches(batches: NDArray[np.int64], settings: Settings, rows: int) -> None:
    expected = (len(settings.rates), settings.batch)
    if batches.shape != expected or batches.dtype.kind not in "iu":
        raise TrainingError(f"the batches must be integers of shape {expected}, not {batches.dtype} of {batches.shape}")
    if batches.min() < 0 or batches.max() >= rows:
        raise TrainingError(f"the batches must name rows from 0 to {rows - 1}")


def _tensors(weights: Sequence[Any]) -> list[Tensor]:
    return [torch.from_numpy(matrix) for matrix in weights]
