"""Coverage: cells of a taxonomy that the data lack are filled by a generator, and checked strictly (the data recipe of
Echo-4o, Ye et al. 2025, arXiv 2508.09987).

Each attribute is a function of a record with known values; a cell is one value of each. A cell with fewer than `quota` records
is a gap, and for each missing record the generator is asked for one of that cell. What it writes counts only if every
attribute has the cell's value, as in strict checks of instruction following: an image with the right object in the wrong
colour is wrong. Tries have limits; what could not be filled is said. Echo-4o made 179,000 images so, of surreal scenes, many
references and long instructions, which photographs lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Generic, TypeVar

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Generator, Provenance, write
from zkaudit.training.method import Method

METHOD = Method(
    name="coverage-gaps",
    title="Filling gaps in coverage with generated records",
    paper="Ye et al. 2025, arXiv 2508.09987",
    where="zkaudit.training.generation.coverage.fill",
    changes=("data",),
    effect="Bagel, trained further on 179,000 such images, follows instructions better on GenEval++ and Imagine-Bench.",
    library="",
    provable="Before the data are committed: counts of cells are sums, and a record's hashes say that it was generated.",
    server_sees="Generated rows hold nothing of a client: in a batch they thin out what can be inverted.",
    use=(
        "from zkaudit.training.generation.coverage import Taxonomy, fill, gaps\n"
        "\n"
        'taxonomy = Taxonomy({"colour": (colour_of, ("red", "blue")), "shape": (shape_of, ("disc", "square"))})\n'
        'filled = fill(gaps(records, taxonomy, quota=50), taxonomy, generator, describe, parse, run_seed="7f")\n'
        "records += filled.records"
    ),
    avoid="Cells that are empty for a reason, and attributes that only a person can judge.",
    binding="declared",
)

Record = TypeVar("Record")
Cell = tuple[str, ...]


@dataclass(frozen=True)
class Taxonomy(Generic[Record]):
    """`attributes`: for each name the function that reads it from a record, and its values."""

    attributes: Mapping[str, tuple[Callable[[Record], str], Sequence[str]]]

    def __post_init__(self) -> None:
        if not self.attributes:
            raise TrainingError("a taxonomy needs at least one attribute")
        for name, (_, values) in self.attributes.items():
            if not values or len(set(values)) != len(values):
                raise TrainingError(f"attribute {name!r} needs values, each once")

    def cells(self) -> list[Cell]:
        """All of them, in the order of the values."""
        return list(product(*(values for _, values in self.attributes.values())))

    def cell(self, record: Record) -> Cell:
        """A record's values; they need not be among the known ones."""
        return tuple(read(record) for read, _ in self.attributes.values())

    def named(self, cell: Cell) -> dict[str, str]:
        return dict(zip(self.attributes, cell, strict=True))


@dataclass(frozen=True)
class Gap:
    """A cell with `have` records of the quota; `need` are missing."""

    cell: Cell
    have: int
    need: int


@dataclass(frozen=True)
class Filled(Generic[Record]):
    """Records that passed, provenance of everything that was written, and gaps that are left with what they still need."""

    records: list[Record]
    provenance: list[Provenance]
    left: list[Gap]


def gaps(records: Sequence[Record], taxonomy: Taxonomy[Record], quota: int) -> list[Gap]:
    """Cells with fewer than `quota` records, in the taxonomy's order. Records outside the taxonomy count nowhere."""
    if quota < 1:
        raise TrainingError(f"quota = {quota} must be at least 1")
    counts = Counter(taxonomy.cell(record) for record in records)
    return [Gap(cell, counts[cell], quota - counts[cell]) for cell in taxonomy.cells() if counts[cell] < quota]


def satisfied(record: Record, taxonomy: Taxonomy[Record], cell: Cell) -> bool:
    """Whether every attribute has the cell's value."""
    return taxonomy.cell(record) == cell


def fill(
    missing: Sequence[Gap],
    taxonomy: Taxonomy[Record],
    generator: Generator,
    describe: Callable[[Mapping[str, str]], str],
    parse: Callable[[str], Record | None],
    run_seed: str,
    rounds: int = 3,
) -> Filled[Record]:
    """Ask for every missing record, and again for those that failed, in at most `rounds` rounds.

    `describe` makes a prompt from a cell's values by name, `parse` a record from an answer, or None if it is none.
    """
    if rounds < 1:
        raise TrainingError(f"rounds = {rounds} must be at least 1")
    open_cells = [gap.cell for gap in missing for _ in range(gap.need)]
    records: list[Record] = []
    provenance: list[Provenance] = []
    asked = 0
    for _ in range(rounds):
        prompts = [describe(taxonomy.named(cell)) for cell in open_cells]
        written = write(generator, "coverage-gaps", run_seed, prompts, str, range(asked, asked + len(prompts)))
        asked += len(prompts)
        failed = []
        for cell, each in zip(open_cells, written, strict=True):
            record = parse(each.text)
            good = record is not None and satisfied(record, taxonomy, cell)
            provenance.append(each.provenance.judged(float(good), good))
            if record is not None and good:
                records.append(record)
            else:
                failed.append(cell)
        open_cells = failed
    still = Counter(open_cells)
    left = [Gap(gap.cell, gap.have + gap.need - still[gap.cell], still[gap.cell]) for gap in missing if still[gap.cell]]
    return Filled(records, provenance, left)
