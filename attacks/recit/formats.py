"""What the attacker's own records teach: how a value of each kind is written, and where in a text it and its owner stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

from zkaudit.attacks.lab.records import Record

FEW = 8  # spellings: a kind with no more of them is decoded token by token within them
OWNER, VALUE = "\x00", "\x01"


@dataclass(frozen=True)
class Format:
    """Of a kind. `spelled` holds the sequences of token classes seen ("digit", or the id itself) if they are few, else nothing.

    `pattern` matches a value at the start of a text: runs of digits and of letters may be of any length where spellings vary.
    """

    kind: str
    spelled: tuple[tuple[int, ...], ...]
    pattern: re.Pattern[str]
    digits: tuple[int, ...]  # ids of the tokens that are one digit
    longest: int  # tokens

    def allowed(self, so_far: Sequence[int]) -> Sequence[int] | None:
        """As `decoding.Allowed`: what may come next in a value, any token for a kind of many spellings."""
        if not self.spelled:
            return [] if len(so_far) >= self.longest else None
        own = tuple(DIGIT if token in self.digits else token for token in so_far)
        following = {classes[len(own)] for classes in self.spelled if len(classes) > len(own) and classes[: len(own)] == own}
        found = following - {DIGIT}
        return sorted(found | (set(self.digits) if DIGIT in following else set()))

    def read(self, text: str) -> str | None:
        """The value that a decoded text begins with."""
        match = self.pattern.match(text.lstrip())
        return match.group() if match else None


DIGIT = -1


def learn(auxiliary: Sequence[Record], tokenizer: Any) -> dict[str, Format]:
    """The format of every kind in the attacker's records."""
    values: dict[str, list[str]] = {}
    for record in auxiliary:
        for kind, value in record.pii.items():
            values.setdefault(kind, []).append(value)
    digits = tuple(i for i in range(len(tokenizer)) if re.fullmatch(r"[0-9]", tokenizer.decode([i])))
    return {kind: _format(kind, known, tokenizer, digits) for kind, known in values.items()}


def _format(kind: str, known: Sequence[str], tokenizer: Any, digits: tuple[int, ...]) -> Format:
    encoded = [tokenizer(f" {value}", add_special_tokens=False)["input_ids"] for value in known]
    spelled = {tuple(DIGIT if token in digits else token for token in ids) for ids in encoded}
    longest = max(map(len, encoded))
    fixed = len(spelled) <= min(FEW, len(known))
    shapes = sorted({_shape(value, fixed) for value in known}, key=len, reverse=True)
    return Format(kind, tuple(sorted(spelled)) if fixed else (), re.compile("|".join(shapes)), digits, longest)


def _shape(value: str, exact: bool) -> str:
    """A regular expression for values that look like this one."""
    parts = []
    for cls, run in groupby(value, key=lambda c: r"\d" if c.isdigit() else r"[^\W\d_]" if c.isalpha() else c):
        length = len(list(run))
        if cls in (r"\d", r"[^\W\d_]"):
            parts.append(cls + (f"{{{length}}}" if exact else "+"))
        else:
            parts.append(re.escape(cls) * length)
    return "".join(parts)


@dataclass(frozen=True)
class Frame:
    """The text of a record up to a value: `before` the owner's name, `between` it and the value; `named` if there is a name."""

    kind: str
    before: str
    between: str
    named: bool

    def fill(self, owner: str) -> str:
        """The text up to the value for a person."""
        return f"{self.before}{owner if self.named else ''}{self.between}".rstrip()


def frames(auxiliary: Sequence[Record]) -> list[Frame]:
    """The different frames of the attacker's records; only the first value of a text, what precedes another varies."""
    found: dict[Frame, None] = {}
    for record in auxiliary:
        placed = [(record.text.find(value), kind) for kind, value in record.pii.items() if value in record.text]
        if not placed:
            continue
        at, kind = min(placed)
        lead = record.text[:at]
        before, name, between = lead.partition(record.owner) if record.owner else (lead, "", "")
        found.setdefault(Frame(kind, before, between, bool(name)))
    return list(found)


@dataclass(frozen=True)
class Fit:
    """A text seen through a frame: whose record it is, the text up to the value, and the share of characters that agree."""

    frame: Frame
    owner: str
    prefix: str
    agreement: float


def fit(text: str, known: Sequence[Frame], least: float = 0.6, longest: int = 40) -> Fit | None:
    """The frame that fits a recovered text best, errors allowed; None if not even `least` of the characters agree."""
    best: Fit | None = None
    for frame in known:
        for length in range(1, longest) if frame.named else (0,):
            size = len(frame.before) + length + len(frame.between)
            if size > len(text) + 2:
                break
            start = text[: len(frame.before)]
            rest = text[len(frame.before) + length : size]
            owner = text[len(frame.before) : len(frame.before) + length]
            if frame.named and (owner != owner.strip() or not owner):
                continue
            literal = len(frame.before) + len(frame.between)
            agreement = (_same(start, frame.before) + _same(rest, frame.between)) / max(1, literal)
            if agreement >= least and (best is None or agreement > best.agreement):
                best = Fit(frame, owner, text[:size].rstrip(), agreement)
    return best


def _same(a: str, b: str) -> int:
    if a == b:
        return len(b)
    return sum(block.size for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())
