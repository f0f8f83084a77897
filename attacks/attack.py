"""What every attack is: a name, the capabilities it needs, and `run`, from an observation to what it recovered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from zkaudit.attacks.threat import Capability, Observation

Progress = Callable[[str, float], None]  # what is being done, and the fraction done


def silent(_what: str, _fraction: float) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True)
class Ranking:
    """Token ids, most likely first, with a score each (larger is likelier); the first `claimed` are said to be in the batch."""

    ids: Sequence[int]
    scores: Sequence[float]
    claimed: int


@dataclass(frozen=True)
class Secret:
    """A guessed value of a record: its kind ("phone"), whose it is as far as known, and how sure the attack is."""

    kind: str
    value: str
    owner: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Recovery:
    """What an attack makes of an observation. `evidence` holds numbers for the report (spectra, distances, chosen rank)."""

    attack: str
    tokens: Ranking | None = None
    sequences: Sequence[Sequence[int]] = ()
    secrets: Sequence[Secret] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Attack(Protocol):
    """An attack; its options are its constructor's arguments, its randomness comes from a seed among them."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Capability: ...

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """Attack. AuditError if the observation does not allow this attack at all."""
        ...
