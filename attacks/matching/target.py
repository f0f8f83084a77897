"""What is matched: the gradient behind an update, as exactly as the public settings allow, and a word on what is not exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.threat import Round


@dataclass(frozen=True)
class Target:
    """The observed gradient by name, the trainable tensors it was taken at, and in what it is only approximate."""

    gradient: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    caveats: tuple[str, ...] = ()


def target(model: PublicModel, seen: Round, settings: FederatedSettings) -> Target:
    """The gradient of a round's update, mean over micro-batches, local steps and the cohort's clients.

    One step of SGD is undone exactly: delta = -lr (g + decay * start). Several steps are taken for one step with their mean
    gradient at the start. A step of AdamW leaves little but the signs of g. AuditError for an update that does not fit the
    model, holds NaN, is zero everywhere, or was made with learning rate 0.
    """
    seen.update.check({name: p.shape for name, p in model.trainable().items()})
    sent = {name: seen.update.tensors[name].to(model.device).float() for name in model.trainable()}
    start = {name: seen.start.get(name, p).detach().clone().to(model.device) for name, p in model.trainable().items()}
    caveats = []
    if seen.update.kind == "delta":
        if not settings.learning_rate:
            raise AuditError("the update is a delta made with learning rate 0, which shows nothing of the gradient")
        steps = settings.local_steps * settings.local_epochs
        rates = settings.learning_rate * (steps if settings.schedule == "constant" else (steps + 1) / 2)  # in sum
        sent = {name: -value / rates - settings.weight_decay * start[name].float() for name, value in sent.items()}
        if steps > 1:
            caveats.append(f"{steps} local steps are taken for one step with their mean gradient")
        if settings.optimizer == "adamw":
            caveats.append("an AdamW step shows little more than the gradient's signs")
    if not any(bool(value.any()) for value in sent.values()):
        raise AuditError("the update is zero in all tensors, so there is no gradient to match")
    if settings.dropout and any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.module.modules()):
        caveats.append("the client trained with dropout, whose masks the attack does not know")
    return Target(sent, start, tuple(caveats))
