"""A stack: tables of different power-of-two sizes laid end to end in one multilinear table, each aligned to its own size.

Laid in order of falling size there are no gaps. The extension of the stack at a point is the sum over the tables of
prefix * table(point[:m]), where m counts the table's variables and the prefix is eq of its address with the rest of the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zkaudit.zk.field import MODULUS


@dataclass(frozen=True)
class Stack:
    """Where each table lies: `offsets` in the order the sizes were given; `order` from the largest to the smallest."""

    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    order: tuple[int, ...]
    length: int
    variables: int

    def span(self, i: int) -> slice:
        """The entries of table i."""
        return slice(self.offsets[i], self.offsets[i] + self.sizes[i])

    def prefixes(self, point: Sequence[int]) -> list[int]:
        """Each table's prefix at `point`, in the order the sizes were given."""
        return [self._prefix(size, offset, point) for size, offset in zip(self.sizes, self.offsets, strict=True)]

    def _prefix(self, size: int, offset: int, point: Sequence[int]) -> int:
        value = 1
        for variable in range(size.bit_length() - 1, self.variables):
            x = point[variable]
            value = value * (x if (offset >> variable) & 1 else 1 - x) % MODULUS
        return value


def stack(sizes: Sequence[int]) -> Stack:
    """Lay tables of these power-of-two sizes."""
    order = tuple(sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)))
    offsets, length = [0] * len(sizes), 0
    for i in order:
        offsets[i] = length
        length += sizes[i]
    return Stack(tuple(sizes), tuple(offsets), order, length, (length - 1).bit_length())
