"""Large arrays on their way to a GPU: copied to page-locked memory by several threads, and sent from there while the next
piece is copied. The driver's own copy takes one thread, which also waits for the pages of files that are mapped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from zkaudit.zk.backend import core

LARGE = 1 << 22  # bytes from which it pays
PIECE = 1 << 25  # bytes that are copied at a time
SHARE = 1 << 20  # bytes that a thread copies, at least


class Staging:
    """Two pieces of page-locked memory, used in turn. `xp` is CuPy."""

    def __init__(self, xp: Any, pinned: Any) -> None:
        self._xp = xp
        self._buffers = [pinned((PIECE,), np.uint8) for _ in range(2)]
        self._sent: list[Any] = [None, None]
        self._threads = core.threads()
        self._pool = ThreadPoolExecutor(self._threads)

    def put(self, array: Any) -> Any:
        """A copy of a contiguous host array on the GPU."""
        out = self._xp.empty(array.shape, array.dtype)
        source, target = array.reshape(-1).view(np.uint8), out.reshape(-1).view(np.uint8)
        stream = self._xp.cuda.get_current_stream()
        for i, begin in enumerate(range(0, len(source), PIECE)):
            piece = source[begin : begin + PIECE]
            buffer = self._buffers[i % 2][: len(piece)]
            if self._sent[i % 2] is not None:
                self._sent[i % 2].synchronize()
            self._copy(buffer, piece)
            target[begin : begin + PIECE].set(buffer, stream=stream)
            self._sent[i % 2] = stream.record()
        return out

    def _copy(self, to: Any, source: Any) -> None:
        share = max(SHARE, -(-len(source) // self._threads))
        parts = [slice(begin, begin + share) for begin in range(0, len(source), share)]
        list(self._pool.map(lambda part: np.copyto(to[part], source[part]), parts))
