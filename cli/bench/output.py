"""Where results go: a JSON file, and numbers that a person reads."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zkaudit.zk.errors import BadInput


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Give `parser` --json."""
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the result there")


def check_writable(path: Path | None) -> None:
    """BadInput if `path` cannot be written: said before minutes of measuring."""
    if path is None:
        return
    if path.is_dir():
        raise BadInput(f"{path} is a folder; --json needs a file name")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: the folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"cannot write {path}: permission denied")


def write_json(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write `result`, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n")


def seconds_text(seconds: float) -> str:
    """Three figures, in seconds, milliseconds or microseconds."""
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def bytes_text(count: int) -> str:
    """Three figures, in B, kB, MB or GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"
