"""Numbers as a reader wants them: values with intervals, durations, sizes, times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ABSENT = "–"


@dataclass(frozen=True)
class Interval:
    """A value and, where known, its confidence interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval; the value itself where none is known."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    @property
    def is_bounded(self) -> bool:
        """Whether an interval is known at all."""
        return self.low is not None and self.high is not None

    @property
    def has_width(self) -> bool:
        """Whether there is an interval worth showing: one of no width comes from too few observations."""
        return self.low is not None and self.high is not None and self.low < self.high


def interval(raw: Any) -> Interval | None:
    """What a result has for a value: a number, {"value", "low", "high"}, or nothing."""
    if isinstance(raw, dict):
        return None if raw.get("value") is None else Interval(raw["value"], raw.get("low"), raw.get("high"))
    return None if raw is None else Interval(raw)


def decimal(value: float | None) -> str:
    """Two decimals; a share that only rounds to 0 or 1 is said to lie short of it."""
    if value is None:
        return ABSENT
    if 0.995 <= value < 1:
        return "> 0.99"
    if 0 < value < 0.005:
        return "< 0.01"
    return f"{value:.2f}"


def significant(value: float | None) -> str:
    """Four significant digits, integers as they are."""
    if value is None:
        return ABSENT
    return f"{int(value):,}".replace(",", " ") if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def ratio(value: float | None) -> str:
    """Two significant digits."""
    if value is None:
        return ABSENT
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def sentence(text: str) -> str:
    """With a capital first and a full stop last."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def duration(seconds: float | None) -> str:
    """Of a run."""
    if seconds is None:
        return ABSENT
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.05 or seconds == 0 else "< 0.1 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float | None) -> str:
    """Bytes, in binary units."""
    if count is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"


def moment(created: str) -> str:
    """An ISO time to the minute, in UTC; anything else as it is."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    if time.tzinfo is None:
        return f"{time:%Y-%m-%d %H:%M}"
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
