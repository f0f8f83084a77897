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
from zkaudit.training.fixedpoint.adapters import from_peft, initial_adapters, merged
from zkaudit.training.fixedpoint.float_twin import float_twin
from zkaudit.training.fixedpoint.method_twin import method_twin
from zkaudit.training.fixedpoint.network import accuracy, dequantise, from_matrices, initial_network, linear_layers, quantise
from zkaudit.training.fixedpoint.step import SIGNED_RANGE, Arrays
from zkaudit.training.fixedpoint.trainer import check_start, train
from zkaudit.training.private_file import writing
from zkaudit.training.sampler_config import sampler_of
from zkaudit.training.trace import TraceWriter, manifest_of

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Result:
    """Weights before and after training, int64 (inputs + 1, outputs) a layer, and accuracies on the test rows.

    With LoRA, `start` and `end` are the two matrices of each adapter, and `frozen` the layers' weights.
    """

    start: list[Tensor]
    end: list[Tensor]
    test_accuracy: float
    float_test_accuracy: float
    frozen: list[Tensor]


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

    def train(
        self,
        batches: NDArray[np.int64],
        progress: Progress | None = None,
        device: torch.device | str = "cpu",
        seed: bytes | None = None,
    ) -> Result:
        """Train on these rows of each step, int64 (steps, batch), from where the trace ends; returns what came out.

        seed: the batch seed, from which GaLore's random bases are drawn. The device that computes the steps changes no number;
        accuracies are taken on the CPU.
        TrainingError when a number leaves its range, the disk is full, or the stored steps were trained on other batches.
        """
        settings, trace = self.config.settings_for(self.widths), self.trace
        _check_batches(batches, settings, self.rows)
        if trace.done and (trace.last_batch() != batches[trace.done - 1]).any():
            raise TrainingError(f"{trace.folder} was trained on other batches: give the new run another folder")
        start, end, frozen = _tensors(trace.start()), _tensors(trace.weights()), _tensors(trace.frozen())
        moments = _tensors([*trace.state("first"), *trace.state("second")]) if trace.done else []
        if trace.done < trace.steps:
            x = quantise_inputs(self.dataset.x_train, self.config.fixed_point)
            y = targets(self.dataset.y_train, self.dataset.classes, settings)

            def sink(arrays: Arrays, weights: Sequence[Any]) -> None:
                trace.write(arrays, weights)
                if progress is not None:
                    progress(trace.written, trace.steps)

            end = train(
                end, x, y, batches, settings, sink, trace.done, device, frozen=frozen, moments=moments, seed=seed
            )  # fmt: skip
        if not trace.complete:
            trace.finish()
        trained = accuracy(_network(end, frozen, settings), self.dataset.x_test, self.dataset.y_test)
        if settings.galore or settings.lora or settings.fp8:
            twin = method_twin(start, frozen, self.dataset, batches, settings, seed)
        else:
            twin = float_twin(start, self.dataset, batches, settings)
        return Result(start, end, trained, twin, frozen)


def prepare(config: RunConfig, folder: Path, dataset: Dataset | None = None, model: nn.Module | None = None) -> Run:
    """Write RUN/trace's manifest, quantised data and start weights, or check that the ones there are of this configuration.

    dataset: what config.data names, when it is not to be loaded. model: a network of Linear and ReLU to start from, with the
    configured widths, or with LoRA also a PeftModel over one; by default a new one. The folder is made, readable by its owner
    only. TrainingError if anything is unfit.
    """
    dataset = dataset or data.load(config.data)
    if config.training.batch > len(dataset.x_train):
        raise TrainingError(f"[training] batch is {config.training.batch}, but there are {len(dataset.x_train)} training rows")
    widths = (dataset.x_train.shape[1], *config.model.hidden, dataset.classes)
    x = quantise_inputs(dataset.x_train, config.fixed_point).numpy()
    y = targets(dataset.y_train, dataset.classes, config.settings).numpy()
    start, frozen = _start_weights(config, widths, model)
    sampler = sampler_of(config.sampler, x, config.training.batch, dataset.places)
    manifest, path = manifest_of(config, widths, len(x), sampler), folder / "trace"
    if not path.exists():
        if start is None:
            start, frozen = _fresh(config, widths, None)
        check_start([*frozen, *start], config.settings)
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        arrays = ([matrix.numpy() for matrix in matrices] for matrices in (start, frozen))
        return Run(config, dataset, TraceWriter.create(path, manifest, x, y, *arrays))
    trace = TraceWriter.resume(path, manifest, x, y)
    stored = [*trace.start(), *trace.frozen()]
    if start is not None and any((a.numpy() != b).any() for a, b in zip([*start, *frozen], stored, strict=True)):
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


