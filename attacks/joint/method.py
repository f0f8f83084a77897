"""What a proved training does beside plain SGD, as a server reads it in the statement: FP8, GaLore, LoRA.

training/fixedpoint/float_step.py has their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zkaudit.training.fixedpoint.float_step import FloatMethod
from zkaudit.training.provable import FP8, GaLore, LoRA

KINDS: dict[str, Any] = {"fp8": FP8, "galore": GaLore, "lora": LoRA}


@dataclass(frozen=True)
class Method(FloatMethod):
    """`seen` are bases, one a layer, that an attacker has found in an update of one period."""

    seen: tuple[Tensor, ...] = ()

    @classmethod
    def of_statement(cls, statement: Mapping[str, Any]) -> Method:
        """From a statement's JSON view."""
        given: dict[str, Any] = {}
        for name, kind in KINDS.items():
            if (value := statement.get(name)) is not None:
                given[name] = kind(**{key: _frozen(x) for key, x in value.items()})
        if given:
            given["product_bits"] = statement["activation_bits"] + statement["gradient_bits"]
            given["batch"], given["seed"] = statement["batch"], bytes.fromhex(statement["batch_seed"])
        return cls(**given)

    @property
    def names(self) -> str:
        """For people."""
        told = {"fp8": "FP8", "galore": "GaLore", "lora": "LoRA"}
        return " and ".join(told[name] for name in KINDS if getattr(self, name) is not None) or "plain SGD"

    @property
    def is_plain(self) -> bool:
        """Whether the update of a layer is its gradients' sum, exactly: with FP8 too."""
        return self.galore is None and self.lora is None

    @property
    def is_public(self) -> bool:
        """Whether GaLore's bases are known: drawn from the seed."""
        return self.galore is not None and self.galore.basis == "random"

    def basis(self, j: int, t: int, gradient: Tensor) -> Tensor:
        """GaLore's basis of layer j in the period that begins at step t, unit columns."""
        return self.seen[j] if self.seen else super().basis(j, t, gradient)


PLAIN = Method()


def as_gradients(method: Method, moved: Sequence[Tensor], rate: float) -> tuple[Method, list[Tensor]]:
    """The one step of Adam in public bases undone: what SGD in the same bases would have moved, and that method.

    Adam's first direction is (1 - beta1) R / (sqrt(1 - beta2) |R| + epsilon), which grows with R: R can be read from it, up to
    where the direction's fractional bits end.
    """
    assert method.galore
    given, found = method.galore, []
    first, root = 1 - method.decays[0], (1 - method.decays[1]) ** 0.5
    most = first / root - 2.0**-given.moment_bits
    for j, update in enumerate(moved):
        basis, turned = method.basis(j, 0, update), update if given.sides[j] == "left" else update.T
        direction = torch.linalg.lstsq(basis, -turned / rate).solution
        size = direction.abs().clamp(max=most)
        back = -rate * basis @ (direction.sign() * method.epsilon(0) * size / (first - root * size))
        found.append(back if given.sides[j] == "left" else back.T)
    return replace(method, galore=replace(given, optimizer="sgd")), found


def _frozen(value: Any) -> Any:
    """Lists as tuples, and lists in them."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
