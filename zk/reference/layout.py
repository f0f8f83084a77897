"""Section 5: the blocks and their rows; section 6.4: which of them are looked up in which table."""

from .conventions import POINT_BYTES, bits
from .statement import Statement

PAIRS = 64  # the number of the table of exponentials
Block = tuple[str, int, int]  # name, variables of the high index, variables of the low index


def limbs(name: str, number_bits: int) -> dict[str, int]:
    """The blocks of a number's limbs, lowest first, each with its bits, which are the number of its lookup table."""
    return {f"{name}.{low // 16}": min(16, number_bits - low) for low in range(0, number_bits, 16)}


class Layout:
    """A statement's blocks, in order, and its lookups (block, table), the pair's under its first block."""

    def __init__(self, s: Statement) -> None:
        w, self.columns, samples = s.weight_bits, s.columns, bits(s.samples - 1)
        d, (*hidden, last) = [bits(width - 1) for width in s.widths], range(s.layers)
        self.data: list[Block] = [("x", d[0], bits(s.rows - 1)), ("y", d[-1], bits(s.rows - 1))]
        self.start, self.end = list[Block](), list[Block]()
        for name, blocks in (("start", self.start), ("end", self.end)):
            for j in range(s.layers):
                blocks += [(f"{name}{j}", d[j + 1], d[j]), (f"{name}{j}.bias", 0, d[j + 1])]
        self.witness, self.lookups = list[Block](), list[tuple[str, int]]()
        for j in hidden:
            remainders = limbs(f"r{j}", w) | limbs(f"rg{j}", w)
            self.witness += [(name, d[j + 1], samples) for name in (f"p{j}", f"b{j}", f"ga{j}", *remainders)]
            self.lookups += [(f"p{j}", 16), (f"ga{j}", 16), *remainders.items()]
        outputs = ["d", "e", "h", "q", "s", "rho.0", "rho.1", "sigma.0", "sigma.1"] if s.cross_entropy else ["z"]
        self.witness += [(name, d[-1], samples) for name in (*outputs, *limbs(f"r{last}", w))]
        self.lookups += limbs(f"r{last}", w).items()
        if s.cross_entropy:
            self.witness.append(("m", 0, samples))
            self.lookups += [(name, 16) for name in ("m", "q", "rho.0", "rho.1", "sigma.0", "sigma.1")] + [("d", PAIRS)]
        else:
            self.lookups.append(("z", 16))
        if s.segment == 0:
            self.lookups += [("x", 16), ("y", 1 if s.cross_entropy else 16)]
            for name, high, low in self.start:
                self.witness += [(limb, high, low) for limb in limbs(name, w + 4)]
                self.lookups += limbs(name, w + 4).items()
        self.tables = sorted({table for _, table in self.lookups})
        self.counts: list[Block] = [(f"count.{k}", 0, min(k, 16)) for k in self.tables]
        self.blocks = [*self.data, *self.start, *self.end, *self.witness, *self.counts]
        self.shapes = {name: (high, low) for name, high, low in self.blocks}

    def size(self, blocks: list[Block]) -> int:
        """The size of the blocks' commitment: a point for each row."""
        return sum(POINT_BYTES << max(0, high + low - self.columns) for _, high, low in blocks)
