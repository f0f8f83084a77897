"""What a training method is to somebody who looks for one: each method's module says it in a constant `METHOD`.

The catalogue (catalogue.py) collects them; `zkaudit methods` and docs/methods.md are made from it."""

from __future__ import annotations

from dataclasses import dataclass

CHANGES = (
    *("memory", "speed", "batch", "schedule", "data", "objective"),
    *("model", "robustness", "search", "evaluation"),
)
BINDINGS = {  # what kind of choice a method makes, and how far it can be checked
    "": "makes no choice of records, objectives or models: its steps are bound as every step is",
    "declared": "declared: a record says what was chosen and is bound to the run; the rule itself is taken on trust",
    "replayable": "replayable: from seed, data and records an auditor computes the same choice again, bit for bit",
    "in circuit": "in circuit: a proof shows that the choice follows the rule",
}


@dataclass(frozen=True)
class Method:
    """One method. `changes` are of CHANGES, `binding` of BINDINGS; `provable` and `server_sees` are sentences."""

    name: str  # as in configuration and documents, with hyphens
    title: str
    paper: str  # authors, year, identifier
    where: str  # what a user imports, "zkaudit.training.optim.galore.GaLore"
    changes: tuple[str, ...]
    effect: str  # the published effect, in a sentence
    library: str  # the library that is wrapped or that offers the same; empty if the code is all ours
    provable: str  # whether zkaudit's relations can prove a step of it, and how
    server_sees: str  # what an update shows a server, against the plain gradient
    use: str  # the lines of code that use it
    avoid: str  # when to leave it, and what it does not go with
    binding: str = ""  # what kind of choice it makes, of BINDINGS

    def __post_init__(self) -> None:
        if unknown := [change for change in self.changes if change not in CHANGES]:
            raise ValueError(f"method {self.name!r} changes {unknown[0]!r}, which is none of {', '.join(CHANGES)}")
        if self.binding not in BINDINGS:
            raise ValueError(
                f"method {self.name!r} has binding {self.binding!r}, which is none of {', '.join(map(repr, BINDINGS))}"
            )
