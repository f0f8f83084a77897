"""The model file: start and end weights of a run as safetensors, float64 values that are exact multiples of 2^-weight_bits.

Tensors `start.{i}.weight`, `start.{i}.bias`, `end.{i}.weight`, `end.{i}.bias` in torch's layout, i being the place of the
Linear layer in the `nn.Sequential`; metadata `widths` and `weight_bits` as JSON. With LoRA the layers' weights are
`frozen.{i}.weight` and `frozen.{i}.bias`, and adapter k, counted from the first layer up, is `start.adapter{k}.first`,
(inputs, rank), and `start.adapter{k}.second`, (rank, outputs), which holds the scale; `end` likewise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zkaudit.training.config import FixedPoint
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint.exact import EXACT
from zkaudit.training.fixedpoint.network import dequantise
from zkaudit.training.private_file import write_whole


def write_model(
    path: Path, start: Sequence[Tensor], end: Sequence[Tensor], bits: FixedPoint, frozen: Sequence[Tensor] = ()
) -> None:
    """Write start and end weights, int64 (inputs + 1, outputs) a layer; owner-readable, whole or not at all.

    frozen: the layers' weights where start and end are LoRA's adapters, two matrices each.
    """
    tensors = {}
    layers = {"frozen": frozen} if frozen else {"start": start, "end": end}
    for which, weights in layers.items():
        for name, value in dequantise(weights, bits).state_dict().items():
            tensors[f"{which}.{name}"] = value.contiguous()
    for which, adapters in (("start", start), ("end", end)) if frozen else ():
        for i, matrix in enumerate(adapters):
            name = f"{which}.adapter{i // 2}.{'second' if i % 2 else 'first'}"
            tensors[name] = (matrix.to(torch.float64) * 2.0**-bits.weight_bits).contiguous()
    first = next(iter(layers.values()))
    widths = [len(first[0]) - 1, *(matrix.shape[1] for matrix in first)]
    write_whole(path, save(tensors, {"widths": json.dumps(widths), "weight_bits": str(bits.weight_bits)}))


def read_model_weights(path: Path, which: str = "end") -> list[NDArray[np.int64]]:
    """The `which` ("start" or "end") weights as integers, (inputs + 1, outputs) a layer with the bias row last.

    TrainingError for a file that is none of ours, or values that are no exact multiples of 2^-weight_bits.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            widths, weight_bits = json.loads(metadata["widths"]), int(metadata["weight_bits"])
            wanted = [f"{which}.{2 * j}" for j in range(len(widths) - 1)]
            if not names >= {f"{name}.{part}" for name in wanted for part in ("weight", "bias")}:
                raise TrainingError(f"{path} lacks the '{which}' weights of some layer")
            layers = [(file.get_tensor(f"{name}.weight"), file.get_tensor(f"{name}.bias")) for name in wanted]
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} is not a model file of zkaudit: {error}") from None
    for j, (weight, bias) in enumerate(layers):
        if tuple(weight.shape) != (widths[j + 1], widths[j]) or tuple(bias.shape) != (widths[j + 1],):
            raise TrainingError(f"{path}: layer {j + 1} has not the shape that its widths {widths} say")
    return [_integers(path, j, weight, bias, weight_bits) for j, (weight, bias) in enumerate(layers)]


def _integers(path: Path, j: int, weight: Tensor, bias: Tensor, weight_bits: int) -> NDArray[np.int64]:
    scaled = torch.cat([weight.T, bias[None]]).to(torch.float64) * 2.0**weight_bits
    if not torch.isfinite(scaled).all() or (scaled != torch.floor(scaled)).any() or (scaled.abs() >= EXACT).any():
        raise TrainingError(f"{path}: layer {j + 1} holds weights that are no multiples of 2^-{weight_bits} below 2^53 of them")
    return scaled.to(torch.int64).contiguous().numpy()
