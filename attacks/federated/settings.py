"""The public rules of a federation: how clients train and what they send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.update import KINDS, Kind

PRECISIONS = ("float64", "float32", "bfloat16", "float16", "int8", "fp8_e4m3", "fp8_e5m2")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "linear")


@dataclass(frozen=True)
class FederatedSettings:
    """One round: every client takes `local_steps` optimizer steps, each on `accumulation` batches of `batch` records.

    It does so `local_epochs` times over. If gradients are sent, the server takes the step, with the same optimizer.
    """

    sends: Kind = "gradient"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear"] = "constant"  # linear: down to 0 over a round's local steps
    local_steps: int = 1
    local_epochs: int = 1
    batch: int = 4
    accumulation: int = 1
    longest: int = 64  # tokens a record, the rest is cut
    cohort: int = 1  # clients of whose updates the server sees only the mean (secure aggregation)
    rounds: int = 1
    same_batch: bool = False  # whether a client trains on the same records in every round
    warm_up_steps: int = 0  # of SGD on public records before the first round; 0 leaves LoRA's B at 0
    dropout: bool = True  # train mode; off is what many published attacks assume
    precision: str = "float32"  # of what is sent

    def __post_init__(self) -> None:
        for name in ("local_steps", "local_epochs", "batch", "accumulation", "longest", "cohort", "rounds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise AuditError(f"[federated] {name} is {value!r}; it must be a positive integer")
        if isinstance(self.warm_up_steps, bool) or not isinstance(self.warm_up_steps, int) or self.warm_up_steps < 0:
            raise AuditError(f"[federated] warm_up_steps is {self.warm_up_steps!r}; it must be an integer of at least 0")
        for name, allowed in (
            ("sends", KINDS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise AuditError(f"[federated] {name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        for name, least in (("learning_rate", 0.0), ("weight_decay", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e6:
                raise AuditError(f"[federated] {name} is {value!r}; it must be a number of at least 0")
        for name in ("same_batch", "dropout"):
            if not isinstance(getattr(self, name), bool):
                raise AuditError(f"[federated] {name} is {getattr(self, name)!r}; it must be true or false")
        if self.sends == "gradient" and self.steps != 1:
            raise AuditError('[federated] a gradient is sent after one local step; with more of them, sends = "delta"')

    @property
    def steps(self) -> int:
        """Optimizer steps behind one client's update."""
        return self.local_steps * self.local_epochs

    @property
    def records(self) -> int:
        """Records behind one client's update."""
        return self.batch * self.accumulation * self.local_steps
