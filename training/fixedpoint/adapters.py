"""LoRA's adapters of the exact trainer: where they begin, and the network that layers and adapters are together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zkaudit.training.config import FixedPoint
from zkaudit.training.errors import TrainingError
from zkaudit.training.provable import LoRA


def initial_adapters(method: LoRA, widths: Sequence[int], bits: FixedPoint, seed: int | None = None) -> list[Tensor]:
    """A' uniform in +-1/sqrt(inputs) as peft has it, B zero: int64, (inputs, rank) and (rank, outputs) of each adapter."""
    random = np.random.default_rng(None if seed is None else [seed, 1])
    found = []
    for j, rank in method.adapters:
        first = random.uniform(-(widths[j] ** -0.5), widths[j] ** -0.5, (widths[j], rank))
        found += [torch.from_numpy(np.rint(first * 2.0**bits.weight_bits).astype(np.int64))]
        found += [torch.zeros(rank, widths[j + 1], dtype=torch.int64)]
    return found


def merged(frozen: Sequence[Tensor], adapters: Sequence[Tensor], method: LoRA) -> list[Tensor]:
    """The layers' weights with their adapters' products added, float64 and all at scale one; the bias row last."""
    layers = list(frozen)
    for i, (j, _) in enumerate(method.adapters):
        change = adapters[2 * i] @ adapters[2 * i + 1]
        layers[j] = layers[j] + torch.cat([change, torch.zeros_like(change[:1])])
    return layers


def from_peft(model: Any, bits: FixedPoint) -> tuple[nn.Sequential, dict[int, tuple[Tensor, Tensor]], float]:
    """The plain network inside a PeftModel over Linear and ReLU, its adapters by layer, int64 with the scale in the second one,
    and that scale. TrainingError for adapters that are not LoRA on Linear layers of such a network."""
    network = model.get_base_model()
    if not isinstance(network, nn.Sequential):
        raise TrainingError(f"the PeftModel is over a {type(network).__name__}; a Sequential of Linear and ReLU is expected")
    plain, adapters, scales = list[nn.Module](), dict[int, tuple[Tensor, Tensor]](), set[float]()
    module: Any
    for module in network:
        base = getattr(module, "base_layer", module)
        plain.append(base)
        if base is module:
            continue
        names = list(getattr(module, "lora_A", {}))
        if len(names) != 1 or not isinstance(base, nn.Linear):
            raise TrainingError("the PeftModel must have one LoRA adapter, on Linear layers")
        if module.merged or module.use_dora[names[0]] or module.lora_bias[names[0]]:
            raise TrainingError("the PeftModel's adapter must be plain LoRA: not merged, no DoRA, no bias in the second matrix")
        scale = float(module.scaling[names[0]])
        scales.add(scale)
        first, second = module.lora_A[names[0]].weight.detach().T, module.lora_B[names[0]].weight.detach().T
        layer = sum(isinstance(other, nn.Linear) for other in plain) - 1
        scaled = (first.to(torch.float64), scale * second.to(torch.float64))
        first, second = (torch.round(matrix * 2.0**bits.weight_bits).to(torch.int64) for matrix in scaled)
        adapters[layer] = first, second
    if len(scales) != 1:
        raise TrainingError("the PeftModel has no LoRA adapter" if not scales else "the adapters have different scales")
    return nn.Sequential(*plain), adapters, scales.pop()
