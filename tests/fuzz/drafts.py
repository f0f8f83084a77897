"""A draft: the parts of a proof file apart. Whatever is in them, they can be put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fuzz.seeds import Item, Seed
from zkaudit.zk.proof_file import MAGIC, SECTIONS
from zkaudit.zk.statement import VERSION


@dataclass
class Draft:
    """Header text and the four other sections; where the proof's items begin, if that is known."""

    header: bytes
    data: bytes
    start: bytes
    end: bytes
    proof: bytes
    items: Sequence[Item] = ()

    @staticmethod
    def of(seed: Seed) -> Draft:
        sections = [data for _, data in seed.file.statement.sections()]
        return Draft(*sections, seed.file.proof, seed.items)

    @staticmethod
    def read(data: bytes) -> Draft | None:
        """The parts of a file whose lengths fit; None for other bytes."""
        at, sections = len(MAGIC) + 4, []
        for _ in SECTIONS:
            size = int.from_bytes(data[at : at + 8], "little")
            if size > len(data) - at - 8:
                return None
            sections.append(data[at + 8 : at + 8 + size])
            at += 8 + size
        return Draft(*sections)

    def sections(self) -> list[bytes]:
        return [self.header, self.data, self.start, self.end, self.proof]

    def fields(self) -> dict[str, Any] | None:
        """The header's fields; None if it is no JSON object."""
        try:
            fields = json.loads(self.header)
        except (ValueError, RecursionError):
            return None
        return fields if isinstance(fields, dict) else None

    def encode(self) -> bytes:
        body = b"".join(len(section).to_bytes(8, "little") + section for section in self.sections())
        return MAGIC + VERSION.to_bytes(4, "little") + body


def canonical(fields: dict[str, Any]) -> bytes:
    """Fields of any types as a header in canonical form."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
