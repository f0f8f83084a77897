"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """The CPU's name and how many cores there are."""
    return f"{_processor()}, {os.cpu_count()} cores"


def lanes() -> str:
    """The native code's lanes in this process: "ifma" or "scalar"."""
    from zkaudit.zk.backend import core

    return "ifma" if core.__name__.endswith("_ifma") else "scalar"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