Weights = tuple[list[Tensor] | None, list[Tensor]]


def _start_weights(config: RunConfig, widths: tuple[int, ...], model: nn.Module | None) -> Weights:
    """The trained and the frozen start weights, if model or seed determine them; otherwise None and nothing."""
    if model is None:
        return _fresh(config, widths, config.model.init_seed) if config.model.init_seed is not None else (None, [])
    adapters: dict[int, tuple[Tensor, Tensor]] | None = None
    if not isinstance(model, nn.Sequential):
        if config.lora is None or not hasattr(model, "get_base_model"):
            raise TrainingError("the start model must be a Sequential of Linear and ReLU, or with [lora] a PeftModel over one")
        model, adapters, scale = from_peft(model, config.fixed_point)
        if abs(scale - config.lora.scale) > 1e-9:
            raise TrainingError(f"the PeftModel scales its adapters by {scale:g}, but [lora] says {config.lora.scale:g}")
    layers = linear_layers(model)
    given = (layers[0].in_features, *(layer.out_features for layer in layers))
    if given != widths:
        raise TrainingError(f"the start model has widths {list(given)}, but data and [model] hidden ask for {list(widths)}")
    base = quantise(model, config.fixed_point)
    if config.lora is None:
        return base, []
    method = config.lora.method(widths)
    if adapters is None:
        return initial_adapters(method, widths, config.fixed_point, config.model.init_seed), base
    if {j: rank for j, rank in method.adapters} != {j: first.shape[1] for j, (first, _) in adapters.items()}:
        raise TrainingError("the PeftModel's adapters have not the layers and ranks that [lora] says")
    return [matrix for j, _ in method.adapters for matrix in adapters[j]], base


def _fresh(config: RunConfig, widths: tuple[int, ...], seed: int | None) -> tuple[list[Tensor], list[Tensor]]:
    """New trained and frozen weights."""
    layers = quantise(initial_network(widths, seed), config.fixed_point)
    if config.lora is None:
        return layers, []
    return initial_adapters(config.lora.method(widths), widths, config.fixed_point, seed), layers


def _network(end: Sequence[Tensor], frozen: Sequence[Tensor], settings: Settings) -> nn.Sequential:
    if settings.lora is None:
        return dequantise(end, settings.fixed_point)
    unit = 2.0**-settings.fixed_point.weight_bits
    layers, adapters = ([matrix.to(torch.float64) * unit for matrix in some] for some in (frozen, end))
    return from_matrices(merged(layers, adapters, settings.lora))


def _check_batches(batches: NDArray[np.int64], settings: Settings, rows: int) -> None:
    expected = (len(settings.rates), settings.batch)
    if batches.shape != expected or batches.dtype.kind not in "iu":
        raise TrainingError(f"the batches must be integers of shape {expected}, not {batches.dtype} of {batches.shape}")
    if batches.min() < 0 or batches.max() >= rows:
        raise TrainingError(f"the batches must name rows from 0 to {rows - 1}")


def _tensors(weights: Sequence[Any]) -> list[Tensor]:
    return [torch.from_numpy(matrix) for matrix in weights]
