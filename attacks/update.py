"""What a client sends to the server in one round: the gradient of the trainable tensors, or how far training moved them.

A saved update is a safetensors file, one tensor for each trainable tensor under its own name (or peft's shorter name for it);
its metadata may say `kind`. federated/saved.py reads such files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from zkaudit.attacks.errors import AuditError

Kind = Literal["gradient", "delta"]
KINDS = ("gradient", "delta")


@dataclass(frozen=True)
class Update:
    """`tensors` maps names of trainable tensors to what was sent for them: d loss / d tensor, or end minus start."""

    kind: Kind
    tensors: Mapping[str, Tensor]

    def check(self, shapes: Mapping[str, torch.Size]) -> None:
        """AuditError unless there is one finite tensor of the right shape for each of the model's trainable tensors."""
        for name, shape in shapes.items():
            if name not in self.tensors:
                raise AuditError(f"the update lacks '{name}', which the model trains")
            value = self.tensors[name]
            if value.shape != shape:
                raise AuditError(f"the update's '{name}' has shape {tuple(value.shape)}; the model's has {tuple(shape)}")
            if not torch.isfinite(value).all():
                raise AuditError(f"the update's '{name}' holds NaN or infinity")
        for name in self.tensors:
            if name not in shapes:
                raise AuditError(f"the update holds '{name}', which the model does not train")


def save(update: Update, path: Path) -> None:
    """Write an update."""
    save_file({name: value.detach().cpu().contiguous() for name, value in update.tensors.items()}, path, {"kind": update.kind})
