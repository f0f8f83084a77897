"""Defences against what updates leak. `parse` reads a defence from text, such as "noise:0.01", "dp_sgd:1.0:0.5" or "none";
several are joined by "+". `catalogue` lists them, each with what is known to defeat it.
"""

from __future__ import annotations

from collections.abc import Sequence

from zkaudit.attacks.defences import configuration, noise, private, projection, quantise, sparsify
from zkaudit.attacks.defences.defence import NONE, Defence, Kind, arguments, together
from zkaudit.attacks.errors import AuditError

__all__ = ["NONE", "Defence", "Kind", "catalogue", "parse"]


def _none(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 0, 0)
    return NONE


KINDS = {
    kind.name: kind
    for kind in (
        Kind("none", "none", "no defence: what the others are compared with", "everything", _none),
        *private.KINDS,
        *noise.KINDS,
        *sparsify.KINDS,
        *quantise.KINDS,
        *projection.KINDS,
        *configuration.KINDS,
    )
}


def parse(text: str) -> Defence:
    """A defence from its text; AuditError names the part that is wrong."""
    return together([_one(part.strip()) for part in text.split("+")])


def _one(text: str) -> Defence:
    name, *given = text.split(":")
    if name not in KINDS:
        raise AuditError(f"there is no defence '{name}'; known are {', '.join(KINDS)}")
    return KINDS[name].make(text, given)


def catalogue() -> list[Kind]:
    """All kinds of defences, for a table: name, example, explanation and known weakness."""
    return list(KINDS.values())
