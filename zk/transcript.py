"""Fiat-Shamir transcript: what both sides have said so far, and the challenges that follow from it.

Every entry is framed (kind, label and data each with its length), so that no two dialogues have one encoding. The state is a
chain of SHA-512 digests; a challenge is 512 bits of it reduced modulo r, which is within 2^-256 of uniform.
"""

import hashlib

from zkaudit.zk.field import MODULUS


class Transcript:
    """Append with `absorb`, draw with `challenge`. The caller makes it, a protocol only borrows it."""

    def __init__(self, domain: bytes) -> None:
        self._state = hashlib.sha512(_framed(b"zkaudit transcript", domain)).digest()

    def absorb(self, label: bytes, data: bytes) -> None:
        """Append `data` under `label`."""
        self._append(b"absorb", label, data)

    def challenge(self, label: bytes) -> int:
        """A field element that depends on everything absorbed and drawn before."""
        self._append(b"challenge", label, b"")
        return int.from_bytes(hashlib.sha512(b"output" + self._state).digest(), "little") % MODULUS

    def _append(self, *parts: bytes) -> None:
        self._state = hashlib.sha512(self._state + _framed(*parts)).digest()


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)
