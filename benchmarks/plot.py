"""Draws the curves of docs/performance.md from the results folder, one picture an idea.

python benchmarks/plot.py [--results FOLDER] [--images FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator
from measured import CURVES, Result, curve, later_update, load

ROOT = Path(__file__).parent.parent
MEASURED, LIMIT = "#1f5fa8", "#c05a1c"


def main() -> None:
    """Draw what has been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--images", type=Path, default=ROOT / "docs/images")
    options = parser.parse_args()
    options.images.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams.update(
        {"svg.hashsalt": "zkaudit", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
    )
    for name in CURVES:
        points = curve(options.results, name)
        if points:
            save(options.images / f"{name}.svg", lambda axes, name=name, points=points: draw_curve(axes, name, points))
    run = load(options.results, "ten-million") or load(options.results, "digits")
    if run:
        save(options.images / "phases.svg", lambda axes: draw_phases(axes, run))


def save(path: Path, draw: Callable[[Axes], None]) -> None:
    """One picture; its bytes depend on the results alone."""
    figure, axes = plt.subplots(figsize=(7, 4))
    draw(axes)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


def draw_curve(axes: Axes, name: str, points: Sequence[Result]) -> None:
    """Seconds an update over one figure, measured and limit; for parameters the last segment beside the whole run."""
    label, figure = CURVES[name]
    x = [point[figure] for point in points]
    whole = [point["seconds_per_update"] for point in points]
    axes.plot(x, whole, "o-", color=MEASURED, label="measured, whole run")
    if name == "parameters":
        axes.plot(x, [later_update(point) for point in points], "s--", color=MEASURED, label="measured, second segment")
    axes.plot(x, [point["limit_seconds_per_update"] for point in points], "o:", color=LIMIT, label="limit, whole run")
    axes.set_xscale("log", base=2 if name != "parameters" else 10)
    axes.set_xticks(x, [thousands(value) for value in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(label)
    axes.set_ylabel("seconds an update")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)


def draw_phases(axes: Axes, run: Result) -> None:
    """Seconds an update of each phase beside its limit."""
    names = list(run["phases"])[::-1]
    places = range(len(names))
    axes.barh(
        [i + 0.2 for i in places], [run["phases"][n] / run["steps"] for n in names], 0.4, color=MEASURED, label="measured"
    )
    limits = [run["limit_phases"].get(n, 0) / run["steps"] for n in names]
    axes.barh([i - 0.2 for i in places], limits, 0.4, color=LIMIT, label="limit")
    axes.set_yticks(list(places), names)
    axes.set_xlabel(
        f"seconds an update ({thousands(run['parameters'])} parameters, batch {run['batch']}, {run['steps']} steps)"
    )
    axes.legend(frameon=False)


def thousands(value: float) -> str:
    """A short number: 17k, 9.98M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


if __name__ == "__main__":
    main()
