"""What a proved training does beside plain SGD, as a server reads it in the statement: FP8, GaLore, LoRA, and their updates.

With D_j the gradient of layer j's weights, bias row last, and c a step's rate:

    FP8      hidden activations and gradients are cast to 8 bits; W_j <- W_j - c D_j
    GaLore   W_j <- W_j - c P U,  U = P^T D_j, or Adam's direction of it ("right": the transpose), its moments in 8 bits or not
    LoRA     layers are frozen; A'_j <- A'_j - c D'_j B_j^T,  B_j <- B_j - c s^2 A'_j^T D'_j, D'_j without the bias row

in floating point, so that records can be differentiated through it: a cast lets gradients through as they come, and a basis is
taken for a constant. What each is in integers, and what is proved of it, is in docs/proof-system.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zkaudit.training.fixedpoint import fp8 as casts
from zkaudit.training.fixedpoint.adapters import merged
from zkaudit.training.fixedpoint.expansion import stored
from zkaudit.training.fixedpoint.projected_step import signs
from zkaudit.training.provable import DECAY_BITS, FP8, GaLore, LoRA
from zkaudit.zk.circuit import dither

KINDS: dict[str, Any] = {"fp8": FP8, "galore": GaLore, "lora": LoRA}
TINY = 1e-24  # below the root of Adam's second moment, which has no slope at zero


@dataclass(frozen=True)
class Method:
    """All None for plain SGD. `seen` are bases, one a layer, that an attacker has found in an update of one period."""

    fp8: FP8 | None = None
    galore: GaLore | None = None
    lora: LoRA | None = None
    product_bits: int = 0  # fractional bits of activations and gradients together
    batch: int = 1
    seed: bytes = b""  # the batch seed, from which random bases are drawn
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

    @property
    def epsilon(self) -> float:
        """GaLore's, in units of the projected mean gradient."""
        assert self.galore
        return self.galore.epsilon * self.unit

    @property
    def unit(self) -> float:
        """What 1 of the trainer's projected gradients is of the projected mean gradient."""
        assert self.galore
        return 2.0 ** (self.galore.shift - self.product_bits - self.galore.basis_bits) / self.batch

    def layers(self, frozen: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """The weights of all layers, adapters added."""
        return merged(frozen, weights, self.lora) if self.lora is not None else list(weights)

    def activation(self, j: int, values: Tensor) -> Tensor:
        """What layer j + 1 reads."""
        if self.fp8 is None:
            return values
        exponents = casts.exponents(self.fp8.activation_exponents[j], values)
        return _through(values, casts.cast(values.detach(), "e4m3", exponents))

    def gradient(self, j: int, values: Tensor) -> Tensor:
        """What comes back to hidden layer j, before its ReLU; of one record, not over the batch."""
        if self.fp8 is None:
            return values
        exponents = casts.exponents(self.fp8.gradient_exponents[j], values)
        return _through(values, casts.cast(values.detach(), self.fp8.gradient_format, exponents))

    def basis(self, j: int, t: int, gradient: Tensor) -> Tensor:
        """GaLore's basis of layer j in the period that begins at step t, unit columns."""
        assert self.galore
        if self.seen:
            return self.seen[j]
        rank, is_left = self.galore.ranks[j], self.galore.sides[j] == "left"
        if self.is_public:
            drawn = signs(self.galore, j, t, gradient.shape[0 if is_left else 1], self.seed)
            return drawn.to(gradient) * 2.0**-self.galore.basis_bits
        left, _, right = torch.linalg.svd(gradient.detach(), full_matrices=False)
        basis: Tensor = left[:, :rank] if is_left else right[:rank].T
        return basis


PLAIN = Method()


class Updates:
    """A run's updates of the trained matrices, step by step; it keeps GaLore's bases and moments."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.bases: dict[int, Tensor] = {}
        self.moments: dict[int, tuple[Tensor, Tensor]] = {}

    def after(self, t: int, weights: Sequence[Tensor], gradients: Sequence[Tensor], rate: float) -> list[Tensor]:
        """The matrices after step t; gradients: of each layer's weights, over the batch's mean."""
        if self.method.lora is not None:
            return _adapted(self.method.lora, weights, gradients, rate)
        if self.method.galore is not None:
            return [w - rate * self._projected(t, j, d) for j, (w, d) in enumerate(zip(weights, gradients, strict=True))]
        return [w - rate * d for w, d in zip(weights, gradients, strict=True)]

    def _projected(self, t: int, j: int, d: Tensor) -> Tensor:
        method = self.method.galore
        assert method
        if t % method.gap == 0:
            self.bases[j] = self.method.basis(j, t, d)
        basis, is_left = self.bases[j], method.sides[j] == "left"
        direction = basis.T @ d if is_left else (d @ basis).T
        if method.optimizer == "adam":
            direction = self._adam(t, j, direction)
        return basis @ direction if is_left else (basis @ direction).T

    def _adam(self, t: int, j: int, fresh: Tensor) -> Tensor:
        first_decay, second_decay = decays(self.method)
        first, second = self.moments.get(j, (torch.zeros_like(fresh), torch.zeros_like(fresh)))
        first = first_decay * first + (1 - first_decay) * fresh
        second = second_decay * second + (1 - second_decay) * fresh**2
        root = (second + TINY).sqrt()
        self.moments[j] = (
            self._stored(j, dither.factor(t) * first, dither.factor(t) * root) if self._is_stored else (first, second)
        )
        return first / (root + self.method.epsilon)

    @property
    def _is_stored(self) -> bool:
        return self.method.galore is not None and bool(self.method.galore.first_exponents)

    def _stored(self, j: int, first: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """What the next step begins with where moments are stored in 8 bits."""
        method, unit = self.method.galore, self.method.unit
        assert method
        read = stored(first.detach(), "first", method.first_exponents[j], unit)
        second = _through(root, stored(root.detach(), "second", method.second_exponents[j], unit))
        return _through(first, read), second**2


def decays(method: Method) -> tuple[float, float]:
    """Of Adam's first and second moment."""
    assert method.galore
    return method.galore.beta1 / 2**DECAY_BITS, method.galore.beta2 / 2**DECAY_BITS


def as_gradients(method: Method, moved: Sequence[Tensor], rate: float) -> tuple[Method, list[Tensor]]:
    """The one step of Adam in public bases undone: what SGD in the same bases would have moved, and that method.

    Adam's first direction is (1 - beta1) R / (sqrt(1 - beta2) |R| + epsilon), which grows with R: R can be read from it, up to
    where the direction's fractional bits end.
    """
    assert method.galore
    given, found = method.galore, []
    first, root = 1 - decays(method)[0], (1 - decays(method)[1]) ** 0.5
    most = first / root - 2.0**-given.moment_bits
    for j, update in enumerate(moved):
        basis, turned = method.basis(j, 0, update), update if given.sides[j] == "left" else update.T
        direction = torch.linalg.lstsq(basis, -turned / rate).solution
        size = direction.abs().clamp(max=most)
        back = -rate * basis @ (direction.sign() * method.epsilon * size / (first - root * size))
        found.append(back if given.sides[j] == "left" else back.T)
    return replace(method, galore=replace(given, optimizer="sgd")), found


def _adapted(lora: LoRA, weights: Sequence[Tensor], gradients: Sequence[Tensor], rate: float) -> list[Tensor]:
    updated = []
    for i, (j, _) in enumerate(lora.adapters):
        first, second, d = weights[2 * i], weights[2 * i + 1], gradients[j][:-1]
        updated += [first - rate * d @ second.T, second - rate * lora.factor / lora.divisor * first.T @ d]
    return updated


def _through(values: Tensor, cast: Tensor) -> Tensor:
    """The cast, whose derivative is taken for one."""
    return values + (cast - values.detach())


def _frozen(value: Any) -> Any:
    """Lists as tuples, and lists in them."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
