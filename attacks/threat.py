"""Who attacks, and what he is given. Capabilities are declared; an attack gets what they allow and never the client's records.

`passive`: an honest-but-curious server, it sees updates and what is public. `auxiliary`: it also knows the format of the
records and has some of its own, with other values. `active`: it also chooses the base model that it hands out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto

from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.update import Update


class Capability(Flag):
    """What an attacker may use."""

    UPDATE = auto()  # what clients send, and everything public
    AUXILIARY = auto()  # records in the clients' format with values of its own
    BASE_MODEL = auto()  # choice of the base model's weights


THREATS = {
    "passive": Capability.UPDATE,
    "auxiliary": Capability.UPDATE | Capability.AUXILIARY,
    "active": Capability.UPDATE | Capability.AUXILIARY | Capability.BASE_MODEL,
}


@dataclass(frozen=True)
class Round:
    """One round as the server sees it: the trainable tensors it handed out, and what came back."""

    start: Mapping[str, Tensor]
    update: Update


@dataclass(frozen=True)
class Observation:
    """All that an attack is given."""

    model: PublicModel
    federated: FederatedSettings
    rounds: Sequence[Round]
    capabilities: Capability = Capability.UPDATE
    defence: str | None = None  # an adaptive attacker knows which defence is in place
    tokens: int | None = None  # of positions behind one update, if the protocol makes it public (otherwise bounded by settings)
    _auxiliary: Sequence[Record] = field(default=(), repr=False)

    @property
    def auxiliary(self) -> Sequence[Record]:
        """The attacker's own records; AuditError if the threat model gives it none."""
        self.require(Capability.AUXILIARY)
        return self._auxiliary

    @property
    def last(self) -> Round:
        """The last round; AuditError if none was seen."""
        if not self.rounds:
            raise AuditError("there is no update to attack: the observation has no rounds")
        return self.rounds[-1]

    def require(self, needed: Capability) -> None:
        """AuditError unless the threat model allows this."""
        if needed not in self.capabilities:
            lacking = ", ".join(str(c.name).lower() for c in needed if c not in self.capabilities)
            raise AuditError(f"the threat model does not give the attacker: {lacking}")

    @property
    def most_tokens(self) -> int:
        """The most token positions that can stand behind one update, from public settings alone."""
        return self.tokens or self.federated.records * self.federated.longest * self.federated.cohort
