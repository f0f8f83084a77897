"""Controls: what is guessed without the update. They know more than an attacker does, the data's own distribution.

`marginal` draws each number of a record from that column of the data, independently; `mean_record` guesses the mean each time.
An attack shows something only by what it gains over them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zkaudit.attacks.joint.client import Found


def marginal(data: Tensor, records: int, seed: int = 0) -> Found:
    """As many guesses as there are records."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(data), (records, data.shape[1]), generator=generator)
    return Found(data.gather(0, rows))


def mean_record(data: Tensor, records: int) -> Found:
    """The mean, for each record."""
    return Found(data.mean(0).expand(records, -1))
