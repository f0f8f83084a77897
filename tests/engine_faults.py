"""Blinders that kill the process which draws from them: a worker lost in the middle of its work, at a known place."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from zkaudit.zk.channel import Blinder


class Fatal(Blinder):
    """Its children for segments kill their process at their first draw, until that has happened `deaths` times.

    Deaths are counted in a folder, which all processes share. What else is drawn is as from a Blinder of the same seed.
    """

    def __init__(self, seed: bytes, graves: Path, deaths: int) -> None:
        super().__init__(seed)
        self.graves, self.deaths = graves, deaths

    def child(self, label: str) -> Blinder:
        child = super().child(label)
        if label == "data" or label.startswith("weights"):
            return child
        return _Dying(child, self.graves, self.deaths)


class _Dying(Blinder):
    def __init__(self, inner: Blinder, graves: Path, deaths: int) -> None:
        super().__init__(None)
        self.inner, self.graves, self.deaths = inner, graves, deaths

    def scalars(self, count: int) -> Any:
        if any(self._taken(number) for number in range(self.deaths)):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.scalars(count)

    def _taken(self, number: int) -> bool:
        """Whether this process got this grave: of several that die at once, one."""
        try:
            (self.graves / str(number)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
