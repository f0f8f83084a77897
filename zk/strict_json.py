"""JSON from strangers: nothing that nests so deeply that the parser's recursion could overflow the stack.

Python's own limit does not help where a program has raised it beyond what its stack can hold, as py_ecc does."""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 2048  # brackets that are open at a time, those in strings among them
BRACKETS = re.compile(rb"[\[\]{}]")


def loads(data: bytes) -> Any:
    """json.loads; ValueError for what nests too deeply, too."""
    opened = data.count(b"[") + data.count(b"{")
    if opened > DEEPEST:
        depth = 0
        for bracket in BRACKETS.finditer(data):
            depth += 1 if bracket.group() in b"[{" else -1
            if depth > DEEPEST:
                raise ValueError("it nests too deeply")
    return json.loads(data)
