"""Staged copies are copies: with numpy in the place of CuPy, in pieces that do not divide the array."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from zkaudit.zk.gpu import staging
from zkaudit.zk.gpu.staging import Staging


class Device(np.ndarray[Any, Any]):
    """What `set` leaves unread until the stream is waited for."""

    waiting: ClassVar[list[Any]] = []

    def set(self, source: Any, stream: Any) -> None:
        Device.waiting.append((self, source))


class Stream:
    def record(self) -> Any:
        mine, Device.waiting = Device.waiting, []

        def synchronize() -> None:
            while mine:
                target, source = mine.pop()
                np.copyto(target.view(np.ndarray), source)

        events.append(synchronize)
        return SimpleNamespace(synchronize=synchronize)


events: list[Any] = []


@pytest.mark.parametrize("size", [1, 1000, 1024, 5000])
def test_a_piece_is_not_reused_before_it_is_sent(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PIECE", 1024)
    monkeypatch.setattr(staging, "SHARE", 100)
    xp = SimpleNamespace(
        empty=lambda shape, dtype: np.empty(shape, dtype).view(Device),
        cuda=SimpleNamespace(get_current_stream=Stream),
    )
    array = np.random.default_rng(size).integers(0, 1 << 32, (size, 3), np.uint32)
    sender = Staging(xp, np.empty)
    for _ in range(3):
        out = sender.put(array)
        for synchronize in events:
            synchronize()
        assert np.array_equal(out.view(np.ndarray), array)
        array = array + np.uint32(1)
