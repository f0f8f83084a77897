"""A progress bar on stderr: one line that redraws itself, and nothing at all when stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

WIDTH = 30
INTERVAL = 0.1  # seconds between two redraws


class ProgressBar:
    """Call it with what is being done and the fraction done, in [0, 1]; leave its context to clear the line."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._drawn_at = 0.0
        self._what = ""

    def __call__(self, what: str, fraction: float) -> None:
        now = time.monotonic()
        if not self._shown or (what == self._what and fraction < 1 and now - self._drawn_at < INTERVAL):
            return
        self._drawn_at, self._what = now, what
        filled = round(WIDTH * min(max(fraction, 0.0), 1.0))
        self._write(f"[{'#' * filled}{'.' * (WIDTH - filled)}] {fraction:4.0%} {what}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown:
            self._write("")

    def _write(self, text: str) -> None:
        # Carriage return, then "erase to the end of the line".
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
