"""Finished parts of a long audit, kept in a folder so that a run that was stopped goes on; and the peak of memory of a part.

A part is a JSON file named after its key, in a folder named after the digest of all that determines it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

PERIOD = 0.02  # seconds between looks at the process's memory


class Ledger:
    """`do(key, make)` makes a part once. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, about: Mapping[str, Any]) -> None:
        self.digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        self._folder = None if folder is None else folder / self.digest[:16]
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def do(self, key: str, make: Callable[[], Any]) -> Any:
        """The part of this key, which must be JSON: from the folder, or made now and kept."""
        part = self.get(key)
        if part is None:
            part = make()
            self.put(key, part)
        return part

    def get(self, key: str) -> Any:
        """The part if it is there, None otherwise."""
        if self._folder is None:
            return None
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def put(self, key: str, part: Any) -> None:
        """Keep a part."""
        if self._folder is not None:
            temporary = self._path(key).with_suffix(".part")
            temporary.write_text(json.dumps(part), encoding="utf-8")
            temporary.replace(self._path(key))

    def clear(self) -> None:
        """Remove all parts, of other configurations too: the audit is complete."""
        if self._folder is not None:
            shutil.rmtree(self._folder.parent, ignore_errors=True)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / ("".join(c if c.isalnum() or c in "._" else "-" for c in key) + ".json")


class PeakMemory:
    """Within its context, how far memory in use rises above its start, in bytes; 0 where that is not known.

    That is the process's resident memory and, on a GPU, what tensors take there, looked at every PERIOD.
    """

    bytes = 0

    def __enter__(self) -> Self:
        self._start = _in_use()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self.bytes = max(self.bytes, _in_use() - self._start)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._watcher.join()
        self.bytes = max(self.bytes, _in_use() - self._start)


def _in_use() -> int:
    return _resident() + int(torch.cuda.memory_allocated())  # 0 without a GPU, or before it is used


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
