"""LAMP's discrete moves, as permutations of all token positions of all records."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def moved(lengths: Sequence[int], generator: torch.Generator) -> Tensor:
    """A random move: entry (r, t) of the result, (R, T), is the flat index r * T + t of the place whose token comes there.

    Padding stays. A record of one token can only take part in a swap.
    """
    width = max(lengths)
    order = torch.arange(len(lengths) * width).view(len(lengths), width)

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    kind = below(4)
    record = below(len(lengths))
    row = order[record, : lengths[record]].tolist()
    if kind == 0 or len(row) < 2:  # swap two, maybe across records
        other = below(len(lengths))
        a, b = (record, below(len(row))), (other, below(lengths[other]))
        order[a], order[b] = order[b].clone(), order[a].clone()
        return order
    if kind == 1:  # move one token
        token = row.pop(below(len(row)))
        row.insert(below(len(row) + 1), token)
    elif kind == 2:  # move a stretch
        start = below(len(row))
        stop = start + 1 + below(len(row) - start)
        stretch, row = row[start:stop], row[:start] + row[stop:]
        place = below(len(row) + 1)
        row = row[:place] + stretch + row[place:]
    else:  # put a beginning last
        cut = 1 + below(len(row) - 1)
        row = row[cut:] + row[:cut]
    order[record, : len(row)] = torch.tensor(row)
    return order
