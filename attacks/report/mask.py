"""Texts without the personal data in them, so that a report can be handed on.

Digits become #, so that the format stays; words of known values and e-mail addresses become blocks of a fixed length.
"""

from __future__ import annotations

import re
from collections.abc import Collection

BLOCK = "█████"
DIGIT = "#"

_EMAIL = re.compile(r"[^\s@<>\"']+\s?@\s?[^\s@<>\"']+")
_NUMBER = re.compile(r"\+?\d(?:[\s().,/:_-]{0,3}\d){2,}")  # phones, cards, dates, also with a blank after each digit
_WORD = re.compile(r"[^\W_]+")
_DIGIT = re.compile(r"\d")


def mask(text: str, values: Collection[str] = ()) -> str:
    """`text` with every word of `values` hidden, and whatever looks like an e-mail address or has three digits in a row.

    Words of values count wherever they stand, in any case, so that a half-right recovery does not show the other half.
    """
    text = _EMAIL.sub(f"{BLOCK}@{BLOCK}", text)
    words = {word for value in values for word in _WORD.findall(value)}
    if words:
        longest_first = sorted(words, key=lambda word: (-len(word), word))
        known = re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, longest_first))})(?![^\W_])", re.IGNORECASE)
        text = known.sub(lambda found: _hidden(found.group()), text)
    return _NUMBER.sub(lambda found: _DIGIT.sub(DIGIT, found.group()), text)


def is_hidden(word: str) -> bool:
    """Whether a word of a masked text is one that was hidden."""
    return DIGIT in word or BLOCK in word


def _hidden(word: str) -> str:
    return _DIGIT.sub(DIGIT, word) if word.isdigit() else BLOCK
