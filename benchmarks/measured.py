"""Reads what `zkaudit bench` and scaling.py left in the results folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Result = dict[str, Any]

# What a curve is drawn over: the name of the axis, and the figure in a result.
CURVES = {
    "parameters": ("parameters", "parameters"),
    "batch": ("samples a step", "batch"),
    "depth": ("layers", "layers"),
    "steps": ("steps in the proof", "steps"),
    "threads": ("threads", "threads"),
}


def load(results: Path, name: str) -> Result | None:
    """One result, or None if it was not measured."""
    path = results / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def curve(results: Path, name: str) -> list[Result]:
    """The points of a curve in order."""
    figure = CURVES[name][1]
    return sorted((json.loads(path.read_text()) for path in results.glob(f"{name}-*.json")), key=lambda point: point[figure])


def later_update(point: Result) -> float:
    """Seconds an update in the last segment: what a long run costs, without what is paid once a chain."""
    segments, steps = point["segments"], point["steps"]
    length = -(-steps // segments)
    return point["segment_seconds"][-1] / (steps - length * (segments - 1))
