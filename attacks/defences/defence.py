"""What every defence is: changes to the adapters, to the federation's rules, to how gradients are made, or to what is sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zkaudit.attacks.defences.dp_sgd import PrivateOptions, private_update
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import Protect, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.model import Batch, PublicModel
from zkaudit.attacks.update import Update

Peft = Mapping[str, Any]  # a configuration as `peft_setup.load` takes it


def _same_settings(settings: FederatedSettings) -> FederatedSettings:
    return settings


def _same_peft(peft: Peft, _blocks: int) -> dict[str, Any]:
    return dict(peft)


@dataclass(frozen=True)
class Defence:
    """`name` is the text that `parse` reads; whatever a defence does not touch stays as it is.

    `peft(configuration, blocks)` returns the PEFT configuration under the defence, for a model of that many transformer blocks.
    `linear_map(d)` is the projector (d, k) that a known projection applies to vectors of R^d, or None.
    """

    name: str
    protect: Protect | None = None
    settings: Callable[[FederatedSettings], FederatedSettings] = _same_settings
    peft: Callable[[Peft, int], dict[str, Any]] = _same_peft
    private: PrivateOptions | None = None
    linear_map: Callable[[int], Tensor | None] | None = None

    def update(self, model: PublicModel, data: Sequence[Batch], settings: FederatedSettings, seed: int = 0) -> Update:
        """What a client under the defence sends; `settings` and the batches made by them are as the defence left them."""
        if self.private is not None:
            return private_update(model, data, settings, self.private, seed, self.protect)
        return local_update(model, data, settings, self.protect, seed)


NONE = Defence("none")


@dataclass(frozen=True)
class Kind:
    """An entry of the catalogue: an `example` of its text, what it does and what is known to defeat it."""

    name: str
    example: str
    explanation: str
    weakness: str
    make: Callable[[str, Sequence[str]], Defence]  # from the whole text and its arguments


def together(defences: Sequence[Defence]) -> Defence:
    """All of them, in this order; AuditError if two of them make gradients private or project."""
    if len(defences) == 1:
        return defences[0]
    name = "+".join(defence.name for defence in defences)
    protects = [defence.protect for defence in defences if defence.protect is not None]
    private = [defence.private for defence in defences if defence.private is not None]
    maps = [defence.linear_map for defence in defences if defence.linear_map is not None]
    if len(private) > 1 or len(maps) > 1:
        raise AuditError(f"defence '{name}' clips or projects twice")

    def protect(tensors: dict[str, Tensor], generator: Any) -> dict[str, Tensor]:
        for one in protects:
            tensors = one(tensors, generator)
        return tensors

    def settings(given: FederatedSettings) -> FederatedSettings:
        for defence in defences:
            given = defence.settings(given)
        return given

    def peft(given: Peft, blocks: int) -> dict[str, Any]:
        for defence in defences:
            given = defence.peft(given, blocks)
        return dict(given)

    return Defence(
        name, protect if protects else None, settings, peft, private[0] if private else None, maps[0] if maps else None
    )


def arguments(text: str, given: Sequence[str], least: int, most: int) -> None:
    """AuditError unless the number of a defence's arguments is in this range."""
    if not least <= len(given) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise AuditError(f"defence '{text}' has {len(given)} arguments; it takes {wanted}")


def number(text: str, given: str, what: str, least: float, most: float) -> float:
    """A defence's argument as a finite number in (least, most]; AuditError names it."""
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not least < value <= most:
        bounds = f"above {least:g}" + ("" if math.isinf(most) else f" and at most {most:g}")
        raise AuditError(f"defence '{text}': the {what} is '{given}'; it must be a number {bounds}")
    if math.isinf(value):
        raise AuditError(f"defence '{text}': the {what} must be finite")
    return value


def whole(text: str, given: str, what: str, least: int = 1) -> int:
    """A defence's argument as a whole number; AuditError names it."""
    if not given.isascii() or not given.isdigit() or int(given) < least:
        raise AuditError(f"defence '{text}': the {what} is '{given}'; it must be a whole number of at least {least}")
    return int(given)
