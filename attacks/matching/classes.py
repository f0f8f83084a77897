"""A classifier's label read from the gradient of its head (iDLG, Zhao et al. 2020).

With cross entropy, d loss / d logit_c is p_c - [c is the label]: negative for the label alone. The head's bias has just this
gradient; each row of its weight has it times the head's input.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

HEADS = ("classifier", "score", "out_proj")  # what transformers calls the last layer of sequence classifiers


def label(weight: Tensor | None, bias: Tensor | None) -> int | None:
    """The one record's label from the gradient of the head's weight (C, d) and bias (C,), or None if they do not tell.

    Without a bias, the label's row points against all others; of two classes either could be it.
    """
    if bias is not None and bool(bias.any()):
        negative = (bias < 0).nonzero().flatten()
        return int(negative[0]) if len(negative) == 1 else None
    if weight is None or len(weight) < 3 or not bool(weight.any()):
        return None
    against = ((weight @ weight.T) < 0).sum(1)  # the label's row has C - 1 of them, any other row one
    chosen = (against == len(weight) - 1).nonzero().flatten()
    return int(chosen[0]) if len(chosen) == 1 else None


def head(gradient: Mapping[str, Tensor], classes: int) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the head's weight and bias, where the head is trained."""
    weight = bias = None
    for name, value in gradient.items():
        parts = name.split(".")
        if not any(part in HEADS for part in parts) or value.shape[0] != classes:
            continue
        if parts[-1] == "weight" and value.dim() == 2:
            weight = value
        elif parts[-1] == "bias" and value.dim() == 1:
            bias = value
    return weight, bias
