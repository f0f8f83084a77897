"""What a training method is to somebody who looks for one: each method's module says it in a constant `METHOD`.

The catalogue (catalogue.py) collects them; `zkaudit methods` and docs/methods.md are made from it."""

from __future__ import annotations

from dataclasses import dataclass

CHANGES = ("memory", "speed", "batch", "schedule", "model", "robustness", "search")


@dataclass(frozen=True)
class Method:
    """One method. `changes` are of CHANGES; `provable` and `server_sees` are sentences."""

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

    def __post_init__(self) -> None:
        if unknown := [change for change in self.changes if change not in CHANGES]:
            raise ValueError(f"method {self.name!r} changes {unknown[0]!r}, which is none of {', '.join(CHANGES)}")
