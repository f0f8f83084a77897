"""The verdicts of the reference verifier and the fast one on the same bytes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain

from mutations import MUTATIONS, Original

from zkaudit.zk import reference
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.proof_file import decode
from zkaudit.zk.verifier import verify_segment

LAST_CHECK = "the final equation does not hold"


def fast(file: bytes) -> bool:
    """The fast verifier's verdict; anything but its two errors escapes."""
    try:
        verify_segment(decode(file, "test"))
    except (BadInput, InvalidProof):
        return False
    return True


def slow(file: bytes) -> str:
    """Why the reference verifier refuses, nothing if it accepts; anything but its one error escapes."""
    try:
        reference.verify_bytes(file)
    except reference.Refused as error:
        return str(error)
    return ""


@dataclass
class Tally:
    """What came of the cases of one kind."""

    cases: int = 0
    accepted: int = 0
    to_the_end: int = 0
    """Refused by nothing but the final equation."""
    unchanged: int = 0
    """The mutation left the file as it was."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, name.name) + getattr(other, name.name) for name in fields(self)))


def compare(originals: list[Original], rng: random.Random) -> Iterator[tuple[str, Tally]]:
    """A mutation's name and what came of it, each once, then endlessly; AssertionError with the file if verdicts differ."""
    kinds = [kind for kind, weight in MUTATIONS.items() for _ in range(weight)]
    for kind in chain(MUTATIONS, iter(lambda: rng.choice(kinds), None)):
        original = rng.choice(originals)
        file = kind(original, rng)
        reason = slow(file)
        assert fast(file) == (reason == ""), f"{kind.__name__}: the reference says {reason or 'valid'!r} of {file.hex()}"
        yield kind.__name__, Tally(1, int(not reason), int(reason == LAST_CHECK), int(file == original.file))
