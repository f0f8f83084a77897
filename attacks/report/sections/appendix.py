"""What is needed to run the audit again: configuration, seeds, versions and hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zkaudit.attacks.report.elements import Child, Row, code, table, tag


def appendix(result: Mapping[str, Any]) -> list[Child]:
    """Tables of keys and values."""
    content: list[Child] = []
    rows: list[Row] = []
    for section, entries in result.get("config", {}).items():
        if entries:
            rows += [Row([section]), *(Row([tag("code", key), code(_text(value))]) for key, value in entries.items())]
    if rows:
        content.append(table("Configuration", ["Key", "Value"], rows))
    for caption, key, head in (("Seeds", "seeds", "Use"), ("Versions", "environment", "Part")):
        entries = result.get(key, {})
        if entries:
            content.append(table(caption, [head, "Value"], [[name, code(_text(value))] for name, value in entries.items()]))
    hashes = result.get("hashes", {})
    if hashes:
        content.append(
            table("SHA-256", ["Of", "Digest"], [[name, tag("code", value, class_="hash")] for name, value in hashes.items()])
        )
    return content


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
