"""A language model's loss chunk by chunk of the sequence, so that logits of all positions never exist together.

For hidden states h_t and a head f the summed loss is -sum_t log softmax(f(h_t))[y_t]. It is a sum over positions, so a chunk's
logits serve for its loss and for its gradient in h and in the head's weights, and are then dropped: memory chunk x V instead
of T x V. The gradients are formed in the forward pass (T x d and the head's size are kept) and scaled in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zkaudit.training.memory.stream_chunks import Precision, Sums, chunks, first_derivatives_only

IGNORED = -100


def summed_loss(head: nn.Module, hidden: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """The cross entropy of `head(hidden)` against `targets`, summed over positions whose target is not -100.

    hidden: (batch, T, width); targets: (batch, T), already shifted: the token that position t predicts. Returns a scalar, in
    float32 or wider.
    """
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    loss: Tensor = _SummedLoss.apply(head, targets, chunk, torch.is_grad_enabled(), hidden, *trained)  # type: ignore[no-untyped-call]
    return loss


def cross_entropies(head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """-log softmax(head(hidden) / temperature)[target] of each position, 0 where the target is -100: (batch, positions)."""
    logits = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    if temperature != 1.0:
        logits = logits / temperature
    losses = nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(targets.shape)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, head: nn.Module, targets: Tensor, chunk: int, trains: bool, hidden: Tensor, *trained: Tensor
    ) -> Tensor:
        trains = trains and (hidden.requires_grad or bool(trained))
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        sums, hidden_gradient = Sums(trained), torch.zeros_like(hidden) if trains else None
        with Precision(hidden.device.type).entered(), torch.set_grad_enabled(trains):
            for start, end in chunks(hidden.shape[1], chunk):
                part = hidden[:, start:end].detach().requires_grad_(trains)
                loss = cross_entropies(head, part, targets[:, start:end]).sum()
                total += loss.detach()
                if hidden_gradient is not None:
                    first, *others = torch.autograd.grad(loss, [part, *trained], allow_unused=True)
                    hidden_gradient[:, start:end] = first
                    sums.add(others)
        if hidden_gradient is not None:
            ctx.save_for_backward(hidden_gradient, *sums.totals())
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Any, ...]:
        first_derivatives_only()
        gradients = (None if gradient is None else gradient * scale.to(gradient.dtype) for gradient in ctx.saved_tensors)
        return None, None, None, None, *gradients
