"""Settings of DAGER: its published rules, against which others are measured, and rules calibrated on the update itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zkaudit.attacks.errors import AuditError

SETTINGS = ("calibrated", "published")


@dataclass(frozen=True)
class DagerOptions:
    """`published` follows Petrov et al. 2024 and their released defaults; what is None takes the value of their scripts.

    Their search is not bounded; `beam` and `combinations` bound ours in both settings, and evidence says when they did.
    """

    setting: Literal["calibrated", "published"] = "calibrated"
    tolerance: float | None = None  # published: singular values below it, absolutely, are noise
    cutoff: int = 20  # published: the rank is at most the width less this
    token_threshold: float | None = None  # published: distance below which a token is in the batch
    sentence_threshold: float | None = None  # published: the same one block later
    false_discovery: float = 1e-3  # calibrated: share of wrong tokens among those claimed (Benjamini-Hochberg)
    distinct: float = 0.7  # sequences that agree in this share of positions are versions of one
    beam: int = 64  # decoder: most sequences kept at a time (but at least 8 for each record)
    combinations: int | None = None  # encoder: most sequences tried at a length; None: 10^7 published, 70000 calibrated
    token_types: int = 1  # encoder: kinds of segments to try (2 for pairs of sentences)
    block: int = 256  # sequences in one forward pass
    ranked: int = 4096  # tokens in the ranking beyond those claimed
    seed: int = 0

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS:
            raise AuditError(f"[dager] setting is {self.setting!r}; it must be one of {', '.join(SETTINGS)}")
        for name in ("beam", "token_types", "block"):
            if getattr(self, name) < 1:
                raise AuditError(f"[dager] {name} is {getattr(self, name)!r}; it must be a positive integer")
        if not 0 < self.false_discovery < 1:
            raise AuditError(f"[dager] false_discovery is {self.false_discovery!r}; it must lie between 0 and 1")

    @property
    def published(self) -> bool:
        return self.setting == "published"


@dataclass(frozen=True)
class PublishedRules:
    """Thresholds of the released scripts: `tolerance` of singular values, distances of `tokens` and of `sentences`."""

    tolerance: float
    tokens: float
    sentences: float
    extra_rank: int = 0


def published_rules(options: DagerOptions, records: int, averaged: bool, lora: bool) -> PublishedRules:
    """By scenario: federated averaging, LoRA, or a gradient of full weights (then by the number of records)."""
    if lora:
        rules = PublishedRules(5e-9, 0.05, 0.05)
    elif averaged:
        rules = PublishedRules(5e-6, 5e-3, 5e-3, extra_rank=60)
    else:
        rules = PublishedRules(1e-7 if records <= 2 else 1e-8 if records <= 16 else 1e-9, 1e-5, 1e-3)
    return PublishedRules(
        rules.tolerance if options.tolerance is None else options.tolerance,
        rules.tokens if options.token_threshold is None else options.token_threshold,
        rules.sentences if options.sentence_threshold is None else options.sentence_threshold,
        rules.extra_rank,
    )
