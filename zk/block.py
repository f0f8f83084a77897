"""A block: the name and shape of one committed table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A committed table of small integers, shape (highs, lows), both powers of two."""

    name: str
    highs: int
    lows: int

    @property
    def size(self) -> int:
        return self.highs * self.lows

    @property
    def low_variables(self) -> int:
        return self.lows.bit_length() - 1

    @property
    def variables(self) -> int:
        return self.size.bit_length() - 1

    def rows(self, columns: int) -> int:
        """Row commitments of this block."""
        return max(1, self.size >> columns)
