"""LoRA (with rsLoRA and DoRA) and AdaLoRA, on linear layers and on GPT-2's Conv1D, for which peft keeps A as (r, d)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Site
from zkaudit.attacks.taps.tap import State, Tap


def lora(name: str, module: nn.Module, trainable: set[str], _model: PublicModel) -> Iterator[Tap]:
    """A multiplies x in LoRA and in DoRA: there y = m / |W + s B A| (W + s B A) x, the norm taken as constant."""
    for adapter, layer in getattr(module, "lora_A", {}).items():
        if not isinstance(layer, nn.Linear):
            continue
        rank = layer.weight.shape[0]
        dora = " (DoRA)" if adapter in getattr(module, "lora_magnitude_vector", {}) else ""
        a, b = f"{name}.lora_A.{adapter}.weight", f"{name}.lora_B.{adapter}.weight"
        if a in trainable:
            yield Tap(
                f"LoRA A{dora}",
                (a,),
                Site(name),
                rank,
                lambda update, a=a: update[a],  # type: ignore[misc]
                explanation="the gradient is s B^T sum d_i x_i^T: its rows lie in the span of the inputs; zero while B is zero",
            )
        if b in trainable:
            frozen = layer.weight.detach()
            yield Tap(
                f"LoRA B{dora}",
                (b,),
                Site(name),
                rank,
                lambda update, b=b: update[b],  # type: ignore[misc]
                lambda x, start, a=a, frozen=frozen: x @ start.get(a, frozen).to(x.dtype).T,  # type: ignore[misc]
                f"A of {name}",
                "the gradient is s sum d_i (A x_i)^T: its rows lie in the span of the inputs as A, which is public, shows them",
            )


def adalora(name: str, module: nn.Module, trainable: set[str], _model: PublicModel) -> Iterator[Tap]:
    """y = W x + s Q diag(E) P x, where peft calls P lora_A and Q lora_B.

    peft's regulariser adds c (P P^T - I) P to the gradient of P (and the like to Q's columns): public rows, of full rank and
    larger than the data's. So both sides of the span test are taken orthogonally to the rows of P.
    """
    for adapter, p in getattr(module, "lora_A", {}).items():
        if not isinstance(p, nn.Parameter):
            continue
        a = f"{name}.lora_A.{adapter}"
        if a not in trainable or adapter not in getattr(module, "lora_E", {}):
            continue
        rank, width = p.shape

        def rows(update: State, a: str = a, p: nn.Parameter = p) -> Tensor:
            return _orthogonal(update[a].double(), p.detach())

        def view(x: Tensor, start: State, a: str = a, p: nn.Parameter = p) -> Tensor:
            return _orthogonal(x.double(), start.get(a, p.detach()))

        yield Tap(
            "AdaLoRA A",
            (a,),
            Site(name),
            min(rank, width - rank),
            rows,
            view,
            f"orthogonal to A of {name}",
            "the gradient is s E B^T sum d_i x_i^T plus the regulariser's multiple of A, which is public and projected out: "
            "the rest lies in the span of the inputs, likewise projected; zero while E is zero",
        )


def adalora_b(name: str, module: nn.Module, trainable: set[str], _model: PublicModel) -> Iterator[Tap]:
    """The gradient of Q is s sum d_i (E P x_i)^T plus c Q (Q^T Q - I): orthogonally to Q's columns it is data alone."""
    for adapter, q in getattr(module, "lora_B", {}).items():
        scales, p = getattr(module, "lora_E", {}).get(adapter), module.lora_A[adapter]  # type: ignore[index]
        b, a, e = (f"{name}.lora_{letter}.{adapter}" for letter in "BAE")
        if b not in trainable or scales is None:
            continue

        def rows(update: State, b: str = b, q: nn.Parameter = q) -> Tensor:
            return _orthogonal(update[b].double().T, q.detach().T).T

        def view(x: Tensor, start: State, a: str = a, e: str = e, p: Tensor = p, scales: Tensor = scales) -> Tensor:
            seen = x.double() @ start.get(a, p.detach()).double().T
            return seen * start.get(e, scales.detach()).double()[:, 0]

        yield Tap(
            "AdaLoRA B",
            (b,),
            Site(name),
            min(q.shape[1], q.shape[0] - q.shape[1]),
            rows,
            view,
            f"E A of {name}",
            "the gradient is s sum d_i (E A x_i)^T plus the regulariser's multiple of B, which is public and projected out: "
            "the rest lies in the span of the inputs as A shows them; zero while E is zero",
        )


def _orthogonal(x: Tensor, rows: Tensor) -> Tensor:
    """The part of x, (..., d), that is orthogonal to all of `rows`, (r, d)."""
    basis, _ = torch.linalg.qr(rows.to(x.device, torch.float64).T)
    rest: Tensor = x - (x @ basis) @ basis.T
    return rest
