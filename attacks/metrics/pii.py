"""How much personal data an attack recovers: by kind of value, from stated guesses and from the text of recovered sequences.

For each true value, over all guesses of its kind and all recovered texts:

    exact        the value itself is among them
    normalised   the same after normalisation: digits only of a phone, card or birth date; case and spaces of the others
    similarity   1 - edit distance / length, the best (Levenshtein; for a text, of its best substring)
    digits       share of the value's digits that stand at their place, the best; kinds made of digits only
    linkage      the right value (normalised) with its owner: the owner's likeliest guess, or both in one recovered text

and `precision` is the share of the distinct guesses of the kind that are right (normalised), so that listing everything shows.
Guesses that name another owner count for exact and normalised only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from zkaudit.attacks.attack import Secret
from zkaudit.attacks.metrics.bootstrap import Sample, mean_of

DIGITS = ("phone", "card", "birth")  # kinds of which only the digits matter
BETWEEN = r"[\s().+/-]{0,2}"  # what may stand between the digits of one number


def normalise(kind: str, value: str) -> str:
    """What of a value matters."""
    return re.sub(r"\D", "", value) if kind in DIGITS else " ".join(value.casefold().split())


def stands_in(value: str, text: str) -> bool:
    """Whether the text holds the value and not merely a longer word or number that contains it."""
    return bool(value) and re.search(_bounded(re.escape(value), value), text) is not None


def stands_in_normalised(kind: str, value: str, text: str) -> bool:
    """The same up to normalisation."""
    plain = normalise(kind, value)
    if kind in DIGITS:
        return bool(plain) and re.search(_bounded(BETWEEN.join(plain), plain), text) is not None
    return stands_in(plain, normalise(kind, text))


def _bounded(pattern: str, value: str) -> str:
    before, after = (r"\d" if end.isdigit() else r"\w" for end in (value[0], value[-1]))
    return f"(?<!{before}){pattern}(?!{after})"


def similarity(value: str, guess: str) -> float:
    """1 - Levenshtein distance / the longer's length."""
    longer = max(len(value), len(guess))
    return 1 - int(_distances(value, guess, anywhere=False)[-1]) / longer if longer else 1.0


def similarity_within(value: str, text: str) -> float:
    """1 - edit distance to the nearest substring of `text` / the value's length."""
    return 1 - int(_distances(value, text, anywhere=True).min()) / len(value)


def _distances(value: str, text: str, anywhere: bool) -> np.ndarray:
    """Edit distance of the value to every prefix of the text (`anywhere`: to the nearest substring that ends there)."""
    letters = np.array([ord(letter) for letter in text], dtype=np.int64)
    at = np.arange(len(text) + 1)
    row = np.zeros(len(text) + 1, dtype=np.int64) if anywhere else at
    for count, letter in enumerate(value, 1):
        changed = row[:-1] + (letters != ord(letter))
        step = np.concatenate([[count], np.minimum(row[1:] + 1, changed)])
        row = np.minimum.accumulate(step - at) + at  # insertions from the left
    return row


def digit_share(value: str, guess: str) -> float:
    """Share of the digits of `value` that `guess` has at the same place."""
    own, other = (re.sub(r"\D", "", text) for text in (value, guess))
    return sum(a == b for a, b in zip(own, other, strict=False)) / len(own) if own else 0.0


def value_metrics(
    kind: str, truth: Sequence[tuple[str, str]], secrets: Sequence[Secret], texts: Sequence[str]
) -> dict[str, Sample]:
    """Metrics of one kind; `truth` holds (owner, value), units are the true values."""
    guesses = [secret for secret in secrets if secret.kind == kind]
    plain = [normalise(kind, guess.value) for guess in guesses]
    wanted = {normalise(kind, value) for _, value in truth}
    per_value = [_of_value(kind, owner, value, guesses, plain, texts) for owner, value in truth]
    metrics = {name: mean_of([result[name] for result in per_value]) for name in ("exact", "normalised", "similarity")}
    if kind in DIGITS:
        metrics["digits"] = mean_of([result["digits"] for result in per_value])
    metrics["linkage"] = mean_of([result["linkage"] for result in per_value])
    metrics["precision"] = mean_of([guess in wanted for guess in sorted(set(plain))])
    return metrics


def _of_value(
    kind: str, owner: str, value: str, guesses: Sequence[Secret], plain: Sequence[str], texts: Sequence[str]
) -> dict[str, float]:
    possible = [guess.value for guess in guesses if not guess.owner or same_owner(guess.owner, owner)]
    holding = [text for text in texts if stands_in_normalised(kind, value, text)]
    runs = [run for text in texts for run in re.findall(rf"\d(?:{BETWEEN}\d)*", text)] if kind in DIGITS else []
    alike = [similarity(value, guess) for guess in possible] + [similarity_within(value, text) for text in texts]
    return {
        "exact": any(guess.value == value for guess in guesses) or any(stands_in(value, text) for text in texts),
        "normalised": normalise(kind, value) in plain or bool(holding),
        "similarity": max(alike, default=0.0),
        "digits": max((digit_share(value, guess) for guess in [*possible, *runs]), default=0.0),
        "linkage": linked(kind, owner, value, guesses) or any(stands_in_normalised("name", owner, text) for text in holding),
    }


def linked(kind: str, owner: str, value: str, guesses: Sequence[Secret]) -> bool:
    """Whether the likeliest guess of this kind for this owner is the value (normalised)."""
    own = [guess for guess in guesses if owner and guess.kind == kind and same_owner(guess.owner, owner)]
    return bool(own) and normalise(kind, max(own, key=lambda guess: guess.score).value) == normalise(kind, value)


def same_owner(a: str, b: str) -> bool:
    """Whether two names are the same up to case and spaces."""
    return normalise("name", a) == normalise("name", b)
