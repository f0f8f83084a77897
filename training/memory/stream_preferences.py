"""Log-probabilities of tokens and of whole answers with streamed memory, for preference and policy training.

The gradient that reaches a token's log-probability is known in the backward pass only (DPO weighs a sequence by its margin,
GRPO clips token by token), so a chunk's logits are computed once to be read and once more for their gradient.

DPO (Rafailov et al. 2023, beta 0.1): -log sigmoid(beta (log p(chosen)/q(chosen) - log p(rejected)/q(rejected))), q frozen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.memory.stream_bp import StreamBP, shift
from zkaudit.training.memory.stream_chunks import Precision, Sums, chunks, first_derivatives_only
from zkaudit.training.memory.stream_logits import cross_entropies


def token_log_probabilities(
    stream: StreamBP, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """log p(labels[:, t+1] | input_ids[:, :t+1]) at place t, and 0 where that label is -100; (batch, T - 1).

    For GRPO take labels = input_ids with -100 on the prompt; `temperature` divides the logits as in sampling.
    """
    if temperature <= 0:
        raise TrainingError(f"temperature is {temperature}; it must be above 0")
    hidden = stream.hidden_states(input_ids=input_ids, attention_mask=attention_mask)
    trained = [parameter for parameter in stream.head.parameters() if parameter.requires_grad]
    targets = shift(labels)
    given = (stream.head, targets, stream.logit_chunk, temperature, hidden, *trained)
    found: Tensor = _LogProbabilities.apply(*given)  # type: ignore[no-untyped-call]
    return found[:, :-1]


def sequence_log_probabilities(
    stream: StreamBP, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """The log-probability of each row's labels, those that are not -100, given what is before them; (batch,)."""
    return token_log_probabilities(stream, input_ids, labels, attention_mask).sum(dim=-1)


def dpo_loss(chosen: Tensor, rejected: Tensor, frozen_chosen: Tensor, frozen_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """The mean DPO loss of pairs of sequence log-probabilities, each (pairs,), under the trained and the frozen model."""
    return -nn.functional.logsigmoid(beta * (chosen - frozen_chosen - rejected + frozen_rejected)).mean()


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, head: nn.Module, targets: Tensor, chunk: int, temperature: float, hidden: Tensor, *trained: Tensor
    ) -> Tensor:
        ctx.given = head, chunk, temperature, Precision(hidden.device.type), trained
        ctx.save_for_backward(hidden, targets)
        with ctx.given[3].entered():
            parts = [
                cross_entropies(head, hidden[:, start:end], targets[:, start:end], temperature)
                for start, end in chunks(hidden.shape[1], chunk)
            ]
        return -torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        first_derivatives_only()
        head, chunk, temperature, precision, trained = ctx.given
        hidden, targets = ctx.saved_tensors
        sums, hidden_gradient = Sums(trained), torch.empty_like(hidden)
        with precision.entered(), torch.enable_grad():
            for start, end in chunks(hidden.shape[1], chunk):
                part = hidden[:, start:end].detach().requires_grad_()
                losses = cross_entropies(head, part, targets[:, start:end], temperature)
                first, *others = torch.autograd.grad(losses, [part, *trained], -gradient[:, start:end], allow_unused=True)
                hidden_gradient[:, start:end] = first
                sums.add(others)
        return None, None, None, None, hidden_gradient, *sums.totals()
