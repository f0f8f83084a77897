"""A block: the name and shape of one committed table, and the tables in which its entries are looked up."""

from dataclasses import dataclass

LIMB = 16
SIGN_OFFSET = 1 << 15  # added to signed numbers of 16 bits


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


@dataclass(frozen=True)
class Lookup:
    """Every entry of `blocks` (one block, or an argument and its value) is in table number `table`; or those of some highs."""

    table: int
    blocks: tuple[Block, ...]
    highs: tuple[int, int] | None = None  # the first, and the one after the last; a power of two of them

    @property
    def part(self) -> slice:
        """The highs that are looked up."""
        return slice(*(self.highs or (0, self.blocks[0].highs)))

    @property
    def size(self) -> int:
        """Entries that are looked up."""
        first, after = self.highs or (0, self.blocks[0].highs)
        return (after - first) * self.blocks[0].lows


def padded(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def limb_bits(width: int) -> list[int]:
    """Limbs of a number of `width` bits, lowest first: 16 bits each, the last what is left."""
    return [min(LIMB, width - low) for low in range(0, width, LIMB)]


def limbs(name: str, highs: int, lows: int, width: int) -> list[tuple[Block, int]]:
    """The blocks `name`.k of a number's limbs, each with the bits of its range."""
    return [(Block(f"{name}.{k}", highs, lows), bits) for k, bits in enumerate(limb_bits(width))]
