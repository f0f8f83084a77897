"""How often a segment may lose its worker before the run is given up."""

from __future__ import annotations

from collections import Counter

from zkaudit.zk.errors import BadInput

ATTEMPTS = 3  # a machine that fails is bad luck; three in a row are more likely a segment that takes too much memory


class Attempts:
    """Counts lost workers by segment."""

    def __init__(self) -> None:
        self._lost: Counter[int] = Counter()

    def lost(self, segment: int, how: str) -> None:
        """Its worker is gone, `how` says what is known of it; BadInput if it was the last attempt."""
        self._lost[segment] += 1
        if self._lost[segment] >= ATTEMPTS:
            raise BadInput(
                f"segment {segment} was given up: {ATTEMPTS} workers were lost while they proved it, the last one {how}; "
                "if memory ran out, use fewer workers or shorter segments"
            )
