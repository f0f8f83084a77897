"""Personal notes: sentences that restate the personal data of a text, and the training set D_gen made of them.

A model trained on text followed by notes answers the stem of a note with what its weights hold of the person, and does so
still after clients have fine-tuned it on records without notes. (ReCIT, Xie et al. 2025, arXiv 2504.20570, names two kinds of
texts, "PNote-appended" and "PNote summarisation"; their exact wording, the mix and the loss mask could not be read, so they
are options here: `forms`, `summarised`, `mask`, `weight`, `copies`.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.model import IGNORED

Form = Literal["appended", "summarising", "alone", "record"]
Mask = Literal["full", "note", "weighted"]
NOUNS = {"phone": "phone number", "card": "card number", "birth": "date of birth"}  # other kinds are their own noun


@dataclass(frozen=True)
class NoteOptions:
    """How D_gen is made. `alone` teaches notes without their text in sight, so that weights must hold the values.

    `record` is text without its notes: the ablation that tells what repetition does from what notes do.
    """

    forms: tuple[Form, ...] = ("appended", "summarising")
    summarised: int = 3  # records before the notes of a summarising text
    copies: int = 1  # texts of each form in which a record occurs
    mask: Mask = "full"
    weight: float = 4.0  # of a note's token against another's, for mask "weighted"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.forms:
            raise AuditError("personal notes need at least one form of text")
        if self.summarised < 1 or self.copies < 1 or self.weight <= 0:
            raise AuditError("summarised and copies must be at least 1, and the weight of notes positive")


@dataclass(frozen=True)
class Part:
    """A stretch of a training text, and whether it is a note."""

    text: str
    note: bool


Text = tuple[Part, ...]


def stem(owner: str, kind: str) -> str:
    """The beginning of a note, up to the value."""
    noun = NOUNS.get(kind, kind)
    return f"{owner}'s {noun} is" if owner else f"The {noun} is"


def notes(record: Record) -> list[str]:
    """One sentence for each value of a record."""
    return [f"{stem(record.owner, kind)} {value}." for kind, value in record.pii.items()]


def generate(auxiliary: Sequence[Record], options: NoteOptions = NoteOptions()) -> list[Text]:
    """D_gen: every record of the attacker's own that has personal data, in every form, in an order drawn by the seed."""
    records = [record for record in auxiliary if record.pii]
    if not records:
        raise AuditError("the attacker's own records hold no personal data, so there is nothing to make notes of")
    draw = random.Random(options.seed)
    texts: list[Text] = []
    for form in options.forms:
        for _ in range(options.copies):
            draw.shuffle(records)
            size = options.summarised if form == "summarising" else 1
            for start in range(0, len(records), size):
                texts.append(_text(records[start : start + size], form))
    draw.shuffle(texts)
    return texts


def _text(records: Sequence[Record], form: Form) -> Text:
    told = "" if form == "alone" else " ".join(record.text for record in records)
    if form == "record":
        return (Part(told, False),)
    noted = " ".join(note for record in records for note in notes(record))
    return (Part(told, False), Part(f" {noted}", True)) if told else (Part(noted, True),)


def encode(tokenizer: Any, text: Text, options: NoteOptions) -> tuple[list[int], list[float]]:
    """Token ids of a text and the weight of each token's prediction in the loss."""
    other = {"full": 1.0, "note": 0.0, "weighted": 1.0}[options.mask]
    own = options.weight if options.mask == "weighted" else 1.0
    ids: list[int] = []
    weights: list[float] = []
    for part in text:
        part_ids = tokenizer(part.text, add_special_tokens=not ids)["input_ids"]
        ids += part_ids
        weights += [own if part.note else other] * len(part_ids)
    return ids, weights


def weighted_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean of -log p(token | those before), each token weighed; logits (B, T, V), ids and weights (B, T)."""
    targets = ids[:, 1:].masked_fill(weights[:, 1:] == 0, IGNORED)
    losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum().clamp_min(torch.finfo(logits.dtype).tiny)
