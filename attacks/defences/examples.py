"""Gradients of single examples: by Opacus in one pass for a whole batch where that is right, else by one pass for each."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zkaudit.attacks.model import IGNORED, Batch, PublicModel


@dataclass(frozen=True)
class Engine:
    """What computes the gradients, and why it is not Opacus if it is not."""

    name: Literal["opacus", "loop"]
    reason: str = ""


def choose(model: PublicModel, batch: Batch) -> Engine:
    """Opacus, if without dropout it agrees with the loop on two examples of the batch."""
    few = batch.rows(slice(0, 2))
    training = model.module.training
    model.module.eval()
    try:
        ours = _by_opacus(model, few)
    except ImportError:
        return Engine("loop", "Opacus is not installed")
    except Exception as error:
        return Engine("loop", f"Opacus cannot do this model: {type(error).__name__}: {str(error)[:120]}")
    else:
        exact = _by_loop(model, few)
    finally:
        model.module.train(training)
        model.module.zero_grad(set_to_none=True)
    whole = sum(float(value.square().sum()) for value in exact.values()) ** 0.5
    for name, value in exact.items():
        if (ours[name] - value).norm() > 1e-4 * value.norm() + 1e-6 * whole:
            return Engine("loop", f"Opacus' gradient of '{name}' is not that of single examples")
    return Engine("opacus")


def per_example(model: PublicModel, batch: Batch, engine: Engine) -> dict[str, Tensor]:
    """For each trainable tensor the gradients of the loss on each example alone, (B, *shape), in the module's present mode.

    That of an example without labels (a causal record of one token) is zero.
    """
    return _by_opacus(model, batch) if engine.name == "opacus" else _by_loop(model, batch)


def _by_loop(model: PublicModel, batch: Batch) -> dict[str, Tensor]:
    trainable = model.trainable()
    parts: dict[str, list[Tensor]] = {name: [] for name in trainable}
    for row in range(len(batch.input_ids)):
        example = batch.rows(slice(row, row + 1))
        if not _labels(example, model.task).any():
            gradients: Sequence[Tensor | None] = [None] * len(trainable)
        else:
            gradients = torch.autograd.grad(model.loss(example), list(trainable.values()), allow_unused=True)
        for (name, parameter), gradient in zip(trainable.items(), gradients, strict=True):
            parts[name].append(torch.zeros_like(parameter) if gradient is None else gradient)
    return {name: torch.stack(values) for name, values in parts.items()}


def _by_opacus(model: PublicModel, batch: Batch) -> dict[str, Tensor]:
    trainable = model.trainable()
    with _hooked(model.module):
        output = model.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        _losses(output.logits, batch, model.task).mean().backward()  # type: ignore[no-untyped-call]
        result = {
            name: torch.zeros(len(batch.input_ids), *p.shape).to(p)
            if getattr(p, "grad_sample", None) is None
            else p.grad_sample.detach().clone()  # type: ignore[attr-defined]
            for name, p in trainable.items()
        }
    model.module.zero_grad(set_to_none=True)
    return result


def _losses(logits: Tensor, batch: Batch, task: str) -> Tensor:
    """transformers' loss for each example by itself, (B,)."""
    if task == "sequence_classification":
        return functional.cross_entropy(logits, batch.labels, reduction="none")
    labels = batch.labels
    if task == "causal_lm":
        logits, labels = logits[:, :-1], labels[:, 1:]
    each = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return each.sum(1) / _labels(batch, task).sum(1).clamp_min(1)


def _labels(batch: Batch, task: str) -> Tensor:
    """Where a loss is taken."""
    return (batch.labels[:, 1:] if task == "causal_lm" else batch.labels) != IGNORED


@contextlib.contextmanager
def _hooked(module: nn.Module) -> Iterator[None]:
    """Opacus' hooks on the module. They work only in train mode: it is set just where they are, so no dropout is turned on."""
    from opacus.grad_sample import GradSampleModule

    holders = [m for m in module.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    before = [holder.training for holder in holders]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of full backward hooks on inputs without a gradient
        wrapper = GradSampleModule(module, loss_reduction="mean", strict=False)
        try:
            for holder in holders:
                holder.training = True
            yield
        finally:
            for holder, was in zip(holders, before, strict=True):
                holder.training = was
            wrapper.to_standard_module()
            _sweep_up(module)


def _sweep_up(module: nn.Module) -> None:
    """What Opacus leaves behind when it fails half way."""
    for part in module.modules():
        part.__dict__.pop("activations", None)
    for parameter in module.parameters():
        for attribute in ("grad_sample", "_current_grad_sample", "_forward_counter"):
            if hasattr(parameter, attribute):
                delattr(parameter, attribute)
