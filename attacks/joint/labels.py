"""How many of the records behind an update have each label, read off the last layer's bias.

Summed over steps and places, -db = sum rate / B (p_s - y_s) with p_s the outputs (after the softmax for cross-entropy) and y_s
the one-hot label, so the counts are sum p_s + db B / rate. p is taken for that of the start weights at an input of zeros, which
serves while training is young. Source: Wainakh et al. 2022, "User-level label leakage from gradients in federated learning".
Of one record the sign alone tells (`matching/classes.py`). LoRA trains no bias, and what GaLore makes of one is a mixture.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from zkaudit.attacks.joint.client import Seen
from zkaudit.attacks.matching.classes import label
from zkaudit.training.fixedpoint.float_step import PLAIN, forward


def label_slots(seen: Seen) -> Tensor:
    """The records' labels in rising order, (n,): as many of each as the last layer's bias says, rounded so that n come out."""
    steps, batch = seen.places.shape
    outputs = forward(seen.layers, seen.start[0].new_zeros(1, seen.inputs), PLAIN)[0][-1]
    likely = outputs.softmax(1)[0] if seen.loss == "cross_entropy" else outputs[0]
    per_place = likely + seen.update[-1][-1] * batch / (sum(seen.rates) / steps) / (steps * batch)
    counts = (seen.records * per_place).clamp_min(0)
    counts = counts * seen.records / counts.sum().clamp_min(1e-9)
    whole = counts.floor()
    left = seen.records - int(whole.sum())
    whole[(counts - whole).argsort(descending=True, stable=True)[:left]] += 1
    return torch.repeat_interleave(torch.arange(len(whole)), whole.long())


def sole_label(seen: Seen) -> Tensor | None:
    """The one record's label, (1,): its output alone is pushed up. None of more records, or where the signs do not tell."""
    if seen.records > 1 or seen.loss != "cross_entropy":
        return None
    last = seen.update[-1]
    found = label(-last.T, None) if seen.method.lora is not None else label(-last.T, -last[-1])
    return None if found is None else torch.tensor([found])


def assigned(slots: Tensor, likely: Tensor) -> Tensor:
    """A label for each record, (n,), from the slots, likeliest in sum by the records' own probabilities (n, o)."""
    rows, columns = linear_sum_assignment(-likely[:, slots].numpy())
    labels = torch.empty_like(slots)
    labels[torch.from_numpy(rows)] = slots[torch.from_numpy(columns)]
    return labels
